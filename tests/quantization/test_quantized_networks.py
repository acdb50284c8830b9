"""A network that rounds as int8 does: its points, its variables, and its answers as whole numbers give them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks.random_variables import random_variables
from flaxmobile.layers import ConvNorm, Dense, InvertedResidual, MultiQueryAttention
from flaxmobile.models import MobileNetV5
from flaxmobile.quantization import Quantized, float_network, quantized_variables
from flaxmobile.quantization.network import SPEED
from flaxmobile.quantization.points import Points, run

IMAGES = np.random.default_rng(0).normal(size=(3, 4, 4, 8)).astype(np.float32)


class Short(nn.Module):
    """A convolution, the mean of its map and a dense layer."""

    activation: str = 'relu6'
    num_classes: int = 5

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        maps = ConvNorm(features=6, kind='pointwise', activation=self.activation, name='stem')(images)
        return Dense(self.num_classes, name='classifier')(maps.mean(axis=(1, 2)))


class Alone(nn.Module):
    """A block as a network."""

    block: nn.Module

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.block(images)


def quantized(network: nn.Module, images: np.ndarray = IMAGES) -> tuple[Any, Any]:
    variables = random_variables(network, (1, *images.shape[1:]))
    return variables, quantized_variables(network, variables, [images[:1], images[1:]])


def limits(network: nn.Module) -> dict[str, tuple[float, float]]:
    """The points in their order, and what each can be at most."""
    found: dict[str, tuple[float, float]] = {}

    class Seen(Points):
        def value(self, name: str, values: Any, limits: tuple[float, float]) -> Any:
            assert name not in found
            found[name] = limits
            return values

    variables = random_variables(network, (1, *IMAGES.shape[1:]))
    jax.eval_shape(lambda: run(network, variables, jnp.asarray(IMAGES), Seen()))
    return {name.removeprefix('block/'): limit for name, limit in found.items()}


ANY, RELU = (-np.inf, np.inf), (0, np.inf)


def test_the_points_of_squeeze_excite_and_hard_swish() -> None:
    """Of what is computed in float32 both ends are points; of ReLU its end alone."""
    block = InvertedResidual(features=8, expansion_ratio=2, activation='hard_swish', squeeze_excite=True)
    assert limits(Alone(block)) == {
        'expand/input': ANY,
        'expand/linear': ANY,
        'expand/output': ANY,
        'depthwise/linear': ANY,
        'depthwise/output': ANY,
        'squeeze_excite/reduce/input': ANY,
        'squeeze_excite/reduce/output': RELU,
        'squeeze_excite/expand/linear': ANY,
        'squeeze_excite/expand/output': ANY,
        'squeeze_excite/gate/output': ANY,
        'project/output': ANY,
        'residual/output': ANY,
    }


def test_the_points_of_attention() -> None:
    block = MultiQueryAttention(heads=2, key_features=4, key_strides=2)
    assert list(limits(Alone(block))) == [
        'attention/query/project/input',  # Shared by key and value.
        'attention/query/project/output',
        'attention/key/depthwise/output',
        'attention/key/project/output',
        'attention/value/depthwise/output',
        'attention/value/project/output',
        'attention/output/project/input',
        'attention/output/project/output',
        'residual/input',
        'residual/other',
        'residual/output',
    ]


def test_the_points_of_relu6_pooling_and_the_classifier() -> None:
    assert limits(Short()) == {
        'stem/input': ANY,
        'stem/output': (0, 6),
        'classifier/input': ANY,
        'classifier/output': ANY,
    }


def test_variables_are_the_folded_ones_and_the_extremes() -> None:
    network = Short()
    variables, made = quantized(network)
    assert set(made) == {'params', 'ranges'}
    stem = variables['params']['stem']
    factor = stem['norm']['scale'] / np.sqrt(variables['batch_stats']['stem']['norm']['var'] + 1e-3)
    np.testing.assert_allclose(made['params']['stem']['folded']['kernel'], stem['conv']['kernel'] * factor, rtol=1e-5)
    extremes = made['ranges']['extremes']
    np.testing.assert_array_equal(extremes['stem']['input'], [IMAGES.min(), IMAGES.max()])
    logits = network.apply(variables, IMAGES)
    np.testing.assert_allclose(extremes['classifier']['output'], [logits.min(), logits.max()], rtol=1e-5)
    module = Quantized(network)
    drawn = jax.eval_shape(module.init, jax.random.key(0), jnp.asarray(IMAGES))
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, drawn)
    assert (module.num_classes, float_network(module), float_network(network)) == (5, network, network)


def whole_numbers(values: np.ndarray, low: float, high: float) -> tuple[np.ndarray, float, int]:
    """Int8 numbers by float64, their scale and their zero point."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero_point = round(-128 - low / scale)
    return np.clip(np.round(values / scale) + zero_point, -128, 127).astype(np.int64), scale, zero_point


