"""Checkpoints as training scripts write them: which part holds the weights, and what lies beside it."""

import argparse
import collections
import datetime
import enum
import pathlib
import warnings

import numpy as np
import pytest
from harmless import harmless
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_archives import Made, Named, torch_zip, weights

from flaxmobile.weights import formats


def read(tmp_path, root, **options):
    path = tmp_path / 'checkpoint.pth'
    path.write_bytes(torch_zip(root))
    return formats.read(path, **options)


def said(tmp_path, root, **options):
    """What is read, and the warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        file = read(tmp_path, root, **options)
    (message,) = [str(warning.message) for warning in caught] or ['']
    assert '\n' not in message
    return file, message.removeprefix(f'{tmp_path / "checkpoint.pth"}: ')


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


class Colour(enum.Enum):
    RED = 1


LONE = np.array([0.5], np.float32)
BESIDE = {
    'loss': LONE,
    'args': argparse.Namespace(lr=0.1, sizes=[1, 2], inner=argparse.Namespace(a=None)),
    'best': np.float64(3.5),
    'numpy1': Made('numpy.core.multiarray.scalar', Named('numpy.dtype'), b'abc'),
    'counts': collections.defaultdict(list, {'a': [1], (1, 2): {3}}),
    'counter': collections.Counter('abc'),
    'seen': {1, 2, 3},
    'frozen': frozenset({1}),
    'path': pathlib.PurePosixPath('/data/imagenet'),
    'when': datetime.datetime(2026, 1, 2),
    'colour': Colour.RED,
    'shape': Made('torch.Size', (1, 2)),
    'device': Made('torch.device', 'cuda', 0),
    'dtype': Named('torch.float32'),
    'numpy_array': np.random.default_rng(0).integers(9, size=4, dtype=np.int16).view(np.recarray),
    'rng': ('MT19937', [np.zeros(5, np.int64)], 3, 0.5),
    'optimizer': {'state': {0: {'step': LONE, 'exp_avg': LONE}}, 'param_groups': [{'lr': 0.1, 'params': [0]}]},
    'scheduler': Made('torch.optim.lr_scheduler.StepLR', 3),
    'complex': 1 + 2j,
    'bytes': b'\0\1',
    'module': Made('torch.nn.modules.linear.Linear', {'weight': LONE}),
    'program': Made('posix.system', 'false'),
}
PLAIN = {'epoch': 3, 'arch': 'mobilenetv2_100', 'metric': 71.5, 'amp': False}


@pytest.mark.parametrize('protocol', [2, 4, 5])
@pytest.mark.parametrize('name', BESIDE)
def test_what_is_no_tensor_is_passed_over_and_named(tmp_path, name, protocol):
    path = tmp_path / 'checkpoint.pth'
    path.write_bytes(torch_zip({**PLAIN, name: BESIDE[name], 'state_dict': weights()}, protocol))
    with pytest.warns(UserWarning, match=rf'^{path}: passed over {name}( \([a-z_A-Z0-9.]+\))?$'):
        formats.read(path)
    with harmless(), warnings.catch_warnings(action='ignore'):
        file = formats.read(path)
    same(file.tensors, weights())
    assert file.metadata == PLAIN


def test_all_of_it_in_one_line(tmp_path):
    file, message = said(tmp_path, {**BESIDE, **PLAIN, 'state_dict': weights()})
    same(file.tensors, weights())
    assert message.startswith('passed over loss, args (argparse.Namespace), best (numpy')
    assert message.endswith(f' and {len(BESIDE) - 10} more')
    assert len(message) < 600


def test_nothing_is_said_where_nothing_is_passed_over(tmp_path):
    for root in (weights(), {'model': weights(), **PLAIN, 'scaler': None}):
        file, message = said(tmp_path, root)
        same(file.tensors, weights())
        assert message == ''


BESIDES = st.recursive(
    st.sampled_from([1, 'text', None, *BESIDE.values()]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.sampled_from(['a', 'b', 3, (1,), None]), inner, max_size=3)
        | st.builds(lambda value: argparse.Namespace(value=value), inner)
        | st.builds(lambda value: [value] * 50, inner)  # shared, not copied
    ),
    max_leaves=8,
)


@given(before=BESIDES, after=BESIDES, protocol=st.sampled_from([2, 3, 4, 5]))
@settings(max_examples=60, deadline=None)
def test_whatever_lies_beside_the_weights(before, after, protocol, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / 'beside.pth'
    path.write_bytes(torch_zip({'before': before, 'state_dict': weights(40), 'after': [after, before]}, protocol))
    with harmless(), warnings.catch_warnings(action='ignore'):
        file = formats.read(path)
    same(file.tensors, weights(40))


def tensors_of(name, *more):
    """A tensor that a name makes which is not known."""
    return Made(name, Made('storage', LONE), 0, (1,), (1,), *more)


@pytest.mark.parametrize(
    ('value', 'name'),
    [
        (tensors_of('torch._utils._rebuild_tensor_v3', False, None), 'torch._utils._rebuild_tensor_v3'),
        (tensors_of('torch._utils._rebuild_qtensor'), 'torch._utils._rebuild_qtensor'),
        (Made('torch._utils._rebuild_meta_tensor_no_storage', Named('torch.float32'), (1,)), 'torch._utils._rebuild_m'),
        (Made('mine.Quantized', [{'deep': (LONE,)}]), 'mine.Quantized'),
        (Made('mine.Outer', Made('torch._tensor._rebuild_from_type_v2', 1)), 'torch._tensor._rebuild_from_type_v2'),
        (LONE.view(np.recarray), r'numpy\._core\.multiarray\._reconstruct'),
        (Made('torch.nn.modules.linear.Linear', 3), 'torch.nn.modules.linear.Linear'),
    ],
)
def test_weights_that_need_what_is_not_known_are_refused_by_its_name(tmp_path, value, name):
    for root in (weights() | {'odd.weight': value}, {'state_dict': {'odd.weight': value, **weights()}}):
        with pytest.raises(ValueError, match=rf'checkpoint\.pth: refused: it asks for {name}'):
            read(tmp_path, root)
    with pytest.raises(ValueError, match=r'checkpoint\.pth: refused: it asks for '):
        read(tmp_path, {'model': value if 'Linear' not in name else Made('mine.Net', LONE), 'statistics': weights()})


def test_a_key_that_is_no_name(tmp_path):
    file, message = said(tmp_path, weights() | {3: LONE, (1, 2): LONE, 'note': [1]})
    same(file.tensors, weights())
    assert message == 'passed over 3, a key, note'


@pytest.mark.parametrize(
    ('root', 'chosen'),
    [
        ({'net': weights(), 'loss': LONE}, 'net'),
        ({'net': weights(1), 'loss': LONE}, 'net'),
        ({'loss': LONE, 'state_dict': weights(1)}, 'state_dict'),
        ({'model': weights(9), 'criterion': weights(1)}, 'model'),
        ({'criterion': weights(1), 'net': weights(9), 'loss': LONE, 'accuracy': LONE}, 'net'),
        ({'teacher': weights(), 'model': weights(first=5)}, 'model'),
        ({'model': weights(), 'state_dict': weights()}, 'state_dict'),
        ({'model': {}, 'state_dict': {}, 'network': weights()}, 'network'),
        ({'model': {'temperature': LONE}, 'network': weights(9)}, 'network'),
    ],
)
def test_the_mapping_with_the_most_tensors_is_the_weights(tmp_path, root, chosen):
    same(said(tmp_path, root)[0].tensors, root[chosen])


def test_tensors_of_the_file_itself_go_before_a_smaller_mapping(tmp_path):
    file, message = said(tmp_path, weights(9) | {'extra': weights(2)})
    same(file.tensors, weights(9))
    assert message == 'took the outermost names, not extra'


@pytest.mark.parametrize(
    ('root', 'words'),
    [
        ({'generator': weights(9), 'discriminator': weights(6)}, 'generator of 9 tensors, discriminator of 6 tensors'),
        ({'model': weights(6), 'discriminator': weights(9)}, 'model of 6 tensors, discriminator of 9 tensors'),
        ({'a': weights(2), 'loss': LONE, 'accuracy': LONE}, 'a of 2 tensors, the outermost names of 2 tensors'),
        ({'model': weights(first=7), 'state_dict': weights()}, 'state_dict of 3 tensors, model of 3 tensors'),
        ({'model': weights(6), 'state_dict': weights(4)}, 'model of 6 tensors, state_dict of 4 tensors'),
        ({f'n{number}': weights() for number in range(99)}, 'n9 of 3 tensors and 89 more'),
    ],
)
def test_which_are_the_weights_is_not_guessed(tmp_path, root, words):
    with pytest.raises(ValueError, match=rf'checkpoint\.pth: holds several state dicts \(.*{words}\): save the one'):
        read(tmp_path, root)


@pytest.mark.parametrize('name', ['state_dict_ema', 'model_ema', 'ema', 'EMA.state_dict'])
def test_the_moving_average_is_taken_on_request(tmp_path, name):
    root = {'model': weights(), name: weights(first=10)}
    file, message = said(tmp_path, root)
    same(file.tensors, root['model'])
    assert message == f'took model, not the moving average {name} (ema=True, or init_ema=True of a run)'
    file, message = said(tmp_path, root, ema=True)
    same(file.tensors, root[name])
    assert message == f'took {name}, the moving average, not model'
    file, message = said(tmp_path, {name: weights(first=10), 'epoch': 3})
    same(file.tensors, root[name])
    assert message == f'took {name}, the moving average, as there are no other weights'


def test_other_state_dicts_are_named(tmp_path):
    others = {'teacher': weights(first=5), 'best_model': weights(first=6), 'loss': LONE}
    file, message = said(tmp_path, {**others, 'model': weights(), 'model_ema': weights(first=7)})
    same(file.tensors, weights())
    average = 'the moving average model_ema (ema=True, or init_ema=True of a run)'
    assert message == f'took model, not teacher, best_model, nor {average}; passed over loss'


def test_a_moving_average_one_level_down(tmp_path):
    """`updates` and `decay` as tensors beside it, as YOLO's and torch-ema's scripts keep it, or numbers, or nothing."""
    average = weights(first=10)
    for beside in ({'decay': LONE, 'updates': LONE}, {'decay': 0.99, 'collected': None}, {}):
        for inner in ('module', 'shadow'):
            root = {'state_dict': weights(), 'ema': {**beside, inner: average}}
            file, message = said(tmp_path, root, ema=True)
            same(file.tensors, average)
            left = '; passed over decay, updates' if 'updates' in beside else ''
            assert message == f'took ema.{inner}, the moving average, not state_dict{left}'
            file, message = said(tmp_path, root)
            same(file.tensors, weights())
            note = f'took state_dict, not the moving average ema.{inner} (ema=True, or init_ema=True of a run)'
            assert message == note
    with pytest.raises(ValueError, match=r'several state dicts \(ema\.module of 3 tensors, ema\.backup of 3 tensors\)'):
        read(tmp_path, {'ema': {'module': average, 'backup': weights()}}, ema=True)
    same(said(tmp_path, {'ema': average | {'extra': weights(2)}}, ema=True)[0].tensors, average)


def test_no_moving_average(tmp_path):
    with pytest.raises(ValueError, match=r'checkpoint\.pth: holds no moving average; it holds model of 3 tensors'):
        read(tmp_path, {'model': weights(), 'schema': {'a': 1}}, ema=True)
    with pytest.raises(
        ValueError, match=r'checkpoint\.pth: holds no moving average: it is one state dict of 3 tensors$'
    ):
        read(tmp_path, weights(), ema=True)
    with pytest.raises(ValueError, match=r'refused: it asks for mine\.ModelEma'):
        read(tmp_path, {'model': weights(), 'ema': Made('mine.ModelEma', LONE)}, ema=True)
    path = tmp_path / 'arrays.npz'
    np.savez(path, a=LONE)
    with pytest.raises(ValueError, match=r'arrays\.npz: holds no moving average: only a checkpoint of torch'):
        formats.read(path, ema=True)


def test_tied_and_expanded_tensors(tmp_path):
    """Tensors that share a storage are views of it; one that claims more than its storage has is refused."""
    shared = np.arange(6, dtype=np.float32)
    file = read(tmp_path, {'a': shared, 'b': shared})
    same(file.tensors, {'a': shared, 'b': shared})
    assert file.tensors['a'].base is not None
    assert np.shares_memory(file.tensors['a'], file.tensors['b'])
    wide = Made('torch._utils._rebuild_tensor_v2', Made('storage', LONE), 0, (10**9,), (0,), False, {})
    with pytest.raises(ValueError, match='claims more than is there'):
        read(tmp_path, {'a': wide})
