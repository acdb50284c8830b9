"""The `tf_` names against keras.applications on the same weights, float32 on both sides."""

import functools
import re

import keras
import numpy as np
import peers
import pytest

import flaxmobile
from flaxmobile.weights import from_keras

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings('ignore:__array__ implementation:DeprecationWarning')]
LIMIT = 1e-4
V3 = {'large': keras.applications.MobileNetV3Large, 'small': keras.applications.MobileNetV3Small}


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch):
    """Keras compiles a program for each shape that it draws, and `calibrate` draws every weight itself."""
    monkeypatch.setattr(
        keras.initializers.GlorotUniform, '__call__', lambda _, shape, dtype=None: np.zeros(shape, dtype)
    )


def keras_twin(name, size):
    """Keras's network of our name at that input size, logits out."""
    generation, form, minimal, width = re.fullmatch(
        r'tf_mobilenetv(\d)_(?:(large|small)_)?(minimal_)?(\d+)', name
    ).groups()
    common = {'weights': None, 'classifier_activation': None, 'input_shape': (*size, 3), 'alpha': int(width) / 100}
    if generation == '1':
        return keras.applications.MobileNet(**common)
    if generation == '2':
        return keras.applications.MobileNetV2(**common)
    return V3[form](**common, minimalistic=bool(minimal), include_preprocessing=False)


def calibrate(network, calibration, seed):
    """Random weights, statistics from a training-mode pass, then perturbed."""
    rng = np.random.default_rng(seed)
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for weight in network.weights:
        if weight.path.endswith(('bias', 'beta')):
            weight.assign(0.2 * rng.normal(size=weight.shape))
        elif weight.path.endswith('gamma'):
            weight.assign(rng.uniform(0.5, 1.5, size=weight.shape))
        elif weight.path.endswith('kernel'):
            fan_in = np.prod(weight.shape[:2] if is_depthwise(weight.path, weight) else weight.shape[:-1])
            weight.assign(np.sqrt(2 / fan_in) * rng.normal(size=weight.shape))
    for norm in norms:
        norm.momentum = 0.0
    _, updated = run(network, calibration.astype(np.float32), training=True)
    for variable, value in zip(network.non_trainable_variables, updated, strict=True):
        variable.assign(value)
    for norm in norms:
        mean, variance = norm.moving_mean.numpy(), norm.moving_variance.numpy()
        norm.moving_mean.assign(mean + 0.1 * np.sqrt(variance) * rng.normal(size=mean.shape))
        norm.moving_variance.assign(variance * np.exp(0.2 * rng.normal(size=mean.shape)))


def run(network, batch, *, training=False):
    """What Keras's network returns, and its statistics; compiled in less time than by `predict`."""
    variables = [
        [variable.value for variable in kind] for kind in (network.trainable_variables, network.non_trainable_variables)
    ]
    return peers.jit(functools.partial(network.stateless_call, training=training), optimized=False)(*variables, batch)


def weights_of(network):
    return {weight.path: weight.numpy() for weight in network.weights}


def is_depthwise(path, array):
    return len(array.shape) == 4 and ('depthwise' in path or 'conv_dw' in path)


OWN = (224, 224)
SIZES = [(200, 200), (225, 225), (100, 132), (75, 75)]  # Even and odd maps, and no multiples of 32.
KINDS = peers.alike(flaxmobile.list_models('tf_*'))


def sizes_of_every_name():
    """Between the first networks of the kinds, each generation at every size; `make thorough` has the rest."""
    for generation in ('v1', 'v2', 'v3'):
        kinds = [kind for kind in KINDS if generation in kind[0]]
        for place, (first, *siblings) in enumerate(kinds):
            yield pytest.param(first, SIZES[place :: len(kinds)], id=first)
            for name in siblings:
                yield pytest.param(name, SIZES[place :: len(kinds)], id=name, marks=pytest.mark.thorough)
            for name in (first, *siblings):
                yield pytest.param(name, [OWN], id=f'{name} at its own size', marks=pytest.mark.thorough)


PARAMETERS = list(sizes_of_every_name())


def test_every_name_is_compared_and_every_generation_at_every_size():
    assert {parameters.values[0] for parameters in PARAMETERS} == set(flaxmobile.list_models('tf_*'))
    in_ci = {
        (name[: len('tf_mobilenetv1')], size)
        for name, sizes in (parameters.values for parameters in PARAMETERS if not parameters.marks)
        for size in sizes
    }
    assert in_ci == {(f'tf_mobilenetv{generation}', size) for generation in (1, 2, 3) for size in SIZES}


@pytest.mark.parametrize(('name', 'sizes'), PARAMETERS)
def test_logits(name, sizes):
    model = flaxmobile.create_model(name)
    kept = None
    for size in sizes:
        network = keras_twin(name, size)
        if kept is None:
            calibrate(network, peers.images(4, size, seed=1), seed=len(name))
            kept = network.get_weights()
        network.set_weights(kept)
        batch = peers.images(2, size).astype(np.float32)
        wanted = np.asarray(run(network, batch)[0])
        logits = peers.apply(model, from_keras(weights_of(network), model), batch, optimized=size == OWN)
        assert peers.see_the_images(wanted)
        assert logits.dtype == 'float32'
        assert peers.relative(logits, wanted) <= LIMIT
