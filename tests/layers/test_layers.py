"""Smaller layers and functions, each against its closed form, and what they refuse."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.random_variables import random_variables
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
    'gelu_tanh': lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
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


def test_groups_are_convolutions_side_by_side():
    rng = np.random.default_rng(0)
    images, kernel = rng.normal(size=(2, 5, 7, 6)), rng.normal(size=(3, 3, 3, 8))
    got = ops.conv(images, kernel, groups=2, strides=2)
    halves = [ops.conv(images[..., 3 * n : 3 * n + 3], kernel[..., 4 * n : 4 * n + 4], strides=2) for n in (0, 1)]
    np.testing.assert_allclose(got, np.concatenate(halves, axis=-1), rtol=1e-5, atol=1e-5)
    block = layers.FusedInvertedBottleneck(features=4, expansion_ratio=4, group_size=8)
    params = random_variables(block, (1, 4, 4, 6))['params']
    assert params['expand']['conv']['kernel'].shape == (3, 3, 2, 24)


def test_pools_by_hand():
    images = jnp.asarray([[1.0, 3, 5], [7, 9, 11], [13, 15, 17]]).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(ops.average_pool(images).ravel(), [5])
    blurred = np.asarray([[4 + 6 + 14 + 9, 20 + 6 + 22 + 9], [52 + 30 + 14 + 9, 68 + 30 + 22 + 9]]) / 16
    np.testing.assert_allclose(ops.blur_pool(images)[0, :, :, 0], blurred, rtol=1e-6)
    assert ops.blur_pool(images[:, :2]).shape == (1, 1, 2, 1)


@pytest.mark.parametrize(('anti_aliasing', 'pool'), [('average', ops.average_pool), ('blur', ops.blur_pool)])
def test_anti_aliasing_moves_the_stride_behind_the_activation(anti_aliasing, pool):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 6, 5)), jnp.float32)
    layer = layers.ConvNorm(features=4, kernel_size=3, strides=2, anti_aliasing=anti_aliasing)
    variables = random_variables(layer, images.shape)
    plain = jax.jit(layer.clone(strides=1, anti_aliasing=None).apply)(variables, images)
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, images), pool(plain), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jax.jit(layer.clone(strides=1).apply)(variables, images), plain)


@pytest.mark.parametrize(
    ('start_kernel_size', 'kernel_size', 'kernels', 'strided'),
    [
        (0, 3, {'expand': (1, 1, 8, 16), 'depthwise': (3, 3, 1, 16)}, 'depthwise'),
        (5, 0, {'depthwise_start': (5, 5, 1, 8), 'expand': (1, 1, 8, 16)}, 'depthwise_start'),
        (3, 5, {'depthwise_start': (3, 3, 1, 8), 'expand': (1, 1, 8, 16), 'depthwise': (5, 5, 1, 16)}, 'depthwise'),
        (0, 0, {'expand': (1, 1, 8, 16)}, None),
    ],
)
def test_the_shapes_of_the_universal_inverted_bottleneck(start_kernel_size, kernel_size, kernels, strided):
    block = layers.UniversalInvertedBottleneck(
        features=8, expansion_ratio=2, start_kernel_size=start_kernel_size, kernel_size=kernel_size, layer_scale=1e-5
    )
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 5, 8)), jnp.float32)
    variables = random_variables(block, images.shape)
    params = variables['params']
    assert {name: part['conv']['kernel'].shape for name, part in params.items() if 'conv' in part} == {
        **kernels,
        'project': (1, 1, 16, 8),
    }
    outputs, parts = with_intermediates(block, variables, images)
    branch = parts['project']['__call__'][0] * params['layer_scale']['gamma']
    np.testing.assert_allclose(outputs, images + branch, rtol=1e-5, atol=1e-6)
    if strided:
        halved = functools.partial(with_intermediates, block.clone(strides=2), variables)
        outputs, parts = jax.eval_shape(halved, images)
        assert outputs.shape == (2, 3, 3, 8)
        heights = [parts[name]['__call__'][0].shape[1] for name in kernels]
        assert heights.index(3) == list(kernels).index(strided)


def with_intermediates(block, variables, images):
    """Outputs, and what each of the layers gave."""
    run = jax.jit(functools.partial(block.apply, capture_intermediates=True, mutable=['intermediates']))
    outputs, captured = run(variables, images)
    return outputs, captured['intermediates']


def test_layer_scale_starts_small():
    params = layers.LayerScale().init(jax.random.key(0), IMAGES)['params']
    np.testing.assert_array_equal(params['gamma'], np.full(6, 1e-5, np.float32))


@pytest.mark.parametrize('key_strides', [1, 2])
def test_attention_by_hand(key_strides):
    heads, size, images = 3, 4, np.random.default_rng(0).normal(size=(2, 5, 3, 8)).astype(np.float32)
    block = layers.MultiQueryAttention(heads=heads, key_features=size, key_strides=key_strides)
    variables = random_variables(block, images.shape)
    outputs, captured = with_intermediates(block, variables, images)
    normed = np.asarray(captured['norm']['__call__'][0])
    parts = {name: np.asarray(captured['attention'][name]['__call__'][0]) for name in ('query', 'key', 'value')}
    kernels = {name: part['project']['kernel'][0, 0] for name, part in variables['params']['attention'].items()}
    np.testing.assert_allclose(parts['query'], normed @ kernels['query'], rtol=1e-4, atol=1e-5)
    assert parts['key'].shape == parts['value'].shape == (2, -(-5 // key_strides), -(-3 // key_strides), size)
    want = np.zeros((2, 5, 3, heads * size))
    for image, row, column, head in np.ndindex(2, 5, 3, heads):
        query = parts['query'][image, row, column, head * size : head * size + size]
        weights = np.exp(parts['key'][image].reshape(-1, size) @ query / 2)  # 2 is the root of 4 channels
        mixed = weights @ parts['value'][image].reshape(-1, size) / weights.sum()
        want[image, row, column, head * size : head * size + size] = mixed
    branch = want @ np.asarray(kernels['output']) * np.asarray(variables['params']['layer_scale']['gamma'])
    np.testing.assert_allclose(outputs, images + branch, rtol=1e-4, atol=1e-4)


def test_attention_in_bfloat16_weighs_in_float32():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 16)), jnp.float32)
    block = layers.MultiQueryAttention(heads=2, key_features=8, dtype=jnp.bfloat16)
    variables = random_variables(block, images.shape)
    program = str(jax.make_jaxpr(block.apply)(variables, images.astype(jnp.bfloat16)))
    assert 'f32[2,16,2,16] = exp ' in program
    outputs = jax.jit(block.apply)(variables, images.astype(jnp.bfloat16))
    assert outputs.dtype == jnp.bfloat16
    want = jax.jit(block.clone(dtype=None).apply)(variables, images)
    assert jnp.max(jnp.abs(outputs - want)) <= 0.03 * jnp.max(jnp.abs(want))


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

    @jax.jit
    def run(variables, images):
        outputs, _ = block.apply(variables, images, **training, rngs={'dropout': jax.random.key(0)})
        plain, _ = block.clone(stochastic_depth_rate=0.0).apply(variables, images, **training)
        return outputs, plain

    outputs, plain = (np.asarray(values) for values in run(variables, images))
    dropped = np.all(outputs == images, axis=(1, 2, 3))
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
    outputs = jax.jit(half.apply)(variables, images.astype(jnp.bfloat16))
    assert outputs.dtype == jnp.bfloat16
    want = jax.jit(block.apply)(variables, images)
    assert jnp.max(jnp.abs(outputs - want)) <= 0.03 * jnp.max(jnp.abs(want))


@pytest.mark.parametrize(
    ('layer', 'images', 'message'),
    [
        (layers.Conv(features=8, kind='depthwise'), IMAGES, 'features=8, allowed is a multiple of the 6 channels'),
        (
            layers.Conv(features=8, groups=4),
            IMAGES,
            'groups=4 of a standard convolution, allowed is 1 or.* 6 channels and 8',
        ),
        (layers.Conv(features=6, groups=2, kind='pointwise'), IMAGES, 'groups=2 of a pointwise convolution'),
        (layers.ConvNorm(features=8, strides=2, anti_aliasing='average'), IMAGES[:, :1], 'needs 2x2 pixels.*1x4'),
        (
            layers.UniversalInvertedBottleneck(features=8, kernel_size=0, strides=2),
            IMAGES,
            'strides=2 take a depthwise',
        ),
        (
            layers.FusedInvertedBottleneck(features=8, group_size=5),
            IMAGES,
            '24 channels are no multiple of .*group_size=5',
        ),
        (layers.Conv(features=8), IMAGES[0], r'expected \[batch, height, width, channels\].*\(4, 4, 6\)'),
    ],
)
def test_refusals(layer, images, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), images)


def test_other_channels_than_the_parameters_were_made_for():
    block = layers.DepthwiseSeparable(features=4)
    variables = random_variables(block, (1, 4, 4, 6))
    with pytest.raises(ValueError, match=r'depthwise/conv: the parameters .* take 6 channels, the input .* has 3'):
        block.apply(variables, IMAGES[..., :3])


def test_the_parameters_of_another_network():
    variables = random_variables(layers.Conv(features=4, kernel_size=3), IMAGES.shape)
    words = r'are those of another network: this layer has 8 features and a kernel \(3, 3, 6, 8\)'
    with pytest.raises(ValueError, match=words):
        layers.Conv(features=8, kernel_size=3).apply(variables, IMAGES)


def test_a_blur_of_large_numbers_stays_finite():
    images = jnp.full((1, 4, 4, 1), 60000, jnp.float16)
    assert float(ops.blur_pool(images)[0, 1, 1, 0]) == 60000
