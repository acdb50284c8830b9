"""Weights in a network that pads or normalises otherwise than the one they were trained in."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile import weights
from flaxmobile.data import Preprocessing
from flaxmobile.layers import Convention, get_convention
from flaxmobile.models import MobileNetV1, MobileNetV2, MobileNetV3Large, MobileNetV3Small
from flaxmobile.models.network import MobileNet
from flaxmobile.weights import Model, from_keras, from_torch, load_variables, origins, to_keras, to_torch

# Padding and epsilon of the networks themselves: timm 1.0.31 (TensorFlow's of MobileNetV3 are ports with TensorFlow's
# padding, and lukemelas's `mobilenetv3_rw` has epsilon 1e-3), torchvision 0.29 and keras.applications 3.15.
KNOWN = [
    ('timm', 'mobilenetv1_100', {('symmetric', 1e-5)}),
    ('timm', 'mobilenetv2_050', {('symmetric', 1e-5)}),
    ('timm', 'tf_mobilenetv2_050', {('symmetric', 1e-5)}),
    ('timm', 'mobilenetv3_small_050', {('symmetric', 1e-5)}),
    ('timm', 'mobilenetv3_small_075', {('symmetric', 1e-5), ('same', 1e-3)}),
    ('timm', 'tf_mobilenetv3_large_minimal_100', {('symmetric', 1e-5), ('same', 1e-3)}),
    ('timm', 'tv_mobilenetv3_large_100', {('symmetric', 1e-5), ('same', 1e-3)}),
    ('timm', 'mobilenetv3_rw', {('symmetric', 1e-3)}),
    ('timm', 'mobilenetv4_conv_aa_large', {('symmetric', 1e-5)}),
    ('timm', 'semnasnet_075', {('symmetric', 1e-5)}),
    ('torchvision', 'mobilenetv2_140', {('symmetric', 1e-5)}),
    ('torchvision', 'tv_mobilenetv3_small_100', {('symmetric', 1e-3)}),
    ('torchvision', 'mobilenetv3_small_050', {('symmetric', 1e-3)}),
    ('Keras', 'mobilenetv2_100', {('same', 1e-3)}),
    ('Keras', 'tf_mobilenetv3_small_075', {('same', 1e-3)}),
]
RULES = {'timm': origins.of_timm, 'torchvision': origins.of_torchvision, 'Keras': origins.of_keras}


@pytest.mark.parametrize(('origin', 'name', 'known'), KNOWN)
def test_how_the_library_s_network_pads_and_normalises(origin: str, name: str, known: set[tuple[str, float]]) -> None:
    model = flaxmobile.create_model(name)
    found = RULES[origin](model)
    assert {(convention.padding, convention.epsilon) for convention in found} == known
    for padding, epsilon in (('symmetric', 1e-5), ('symmetric', 1e-3), ('same', 1e-3), ('same', 1e-5)):
        convention = Convention(padding, epsilon)
        refused = origins.contradiction(origin, found, model.clone(convention=convention))
        assert bool(refused) is ((padding, epsilon) not in known)


def test_keras_s_mobilenetv1_is_tensorflow_s() -> None:
    found = origins.of_keras(MobileNetV1())
    assert [(convention.padding, convention.epsilon) for convention in found] == [
        ('bottom_right', 1e-3),
        ('same', 1e-3),
    ]
    assert not origins.contradiction('Keras', found, flaxmobile.create_model('tf_mobilenetv1_100'))


@pytest.mark.parametrize(
    ('origin', 'model'),
    [
        ('timm', MobileNetV2()),
        ('timm', MobileNetV2(width_multiplier=0.35, num_classes=3, stem_stride=1)),
        ('timm', MobileNetV2(width_multiplier=0.36)),
        ('timm', MobileNetV3Large(convention='torchvision_v3')),
        ('timm', flaxmobile.create_model('mobilenetv3_rw', convention='torch')),
        ('torchvision', MobileNetV3Small()),
        ('Keras', MobileNetV1(convention='torch')),
        ('Keras', MobileNetV3Small(convention='torch')),
    ],
)
def test_the_message_s_mend_mends(origin: str, model: MobileNet) -> None:
    known = RULES[origin](model)
    said = origins.contradiction(origin, known, model)
    assert said.isprintable()
    (convention,) = re.findall(r"build it with convention='(\w+)'", said)
    assert not origins.contradiction(origin, known, model.clone(convention=convention))
    networks = re.findall(r"create_model\('(\w+)'\)", said)
    assert len(networks) == (model.width_multiplier != 0.36)
    for name in networks:
        network = flaxmobile.create_model(name)
        assert (type(network), network.width_multiplier) == (type(model), model.width_multiplier)
        assert not origins.contradiction(origin, known, network)


@pytest.fixture(scope='module')
def variables() -> Any:
    return random_variables(MobileNetV1(width_multiplier=0.25, num_classes=3), (1, 64, 64, 3))


def network(convention: str) -> MobileNet:
    return MobileNetV1(width_multiplier=0.25, num_classes=3, convention=convention)


def stem_of(variables: Any) -> np.ndarray:
    return np.asarray(variables['params']['stem']['conv']['kernel'])


def test_state_dicts_and_keras_s_weights(variables: Any) -> None:
    torch, keras = network('torch'), network('keras_v1')
    for read, arrays, right, wrong, mend in (
        (from_torch, to_torch(variables, torch), torch, keras, "convention='torch' .create_model.'mobilenetv1_025'."),
        (from_keras, to_keras(variables, keras), keras, torch, "create_model.'tf_mobilenetv1_025'."),
    ):
        np.testing.assert_array_equal(stem_of(read(arrays, right)), stem_of(variables))
        with pytest.raises(ValueError, match=f'these are weights of .*{mend}.*ignore_convention=True'):
            read(arrays, wrong)
        np.testing.assert_array_equal(stem_of(read(arrays, wrong, ignore_convention=True)), stem_of(variables))


def test_writing_for_a_network_that_answers_something_else_warns(variables: Any, recwarn: Any) -> None:
    with pytest.warns(UserWarning, match=r"network of timm .* something else, .*bn_eps=0\.001, pad_type='same'$"):
        to_torch(variables, network('tensorflow'))
    with pytest.warns(UserWarning, match='network of Keras .* something else$'):
        to_keras(variables, network('torch'))
    recwarn.clear()
    to_torch(variables, network('torch'))
    to_keras(variables, network('keras_v1'))
    assert not recwarn.list


@pytest.fixture
def loaded(variables: Any) -> Model:
    return Model(network('torch'), variables, Preprocessing(64), ('cat', 'dog', 'owl'), name='mobilenetv1_025')


def test_files(loaded: Model, tmp_path: Path) -> None:
    for name in ('own.safetensors', 'timm.pth', 'bare.npz'):
        loaded.save(tmp_path / name)
        load_variables(tmp_path / name, network('torch'))
        if name == 'bare.npz':  # Names of ours, and no word of a convention.
            load_variables(tmp_path / name, network('tensorflow'))
            continue
        with pytest.raises(ValueError, match=rf"{name}: these are weights of .*convention='torch'"):
            load_variables(tmp_path / name, network('tensorflow'))
        taken = load_variables(tmp_path / name, network('tensorflow'), ignore_convention=True)
        np.testing.assert_array_equal(stem_of(taken), stem_of(loaded.variables))
    with pytest.raises(ValueError, match=r"timm\.pth: these are weights of timm.*create_model\('mobilenetv1_025'\)"):
        weights.load_file(tmp_path / 'timm.pth', 'tf_mobilenetv1_025')
    opened = weights.load_file(tmp_path / 'timm.pth', 'tf_mobilenetv1_025', ignore_convention=True)
    assert get_convention(opened.module.convention).padding != 'symmetric'
    with pytest.raises(ValueError, match=r'timm\.pth: these are weights of timm'):
        weights.convert(tmp_path / 'timm.pth', tmp_path / 'out.npz', 'tf_mobilenetv1_025')
    assert not (tmp_path / 'out.npz').exists()


def test_our_own_file_says_its_convention_by_its_overrides_too(loaded: Model, tmp_path: Path) -> None:
    path, given = tmp_path / 'own.safetensors', replace(loaded, module=network('tensorflow'))
    with pytest.raises(ValueError, match=r"the model has same .*Give overrides=\{'convention': 'tensorflow'\}"):
        given.save(path)
    assert not path.exists()
    replace(given, overrides={'convention': 'tensorflow'}).save(path)
    load_variables(path, network('tensorflow'))
    with pytest.raises(ValueError, match=r"weights of mobilenetv1_025, .* build it with convention='tensorflow'"):
        load_variables(path, network('torch'))


@pytest.mark.filterwarnings('error')
def test_keras_s_mobilenetv1_in_tensorflow_s_padding_is_told_once(variables: Any) -> None:
    arrays = to_keras(variables, network('keras_v1'))
    words = r"no multiple of 32, .*convention='keras_v1' pads as it does$"
    with pytest.warns(UserWarning, match=words) as told:
        from_keras(arrays, network('tensorflow'))
    assert len(told) == 1
    with pytest.warns(UserWarning, match=words) as told:
        to_keras(variables, network('tensorflow'))
    assert len(told) == 1
    from_keras(arrays, network('keras_v1'))
    from_keras(arrays, network('tensorflow'), ignore_convention=True)
    assert not origins.odd_sizes(MobileNetV2())


def test_the_command_refuses_and_is_told_to_insist(command: Any, loaded: Model, tmp_path: Path) -> None:
    file, image = tmp_path / 'timm.pth', tmp_path / 'none.png'
    loaded.save(file)
    words = ('predict', 'tf_mobilenetv1_025', image, '--weights', file)
    status, _, error = command(*words)
    assert status == 2
    assert error.count('\n') == 1
    assert "create_model('mobilenetv1_025')" in error
    assert 'or insist with --ignore-convention' in error
    assert command(*words, '--ignore-convention')[0] == 1  # There is no such image.
    out = tmp_path / 'out.npz'
    assert command('convert', file, out, '--model', 'tf_mobilenetv1_025')[0] == 2
    assert command('convert', file, out, '--model', 'tf_mobilenetv1_025', '--ignore-convention')[0] == 0
