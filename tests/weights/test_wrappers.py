"""What training scripts wrap around a state dict: checkpoints, moving averages, prefixes; without torch."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from torch_archives import torch_zip
from two_blocks import arrays, assert_same_bits, filled, model, variables

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile import weights
from flaxmobile.runs.start import follow, load_init
from flaxmobile.training.config import load_config
from flaxmobile.weights import from_torch, to_torch
from flaxmobile.weights.torch_names import LAYOUTS, bare

__all__ = ['arrays', 'model', 'variables']  # Fixtures.


def prefixed(prefix, arrays, **more):
    return {f'{prefix}{name}': array for name, array in arrays.items()} | more


def shifted(arrays):
    return {name: np.add(array, 1, dtype=array.dtype, out=np.empty_like(array)) for name, array in arrays.items()}


AVERAGED = {'n_averaged': np.array(3)}
EMA = 'the moving average state_dict_ema (ema=True, or init_ema=True of a run)'


@pytest.mark.parametrize(
    ('wrap', 'said'),
    [
        (lambda arrays: prefixed('module.', arrays), "took the prefix 'module.' off all names"),
        (lambda arrays: prefixed('module._orig_mod.', arrays), "took the prefix 'module._orig_mod.' off all names"),
        (lambda arrays: prefixed('_orig_mod.module.', arrays), "took the prefix '_orig_mod.module.' off all names"),
        (lambda arrays: prefixed('model.', arrays), "took the prefix 'model.' off all names"),
        (lambda arrays: prefixed('module.model.', arrays), "took the prefix 'module.model.' off all names"),
        (lambda arrays: prefixed('module.', arrays, **AVERAGED), "took the prefix 'module.' off all names"),
        (
            lambda arrays: prefixed('module.', prefixed('module.', arrays, **AVERAGED)),
            "took the prefix 'module.module.' off all names",
        ),
        (lambda arrays: {'epoch': 3, 'model': arrays, 'optimizer': {'state': {}}}, ''),
        (lambda arrays: {'model': arrays, 'loss': jnp.ones(())}, ''),
        (
            lambda arrays: {'net': arrays, 'best': np.float32(3), 'criterion': {'weight': np.ones(3)}},
            'took net, not criterion',
        ),
        (lambda arrays: {'state_dict': prefixed('module.', arrays)}, "took the prefix 'module.' off all names"),
        (
            lambda arrays: {'state_dict': {}, 'state_dict_ema': arrays},
            'took state_dict_ema, the moving average, as there are no other weights',
        ),
        (
            lambda arrays: {'state_dict': arrays, 'state_dict_ema': dict.fromkeys(arrays, np.ones(1))},
            f'took state_dict, not {EMA}',
        ),
        *(
            (lambda arrays, other=other: {'model': arrays, other: shifted(arrays)}, f'took model, not {other}')
            for other in ('teacher', 'best_model', 'model_averaged')
        ),
        (
            lambda arrays: {'model': arrays, 'state_dict': {name: np.copy(array) for name, array in arrays.items()}},
            'took state_dict, not model',
        ),
        (lambda arrays: {name: jnp.asarray(array) for name, array in arrays.items() if array.ndim}, ''),
    ],
)
def test_wrapped_state_dicts(model, variables, arrays, wrap, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        assert_same_bits(from_torch(wrap(arrays), model), variables)
    assert [str(warning.message) for warning in caught] == [said] * bool(said)


def test_the_moving_average_on_request(model, variables, arrays):
    others = shifted(arrays)
    with pytest.warns(UserWarning, match='took model_ema, the moving average, not model'):
        found = from_torch({'model': others, 'model_ema': arrays}, model, ema=True)
    assert_same_bits(found, variables)
    for root, words in (
        (arrays, f': it is one state dict of {len(arrays)} tensors'),
        ({'model': arrays}, f'; it holds model of {len(arrays)} tensors'),
    ):
        with pytest.raises(ValueError, match=f'^holds no moving average{words}$'):
            from_torch(root, model, ema=True)


def test_which_state_dict_is_meant_is_not_guessed(model, arrays):
    with pytest.raises(ValueError, match=rf'several state dicts \(student of {len(arrays)} tensors, teacher of '):
        from_torch({'student': arrays, 'teacher': arrays}, model)
    for other in (shifted(arrays), prefixed('module.', arrays), {**arrays, 'conv_stem.weight': np.ones(1)}):
        for root in ({'model': arrays, 'state_dict': other}, {'state_dict': arrays, 'model': other}):
            with pytest.raises(ValueError, match=r'several state dicts \((model|state_dict) of '):
                from_torch(root, model)


def test_a_prefix_that_only_most_names_share_is_named(model, arrays):
    """As Lightning writes a loss with weights beside the network."""
    lightning = prefixed('model.', arrays, **{'criterion.weight': np.ones(3, np.float32)})
    count = len(lightning)
    said = (
        rf"^{count - 1} of {count} names begin with 'model\.', which is taken off where all do: leave out criterion\.w"
    )
    with pytest.raises(weights.TensorMismatchError, match=said) as refusal:
        from_torch(lightning, model)
    assert '\n' not in str(refusal.value)
    assert {fault.name for fault in refusal.value.faults} > {'criterion.weight', 'conv_stem.weight'}
    with pytest.raises(weights.TensorMismatchError, match=r'^the tensors do not fit'):
        from_torch({name: array for name, array in arrays.items() if 'classifier' not in name}, model)


@pytest.mark.parametrize('suffix', ['pth', 'npz'])
def test_the_warning_of_a_prefix_names_the_file(model, variables, arrays, tmp_path, suffix):
    path, wrapped = tmp_path / f'weights.{suffix}', prefixed('module.', arrays)
    np.savez(path, **wrapped) if suffix == 'npz' else path.write_bytes(torch_zip(wrapped))
    with pytest.warns(UserWarning, match=rf"^{path}: took the prefix 'module\.' off all names$"):
        assert_same_bits(weights.load_variables(path, model), variables)


def test_a_key_that_is_no_name(model, arrays):
    with pytest.raises(ValueError, match=r'^a state dict is a mapping of names to arrays, and its key 1 is no name$'):
        from_torch({1: np.ones(3)} | arrays, model)


@pytest.mark.parametrize('library', LAYOUTS)
def test_the_outermost_module_is_no_prefix(library):
    """Without a classifier all of torchvision's names may begin with `features.`"""
    name = {'timm': 'mobilenetv1_025', 'torchvision': 'mobilenetv2_035'}[library]
    model = flaxmobile.create_model(name, num_classes=0)
    variables = filled(model)
    arrays = to_torch(variables, model, library)
    with warnings.catch_warnings(action='error'):
        assert_same_bits(from_torch(arrays, model), variables)
    if library == 'torchvision':
        assert {tensor.partition('.')[0] for tensor in arrays} == {'features'}


