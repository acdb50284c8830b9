"""Smaller layers and functions, each against its closed form, and what they refuse."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_variables import random_variables

from flaxmobile import layers, ops

IMAGES = jnp.zeros((1, 4, 4, 6))


def test_make_divisible_by_hand():
    table = {0.5: 8, 1: 8, 8: 8, 8.4: 8, 11.2: 16, 11.9: 16, 12: 16, 18: 24, 20: 24, 46: 48, 134.4: 136}
    table |= {179: 176, 180: 184, 1280 * 1.3: 1664, 1792: 1792}
    assert {value: layers.make_divisible(value) for value in table} == table


@given(st.floats(0.1, 5000), st.sampled_from([1, 4, 8, 16]))
def test_make_divisible_never_loses_more_than_a_tenth(value, divisor):
    rounded = layers.make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= max(divisor, 0.9 * value)
    assert abs(rounded - value) <= max(divisor, 0.5 * divisor + 0.1 * value)


VALUES = np.concatenate([np.linspace(-8, 8, 161), [-3, 3, 6, 0]])
CLOSED_FORMS = {
    'linear': lambda x: x,
    'relu': lambda x: max(x, 0),
    'relu6': lambda x: min(max(x, 0), 6),
    'hard_sigmoid': lambda x: min(max(x + 3, 0), 6) / 6,
    'hard_swish': lambda x: x * min(max(x + 3, 0), 6) / 6,
    'sigmoid': lambda x: 1 / (1 + math.exp(-x)),
    'gelu': lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
}


@pytest.mark.parametrize('name', CLOSED_FORMS)
def test_activation(name):
    want = [CLOSED_FORMS[name](float(value)) for value in VALUES]
    np.testing.assert_allclose(ops.activation(name)(jnp.asarray(VALUES, jnp.float32)), want, rtol=1e-5, atol=2e-6)


def test_depth_multiplier_keeps_a_channel_s_features_together():
    conv = layers.Conv(features=6, kernel_size=1, kind='depthwise')
    kernel = jnp.asarray([2.0, 3.0, 5.0, 7.0, 11.0, 13.0]).reshape(1, 1, 1, 6)
    images = jnp.asarray([1.0, 10.0, 100.0]).reshape(1, 1, 1, 3)
    outputs = conv.apply({'params': {'kernel': kernel}}, images)
    np.testing.assert_array_equal(outputs.ravel(), [2, 3, 50, 70, 1100, 1300])


def test_depth_multiplier_of_the_depthwise_separable_block():
    block = layers.DepthwiseSeparable(features=5, depth_multiplier=2)
    params = random_variables(block, (1, 4, 4, 6))['params']
    assert params['depthwise']['conv']['kernel'].shape == (3, 3, 1, 12)
    assert params['pointwise']['conv']['kernel'].shape == (1, 1, 12, 5)


def test_stochastic_depth_drops_whole_examples_and_scales_the_others():
    rate, number = 0.2, 4000
    branch = jnp.arange(1.0, 1 + 2 * number).reshape(number, 1, 2, 1)
    layer = layers.StochasticDepth(rate)
    outputs = layer.apply({}, branch, train=True, rngs={'dropout': jax.random.key(0)})
    factors = np.asarray(outputs / branch)
    np.testing.assert_array_equal(factors[:, :, 0], factors[:, :, 1])
    kept = factors[:, 0, 0, 0] != 0
    np.testing.assert_allclose(factors[kept], 1.25, rtol=1e-6)
    assert abs(kept.mean() - 0.8) <= 4 * math.sqrt(0.8 * 0.2 / number)
    again = layer.apply({}, branch, train=True, rngs={'dropout': jax.random.key(1)})
    assert np.any(np.asarray(again) != np.asarray(outputs))
    np.testing.assert_array_equal(layer.apply({}, branch), branch)


def test_stochastic_depth_of_a_block_leaves_the_input_of_dropped_examples():
    block = layers.InvertedResidual(features=6, stochastic_depth_rate=0.5)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(64, 3, 3, 6)), jnp.float32)
    variables = random_variables(block, images.shape)
    training = {'train': True, 'mutable': ['batch_stats']}
    outputs, _ = block.apply(variables, images, **training, rngs={'dropout': jax.random.key(0)})
    plain, _ = block.clone(stochastic_depth_rate=0.0).apply(variables, images, **training)
    dropped = np.all(np.asarray(outputs == images), axis=(1, 2, 3))
    assert 0.2 < dropped.mean() < 0.8
    twice = 2 * (plain - images) + images
    np.testing.assert_allclose(outputs[~dropped], twice[~dropped], atol=1e-5)


def test_dropout_zeroes_at_its_rate_and_keeps_the_mean():
    values = jnp.ones(20_000)
    layer = layers.Dropout(0.2, deterministic=False)
    outputs = np.asarray(layer.apply({}, values, rngs={'dropout': jax.random.key(0)}))
    np.testing.assert_allclose(np.unique(outputs), [0, 1.25])
    assert abs((outputs == 0).mean() - 0.2) <= 4 * math.sqrt(0.2 * 0.8 / values.size)


def test_computation_in_bfloat16_over_float32_parameters():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 6, 16)), jnp.float32)
    block = layers.InvertedResidual(features=16, squeeze_excite=True)
    variables = random_variables(block, images.shape)
    half = block.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(half.init, jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype('float32')}
    outputs = half.apply(variables, images.astype(jnp.bfloat16))
    assert outputs.dtype == jnp.bfloat16
    want = block.apply(variables, images)
    assert jnp.max(jnp.abs(outputs - want)) <= 0.03 * jnp.max(jnp.abs(want))


@pytest.mark.parametrize(
    ('layer', 'images', 'message'),
    [
        (layers.Conv(features=0), IMAGES, 'features=0, allowed is 1 or more'),
        (layers.Conv(features=8, kind='depthwise'), IMAGES, 'features=8, allowed is a multiple of the 6 channels'),
        (layers.Conv(features=8), IMAGES[0], r'expected \[batch, height, width, channels\].*\(4, 4, 6\)'),
        (layers.ConvNorm(features=8, activation='relu7'), IMAGES, "unknown activation 'relu7'.*relu6"),
        (layers.InvertedResidual(features=-8), IMAGES, 'project/conv.*features=-8'),
    ],
)
def test_refusals(layer, images, message):
    with pytest.raises(ValueError, match=message):
        layer.init(jax.random.key(0), images)


def test_other_channels_than_the_parameters_were_made_for():
    block = layers.DepthwiseSeparable(features=4)
    variables = random_variables(block, (1, 4, 4, 6))
    with pytest.raises(ValueError, match=r'depthwise/conv: the parameters .* take 6 channels, the input .* has 3'):
        block.apply(variables, IMAGES[..., :3])
