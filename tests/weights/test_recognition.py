"""The network of a file that does not say it, told by its tensors."""

import functools
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import flaxmobile
from flaxmobile import weights
from flaxmobile.data import Preprocessing
from flaxmobile.models.network import variable_shapes
from flaxmobile.weights import recognition, to_torch
from flaxmobile.weights.usual import usual_preprocessing


@functools.cache
def tensors(name: str, layout: str) -> dict[str, Any]:
    """Name and shape of each tensor of the network under a library's names."""
    given = ['conv/kernel'] if layout.startswith(('Keras', 'classes')) else ['params/a'] if layout == 'ours' else ['a']
    model = flaxmobile.create_model(name)
    layouts = recognition.layouts_of(dict.fromkeys(given), model)
    assign = layouts['flaxmobile' if layout == 'ours' else layout].assign
    places = assign(recognition.shapes(name))
    return {name: SimpleNamespace(shape=place.foreign_shape) for name, place in places.items()}


@pytest.mark.parametrize(
    ('name', 'layout', 'wanted'),
    [
        ('mobilenetv1_025', 'timm', 'mobilenetv1_025'),
        ('mobilenetv1_025', 'Keras', 'tf_mobilenetv1_025'),
        ('mobilenetv1_025', 'classes and numbers', 'tf_mobilenetv1_025'),
        ('mobilenetv2_035', 'torchvision', 'mobilenetv2_035'),
        ('mobilenetv3_small_100', 'torchvision', 'tv_mobilenetv3_small_100'),
        ('mobilenetv3_small_100', "Keras's published files", 'tf_mobilenetv3_small_100'),
        ('mobilenetv3_small_050', 'ours', 'mobilenetv3_small_050'),
    ],
)
def test_the_names_tell_the_network(name: str, layout: str, wanted: str) -> None:
    given = tensors(name, layout)
    assert recognition.recognize(given) == (wanted, 'tensors')
    # Whatever its classes: three in the last tensors, or none at all.
    classifier = [name for name, tensor in given.items() if 1000 in tensor.shape]
    assert len(classifier) == 2
    three = {
        name: SimpleNamespace(shape=tuple(3 if side == 1000 else side for side in given[name].shape))
        for name in classifier
    }
    assert recognition.recognize(given | three) == (wanted, 'tensors')
    assert recognition.recognize({name: given[name] for name in given.keys() - set(classifier)}).name == wanted


@pytest.mark.parametrize(
    ('name', 'layout', 'alike'),
    [
        ('mobilenetv1_025', 'ours', 'mobilenetv1_025, tf_mobilenetv1_025'),
        ('mobilenetv3_small_100', 'timm', 'mobilenetv3_small_100, tf_mobilenetv3_small_100'),
        (
            'mobilenetv4_conv_medium',
            'timm',
            'mobilenetv4_conv_medium, mobilenetv4_conv_aa_medium, mobilenetv4_conv_blur_medium',
        ),
    ],
)
def test_networks_that_fit_alike_are_named_and_none_is_taken(name: str, layout: str, alike: str) -> None:
    given = tensors(name, layout)
    with pytest.raises(ValueError, match=f'the tensors fit {alike} alike, which answer differently'):
        recognition.recognize(given)
    for said in alike.split(', '):
        assert recognition.recognize(given, said) == (said, 'arch')
    with pytest.raises(ValueError, match=f'fit {alike} alike'):
        recognition.recognize(given, 'mobilenetv2_100')


def test_what_fits_no_network() -> None:
    given = dict(tensors('mobilenetv1_025', 'timm'))
    given['\x1b]0;title\x07'] = given.pop('conv_stem.weight')
    message = r'of torch, fit no registered network; the nearest is mobilenetv1_025, with 2 that do not$'
    with pytest.raises(ValueError, match=message):
        recognition.recognize(given)
    for nothing in ({}, {'weight': SimpleNamespace(shape=(3, 3))}, {'a': SimpleNamespace(shape=())}):
        with pytest.raises(ValueError, match=r'of torch, fit no registered network$'):
            recognition.recognize(nothing)


def test_a_stem_of_other_channels() -> None:
    given = dict(tensors('mobilenetv1_025', 'timm'))
    given['conv_stem.weight'] = SimpleNamespace(shape=(8, 5, 3, 3))
    assert recognition.recognize(given).name == 'mobilenetv1_025'
    given['conv_stem.weight'] = SimpleNamespace(shape=(8, 3, 3, 5))
    with pytest.raises(ValueError, match='nearest is mobilenetv1_025, with 1 that do not'):
        recognition.recognize(given)


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    model = flaxmobile.create_model('mobilenetv1_025', num_classes=3)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variable_shapes(model))
    return to_torch(zeros, model)