def test_what_is_no_prefix():
    for names_ in (['classifier.weight', 'classifier.bias'], ['a.weight', 'b.weight'], ['weight'], ['a.b', 'a'], []):
        assert list(bare(dict.fromkeys(names_))) == names_
    assert list(bare({'n_averaged': 1, 'weight': 2})) == ['n_averaged', 'weight']
    endless = 'a.' * 100_000 + 'weight'
    assert list(bare({endless: 1})) == [endless.removeprefix('a.' * 8)]


def test_the_moving_average_of_a_file(command, tmp_path):
    """By every way that a file is given; of what has none it is refused, not passed over."""
    model = flaxmobile.create_model('mobilenetv1_025', num_classes=3)
    average = random_variables(model, (1, 32, 32, 3))
    arrays = to_torch(average, model)
    path, target = tmp_path / 'checkpoint.pth', tmp_path / 'average.safetensors'
    # The weights are not even finite.
    spoilt = {name: array * np.float32('nan') if array.ndim else array for name, array in arrays.items()}
    path.write_bytes(torch_zip({'state_dict': spoilt, 'state_dict_ema': prefixed('module.', arrays, **AVERAGED)}))
    with warnings.catch_warnings(action='ignore'):
        assert_same_bits(weights.load_variables(path, model, ema=True), average)
        opened = weights.load_file(path, 'mobilenetv1_025', ema=True)
        assert_same_bits(opened.variables, average)
        plain = weights.load_file(path, 'mobilenetv1_025').variables
        assert np.isnan(plain['params']['stem']['conv']['kernel']).all()
        status, _, err = command('convert', path, target, '--model', 'mobilenetv1_025', '--ema')
        assert status == 0, err
    assert_same_bits(weights.load_file(target).variables, average)
    image = tmp_path / 'a.png'
    Image.new('RGB', (40, 40)).save(image)
    words = ('predict', 'mobilenetv1_025', image, '--weights', path, '--image-size', '32', '--json')
    with pytest.warns(UserWarning, match='took state_dict_ema, the moving average, not state_dict'):
        status, out, _ = command(*words, '--ema')
    assert status == 0
    assert sum(guess['probability'] for guess in json.loads(out)[0]['predictions']) == pytest.approx(1)
    for given, said in (
        (target, 'only a checkpoint of torch has one'),
        ('mobilenetv2_100', 'mobilenetv2_100 is none'),
    ):
        status, _, err = command('predict', given, image, '--ema')
        assert (status, err.count('\n')) == (2, 1)
        assert said in err


def test_a_run_starts_from_the_moving_average_of_a_checkpoint(tmp_path):
    path, model = tmp_path / 'birds.pth', flaxmobile.create_model('mobilenetv1_025', num_classes=3)
    variables = random_variables(model, (1, 32, 32, 3))
    average = to_torch(variables, model)
    path.write_bytes(torch_zip({'model': shifted(average), 'model_ema': average}))
    config = dataclasses.replace(load_config('image_folder'), model='mobilenetv1_025', init=str(path), init_ema=True)
    assert follow(config, str(path)).model == 'mobilenetv1_025'
    with pytest.warns(UserWarning, match=r'birds\.pth: took model_ema, the moving average, not model$'):
        read = load_init(str(path), config, config.build_model(3))
    assert_same_bits(read.variables, variables)
    with pytest.warns(
        UserWarning, match=r'took model, not the moving average model_ema \(ema=True, or init_ema=True of a run\)$'
    ):
        teacher = load_init(str(path), config)
    assert_same_bits(teacher.variables, jax.tree.map(lambda value: value + 1, variables))
    path.write_bytes(torch_zip(average))
    with pytest.raises(ValueError, match=r'birds\.pth: holds no moving average'):
        follow(config, str(path))
    for given in ('mobilenetv3_small_100', str(tmp_path)):
        with pytest.raises(ValueError, match=rf'init_ema=True goes with a checkpoint of torch, and {given} is none'):
            load_init(given, config, config.build_model(3))
    with pytest.raises(
        ValueError, match=r'init_ema=True goes with a checkpoint of torch, and mobilenetv3_small_100 is'
    ):
        follow(config, 'mobilenetv3_small_100')
    with pytest.raises(ValueError, match=r'init_ema=True goes with init=\.\.\.'):
        dataclasses.replace(config, init=None)
