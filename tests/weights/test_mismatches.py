"""Tensors that do not fit a network by torch's names: what is said of them, and which may be left out or replaced."""

import numpy as np
import pytest
from two_blocks import arrays, assert_same_bits, filled, message, model, variables

from flaxmobile.weights import TensorMismatchError, from_torch, to_torch

__all__ = ['arrays', 'model', 'variables']  # Fixtures.


def test_all_faults_are_said_at_once(model, arrays):
    arrays['conv_stem.weight'] = np.zeros((8, 3, 5, 5), np.float32)
    arrays['bn1.weight'] = np.zeros(16, np.int32)
    arrays['classifier.bias'] = np.zeros(1000, np.float32)
    arrays['classifier.weight'] = arrays['classifier.weight'].astype(np.int64)
    arrays['blocks.1.0.bn9.weight'] = arrays.pop('blocks.1.0.bn3.weight')
    del arrays['conv_head.bias']
    stem = 'conv_stem.weight is (8, 3, 5, 5) instead of (16, 3, 3, 3)'
    assert message(lambda: from_torch(arrays, model)) == (
        'the tensors do not fit TwoBlocks; by the names of timm (tried: timm, torchvision): '
        'missing (2): blocks.1.0.bn3.weight, conv_head.bias; '
        'unexpected (1): blocks.1.0.bn9.weight; '
        f'misshapen (2): {stem}, classifier.bias is (1000,) instead of (3,); '
        'not floating point (2): bn1.weight is int32, classifier.weight is int64. '
        "from_torch, from_keras and load_variables may leave out or replace some: excuse=['classifier*'], initial=..."
    )


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_told(model, arrays, value):
    arrays['conv_stem.weight'] = arrays['conv_stem.weight'].copy()
    arrays['conv_stem.weight'][0, 0, 0, 0] = value
    with pytest.warns(UserWarning, match=r'^1 tensors hold values that are not finite: conv_stem\.weight$'):
        from_torch(arrays, model)


def test_a_long_list_of_faults_is_one_short_line_and_whole_in_the_error(model, arrays):
    renamed = {f'{name}\n\x1b]0;title\x07{"x" * 1000}': array for name, array in arrays.items() if array.ndim}
    with pytest.raises(TensorMismatchError) as caught:
        from_torch(renamed, model)
    said, faults = str(caught.value), caught.value.faults
    assert len(said) < 5000
    assert said.isprintable()
    assert said.count('conv') < 40
    assert f'missing ({len(renamed)}): conv_stem.weight, ' in said
    assert f' and {len(renamed) - 10} more; unexpected ({len(renamed)}): ' in said
    assert '`faults` of this error has all' in said
    assert [fault.name for fault in faults if fault.kind == 'unexpected'] == list(renamed)
    assert sum(fault.kind == 'missing' for fault in faults) == len(renamed)


def test_names_of_another_library(model):
    said = message(lambda: from_torch({'conv/kernel': np.zeros((3, 3, 3, 8), np.float32)}, model))
    assert 'tried: timm, torchvision' in said
    assert 'unexpected (1): conv/kernel' in said
    assert 'conv_stem.weight' in said


def test_the_nearest_layout_is_the_one_spoken_of(model, variables):
    arrays = to_torch(variables, model.clone(convention='torchvision_v3'), 'torchvision')
    del arrays['features.0.1.running_var']
    said = message(lambda: from_torch(arrays, model))
    assert 'by the names of torchvision' in said
    assert 'missing (1): features.0.1.running_var. ' in said
    assert 'unexpected' not in said


@pytest.mark.parametrize('given', [None, 3, 'weights.pth', np.zeros(3), {0: np.zeros(3)}])
def test_what_is_no_state_dict(model, given):
    assert type(given).__name__ in message(lambda: from_torch(given, model))


def test_an_empty_state_dict(model):
    assert 'conv_stem.weight' in message(lambda: from_torch({}, model))


def test_excused_tensors_come_from_initial(model, variables, arrays):
    initial = filled(model, seed=1)
    expected = {name: dict(tree) for name, tree in variables.items()}
    expected['params']['classifier'] = initial['params']['classifier']
    arrays['classifier.weight'] = np.zeros((1000, 1024), np.float32)
    del arrays['classifier.bias']
    arrays['extra.weight'] = np.zeros(3, np.int64)
    loaded = from_torch(arrays, model, excuse=['classifier.*', 'extra.*'], initial=initial)
    assert_same_bits(loaded, expected)
    said = message(lambda: from_torch(arrays, model, excuse='classifier.*', initial=initial))
    assert 'extra.weight' in said
    assert 'classifier' not in said.partition('unexpected')[2].partition('. from_torch')[0]
    said = message(lambda: from_torch(arrays, model, excuse=['classifier.*', 'extra.*']))
    assert 'classifier.bias, classifier.weight' in said
    assert 'initial=' in said


def test_an_excuse_changes_nothing_that_fits(model, variables, arrays):
    assert_same_bits(from_torch(arrays, model, excuse=['*']), variables)
    assert_same_bits(from_torch(arrays, model, excuse='classifier.*', initial=filled(model, seed=1)), variables)


def test_without_classifier(model, variables, arrays):
    backbone = model.clone(num_classes=0)
    said = message(lambda: from_torch(arrays, backbone))
    assert 'unexpected (2): classifier.weight, classifier.bias. ' in said
    loaded = from_torch(arrays, backbone, excuse=['classifier.*'])
    assert 'classifier' not in loaded['params']
    names = to_torch(loaded, backbone)
    assert names.keys() == arrays.keys() - {'classifier.weight', 'classifier.bias'}


def test_channels_are_those_of_the_stem(model, variables, arrays):
    arrays['conv_stem.weight'] = np.ones((16, 5, 3, 3), np.float32)
    assert from_torch(arrays, model)['params']['stem']['conv']['kernel'].shape == (3, 3, 5, 16)
    said = message(lambda: from_torch(arrays, model, initial=variables))
    assert 'misshapen (1): conv_stem.weight is (16, 5, 3, 3) instead of (16, 3, 3, 3). ' in said
    loaded = from_torch(arrays, model, excuse='conv_stem.weight', initial=variables)
    assert_same_bits(loaded, variables)


def test_variables_of_another_model(model, variables, arrays):
    other = model.clone(num_classes=4)
    for call in (lambda: to_torch(variables, other), lambda: from_torch(arrays, other, initial=variables)):
        said = message(call)
        assert 'these variables are not those of TwoBlocks' in said
        assert 'params/classifier/kernel is (1024, 3) instead of (1024, 4)' in said
    said = message(lambda: to_torch({'params': variables['params']}, model))
    assert 'missing (14): batch_stats/' in said