def layer(given: tuple, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Int8 times int8 and an int32 bias, summed in whole numbers."""
    numbers, scale, zero_point = given
    steps = np.abs(kernel).max(axis=0) / 127
    weights, shift = np.round(kernel / steps).astype(np.int64), np.round(bias / (scale * steps)).astype(np.int64)
    return ((numbers - zero_point) @ weights + shift) * (scale * steps)


@pytest.mark.parametrize('learnt', [0.0, -0.2 / SPEED])
def test_answers_are_those_of_whole_numbers(learnt: float) -> None:
    """The ranges are the extremes times exp(-0.2) where that was learnt."""
    network = Short()
    _, variables = quantized(network)
    variables['params']['ranges'] = jax.tree.map(lambda leaf: leaf + learnt, variables['params']['ranges'])
    ranges = {
        '/'.join(path): np.float64(bounds) * np.exp(SPEED * learnt)
        for path, bounds in flatten_dict(variables['ranges']['extremes']).items()
    }
    params = jax.tree.map(np.float64, variables['params'])
    stem, classifier = params['stem']['folded'], params['classifier']
    image = whole_numbers(np.float64(IMAGES), *ranges['stem/input'])
    maps = np.clip(layer(image, stem['kernel'][0, 0], stem['bias']), 0, 6)
    low, high = ranges['stem/output']
    numbers, scale, zero_point = whole_numbers(maps, low, min(high, 6.0))
    pooled = ((numbers - zero_point) * scale).mean(axis=(1, 2))
    vector = whole_numbers(pooled, *ranges['classifier/input'])
    logits, step, zero_point = whole_numbers(
        layer(vector, classifier['kernel'], classifier['bias']), *ranges['classifier/output']
    )
    got = np.asarray(Quantized(network).apply(variables, IMAGES))
    np.testing.assert_allclose(got / step + zero_point, logits, atol=1e-3)


def test_training_sees_what_evaluation_sees_and_learns_ranges() -> None:
    module = Quantized(Short())
    _, variables = quantized(module.network)
    trained = module.apply(variables, IMAGES, train=True, mutable=['ranges'], rngs={'dropout': jax.random.key(0)})
    np.testing.assert_array_equal(trained[0], module.apply(variables, IMAGES))
    gradients = jax.grad(lambda params: (module.apply({**variables, 'params': params}, IMAGES) ** 2).sum())(
        variables['params']
    )
    for path, slope in flatten_dict(gradients).items():
        assert np.abs(slope).max() > 0, path


def test_values_that_are_not_finite_have_no_range() -> None:
    network = Short()
    variables = random_variables(network, (1, 4, 4, 8))
    with pytest.raises(ValueError, match='has values that are not finite, so it has no range'):
        quantized_variables(network, variables, [IMAGES, IMAGES * np.nan])
    with pytest.raises(ValueError, match='there are no images to find ranges on'):
        quantized_variables(network, variables, [])


def test_a_norm_that_cannot_be_folded_is_refused() -> None:
    with pytest.raises(ValueError, match="a MobileNetV5 cannot be trained for int8: its norm is 'rms', and BatchNorm"):
        Quantized(MobileNetV5(num_classes=5))
