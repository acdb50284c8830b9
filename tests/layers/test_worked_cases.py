"""The worked cases of the blocks, against NumPy in float64 and by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import numpy_layers as reference
import pytest

from benchmarks.random_variables import random_variables
from flaxmobile import layers
from flaxmobile.analysis.counts import count_layers as layers_of

LIMIT = 2e-6
EPSILON = 1e-3


def case(block, shape, seed=0):
    """Images, variables and the block's output."""
    images = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    variables = random_variables(block, shape, seed=seed)
    return images, variables, np.asarray(jax.jit(block.apply)(variables, images))


def parts(variables, name):
    """Kernel and the five numbers of the norm of a `ConvNorm`, float64."""
    params, stats = variables['params'][name], variables['batch_stats'][name]['norm']
    numbers = (params['norm']['scale'], params['norm']['bias'], stats['mean'], stats['var'])
    return np.asarray(params['conv']['kernel'], np.float64), [np.asarray(number, np.float64) for number in numbers]


def relative(got, want):
    return np.max(np.abs(got - want)) / np.max(np.abs(want))


def size_of(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_depthwise_separable():
    block = layers.DepthwiseSeparable(features=50)
    images, variables, outputs = case(block, (10, 15, 15, 20))
    chex.assert_shape(outputs, (10, 15, 15, 50))
    kernel, numbers = parts(variables, 'depthwise')
    want = reference.relu6(reference.norm(reference.depthwise(images, kernel), *numbers, EPSILON))
    kernel, numbers = parts(variables, 'pointwise')
    want = reference.relu6(reference.norm(reference.pointwise(want, kernel), *numbers, EPSILON))
    assert relative(outputs, want) <= LIMIT


@pytest.mark.parametrize('squeeze', [False, True])
def test_inverted_residual_to_64_channels_and_back(squeeze):
    activation = 'hard_swish' if squeeze else 'relu6'
    block = layers.InvertedResidual(features=16, expansion_ratio=4, squeeze_excite=squeeze, activation=activation)
    images, variables, outputs = case(block, (10, 64, 64, 16))
    chex.assert_shape(outputs, (10, 64, 64, 16))
    chex.assert_shape(variables['params']['expand']['conv']['kernel'], (1, 1, 16, 64))
    chex.assert_shape(variables['params']['depthwise']['conv']['kernel'], (3, 3, 1, 64))
    act = getattr(reference, activation)
    kernel, numbers = parts(variables, 'expand')
    want = act(reference.norm(reference.pointwise(images, kernel), *numbers, EPSILON))
    kernel, numbers = parts(variables, 'depthwise')
    want = act(reference.norm(reference.depthwise(want, kernel), *numbers, EPSILON))
    if squeeze:
        chex.assert_shape(variables['params']['squeeze_excite']['reduce']['kernel'], (1, 1, 64, 16))
        want = reference.squeeze_excite(want, **variables['params']['squeeze_excite'])
    kernel, numbers = parts(variables, 'project')
    want = images + reference.norm(reference.pointwise(want, kernel), *numbers, EPSILON)
    assert relative(outputs, want) <= LIMIT


def test_inverted_residual_of_5x5_and_stride_2_pads_by_its_convention():
    for convention, padding, epsilon in (('tensorflow', 'same', 1e-3), ('torch', 'symmetric', 1e-5)):
        block = layers.InvertedResidual(features=8, expansion_ratio=1, kernel_size=5, strides=2, convention=convention)
        images, variables, outputs = case(block, (2, 12, 9, 8))
        kernel, numbers = parts(variables, 'depthwise')
        want = reference.norm(reference.depthwise(images, kernel, 2, padding), *numbers, epsilon)
        kernel, numbers = parts(variables, 'project')
        want = reference.norm(reference.pointwise(reference.relu6(want), kernel), *numbers, epsilon)
        assert relative(outputs, want) <= LIMIT


@pytest.mark.parametrize(('strides', 'features'), [(1, 32), (2, 32), (1, 48)])
def test_se_resnet_block(strides, features):
    block = layers.ResidualBlock(features=features, strides=strides)
    images, variables, outputs = case(block, (2, 9, 7, 32))
    kernel, numbers = parts(variables, 'conv_1')
    want = reference.relu(reference.norm(reference.conv(images, kernel, strides), *numbers, EPSILON))
    kernel, numbers = parts(variables, 'conv_2')
    want = reference.norm(reference.conv(want, kernel), *numbers, EPSILON)
    chex.assert_shape(variables['params']['squeeze_excite']['reduce']['kernel'], (1, 1, features, features // 16))
    want = reference.squeeze_excite(want, **variables['params']['squeeze_excite'], gate=reference.sigmoid)
    assert ('shortcut' in variables['params']) == (strides != 1 or features != 32)
    if 'shortcut' in variables['params']:
        kernel, numbers = parts(variables, 'shortcut')
        images = reference.norm(reference.pointwise(images[:, ::strides, ::strides], kernel), *numbers, EPSILON)
    assert relative(outputs, reference.relu(images + want)) <= LIMIT


@pytest.mark.parametrize(('kernel_size', 'channels', 'features', 'size'), [(3, 20, 50, 15), (5, 8, 24, 12)])
def test_what_depthwise_separation_saves(kernel_size, channels, features, size):
    shape = (1, size, size, channels)
    ordinary = layers.ConvNorm(features=features, kernel_size=kernel_size)
    separable = layers.DepthwiseSeparable(features=features, kernel_size=kernel_size)
    weights, area = kernel_size**2, size**2
    assert size_of(random_variables(ordinary, shape)['params']['conv']) == weights * channels * features
    kernels = [part['conv'] for part in random_variables(separable, shape)['params'].values()]
    assert size_of(kernels) == weights * channels + channels * features
    ordinary, separable = (
        sum(layer.multiply_adds for layer in layers_of(module, size, channels)) for module in (ordinary, separable)
    )
    assert ordinary == area * features * weights * channels
    assert separable == area * channels * (weights + features)


@pytest.mark.parametrize(
    ('strides', 'features', 'residual', 'added'),
    [(1, 16, True, True), (2, 16, True, False), (1, 24, True, False), (1, 16, False, False)],
)
def test_residual_only_when_stride_is_1_and_channels_match(strides, features, residual, added):
    block = layers.InvertedResidual(features=features, strides=strides, residual=residual)
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 16)).astype(np.float32)
    variables = random_variables(block, images.shape)
    projection = variables['params']['project']['norm']
    projection['scale'], projection['bias'] = jnp.zeros(features), jnp.full(features, -1.5)
    outputs = jax.jit(block.apply)(variables, images)
    # The projection's norm now says -1.5 everywhere; a ReLU behind it would say 0: the bottleneck is linear.
    np.testing.assert_array_equal(outputs, images - 1.5 if added else np.full(outputs.shape, -1.5))


def test_no_expansion_convolution_at_a_ratio_of_1():
    block = layers.InvertedResidual(features=16, expansion_ratio=1)
    assert set(random_variables(block, (1, 4, 4, 16))['params']) == {'depthwise', 'project'}


def test_squeeze_excite_by_hand():
    images = jnp.asarray([[[[1.0, 2.0], [3.0, -2.0]]]])  # means 2 and 0
    params = {
        'reduce': {'kernel': jnp.asarray([[[[0.5], [7.0]]]]), 'bias': jnp.asarray([1.0])},  # relu(2 * 0.5 + 1) = 2
        'expand': {'kernel': jnp.asarray([[[[0.75, -3.0]]]]), 'bias': jnp.asarray([0.0, 1.5])},  # 1.5 and -4.5
    }
    gate = layers.SqueezeExcite(squeeze_features=1)
    # (1.5 + 3) / 6 = 0.75; -4.5 + 3 < 0 closes the second channel.
    np.testing.assert_allclose(gate.apply({'params': params}, images), [[[[0.75, 0.0], [2.25, 0.0]]]], rtol=1e-6)
    gate = layers.SqueezeExcite(squeeze_features=1, gate='sigmoid')
    np.testing.assert_allclose(
        gate.apply({'params': params}, images)[0, 0, 0], [0.8175744762, 2 * 0.0109869426], rtol=1e-6
    )


def test_squeeze_excite_s_squeeze_is_relu_and_its_width_a_quarter():
    images = -np.ones((1, 2, 2, 72), np.float32)
    variables = random_variables(layers.SqueezeExcite(), images.shape)
    chex.assert_shape(
        variables['params']['reduce']['kernel'], (1, 1, 72, 24)
    )  # 18 rounds to 16, which is below 0.9 * 18
    params = variables['params']
    params['reduce'] = {'kernel': jnp.ones((1, 1, 72, 24)), 'bias': jnp.zeros(24)}  # relu(-72) = 0
    want = images * reference.hard_sigmoid(np.asarray(params['expand']['bias']))
    np.testing.assert_allclose(jax.jit(layers.SqueezeExcite().apply)(variables, images), want, rtol=1e-6)