def test_a_file_is_opened_by_itself(command: Any, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / 'mine.npz'
    np.savez(path, **arrays)
    opened = weights.load_file(path)
    assert (opened.name, opened.overrides, opened.labels) == ('mobilenetv1_025', {'num_classes': 3}, None)
    assert opened.assumed.startswith(
        'says neither which network it is of (its tensors fit mobilenetv1_025 alone), how '
    )
    assert opened.assumed.endswith(
        f'taken as usual for mobilenetv1_025: {Preprocessing(224)}; its 3 classes have no names'
    )
    told = weights.load_file(path, 'mobilenetv1_025', image_size=64)
    assert told.assumed.startswith('says neither how images are prepared nor what its classes are; taken ')
    assert str(told.preprocessing) in told.assumed
    assert told.preprocessing == Preprocessing(64)
    status, _, error = command('predict', path, tmp_path / 'none.png')
    assert status == 1  # There is no such image.
    assert error.startswith(f'{path} says neither which network it is of (its tensors fit mobilenetv1_025 alone), how ')
    assert error.count('\n') == 1
    np.savez(path, **{f'x{name}': array for name, array in arrays.items()})
    status, _, error = command('predict', path, tmp_path / 'none.png')
    assert status == 2
    assert error.startswith(f'flaxmobile: {path}: the tensors, of torch, fit no registered network')
    assert 'Say which' not in error
    assert error.count('\n') == 1


def test_a_message_on_tensors_that_do_not_fit_names_the_network_they_are_of(arrays: dict[str, np.ndarray]) -> None:
    for model in ('mobilenetv1_050', 'mobilenetv2_050'):
        with pytest.raises(weights.TensorMismatchError, match=r'fit MobileNetV\d \(they fit mobilenetv1_025\); by'):
            weights.from_torch(arrays, flaxmobile.create_model(model))
    del arrays['conv_stem.weight']
    with pytest.raises(weights.TensorMismatchError, match=r'fit MobileNetV1 \(nearest is mobilenetv1_025\); by'):
        weights.from_torch(arrays, flaxmobile.create_model('mobilenetv1_050'))
    with pytest.raises(weights.TensorMismatchError, match=r'fit MobileNetV1; by .*missing \(1\): conv_stem\.weight\. '):
        weights.from_torch(arrays, flaxmobile.create_model('mobilenetv1_025', num_classes=3))


LIBRARIES = ('timm', 'torchvision', 'Keras', "Keras's published files", 'classes and numbers', 'ours')


def shaped(name: str) -> dict[str, tuple[int, ...]]:
    return {path: own.shape for path, own in recognition.shapes(name).items()}


@pytest.mark.slow
@pytest.mark.parametrize('layout', LIBRARIES)
def test_every_registered_network_is_told_or_is_among_those_that_fit_alike(layout: str) -> None:
    """By names and shapes of each library, among all networks at all widths."""
    tried = 0
    for name in flaxmobile.list_models():
        try:
            given = tensors(name, layout)
        except (KeyError, ValueError):  # The library has no such network.
            continue
        try:
            found = {recognition.recognize(given).name}
        except recognition.AmbiguousError as error:
            found = set(str(error).split('the tensors fit ')[1].split(' alike')[0].split(', '))
        own = shaped(name)
        assert found
        assert all(shaped(other) == own for other in found), (name, found)
        tried += 1
    assert tried >= 20


@pytest.mark.thorough  # As all networks of equal tensors, and V5's are the largest.
def test_an_encoder_and_its_network_have_the_same_tensors() -> None:
    """They differ in padding and in what they return: only what a file says tells them apart."""
    given = tensors('mobilenetv5_300m', 'timm')
    assert given.keys() == tensors('mobilenetv5_300m_enc', 'timm').keys()
    with pytest.raises(recognition.AmbiguousError, match='fit mobilenetv5_300m, mobilenetv5_300m_enc alike'):
        recognition.recognize(given)
    for name in ('mobilenetv5_300m', 'mobilenetv5_300m_enc'):
        assert recognition.recognize(given, name) == (name, 'arch')


def test_a_backbone_without_its_head_is_told_how_to_be_read() -> None:
    keras = tensors('mobilenetv3_small_100', "Keras's published files")
    timm = tensors('mobilenetv2_035', 'timm')
    for given, name in (
        (
            {key: value for key, value in keras.items() if not key.lower().startswith(('conv_2', 'logits'))},
            'tf_mobilenetv3_small_100',
        ),
        (
            {key: value for key, value in timm.items() if key.startswith(('conv_stem', 'bn1', 'blocks'))},
            'mobilenetv2_035',
        ),
        (
            {f'{key}': value for key, value in timm.items() if 'classifier' not in key and 'conv_head' not in key},
            'mobilenetv2_035',
        ),
    ):
        assert len(given) < len(keras if 'v3' in name else timm) - 2
        with pytest.raises(ValueError, match=rf"stem and blocks are those of {name}, .*load_variables\(.*'{name}'\)$"):
            recognition.recognize(given)


def test_the_command_line_in_the_advice_can_be_pasted(command: Any, tmp_path: Path) -> None:
    path = tmp_path / ('long' * 60) / "my model's.npz"
    path.parent.mkdir()
    model = flaxmobile.create_model('mobilenetv3_small_100', num_classes=2)
    np.savez(
        path, **to_torch(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variable_shapes(model)), model)
    )
    with pytest.raises(recognition.AmbiguousError, match=r'alike, .* Say which it is: load_file\(path, network\)$'):
        weights.load_file(path)
    for words in (('predict', path, tmp_path / 'none.png'), ('convert', path, tmp_path / 'out.npz')):
        status, _, error = command(*words)
        assert (status, error.count('\n')) == (2, 1)
        advice = shlex.split(error.split('`')[1])
        assert advice == ['flaxmobile', 'convert', str(path), 'model.safetensors', '--model', 'NAME']


def test_torchvision_s_names_take_torchvision_s_preprocessing() -> None:
    ours, theirs = (usual_preprocessing('mobilenetv2_100', 3, layout) for layout in ('timm', 'torchvision'))
    assert (ours.interpolation, theirs.interpolation) == ('bicubic', 'bilinear')
    assert usual_preprocessing('mobilenetv2_050', 3, 'torchvision').interpolation == 'bilinear'
    for name in ('mobilenetv2_100', 'mobilenetv2_035'):
        shapes = tensors(name, 'torchvision')
        assert recognition.layout_of(shapes, name) == 'torchvision'
