"""What each convention means: padding, BatchNorm and initialisation, with the numbers of its origin written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flaxmobile import layers, ops
from flaxmobile.layers import Convention

TRUNCATED = 0.09 * 0.8796256610342398  # standard deviation of a normal cut at two of its own


@pytest.mark.parametrize(
    ('padding', 'size', 'kernel_size', 'stride', 'dilation', 'pixels'),
    [
        ('same', 224, 3, 2, 1, (0, 1)),
        ('same', 97, 3, 2, 1, (1, 1)),
        ('same', 224, 5, 2, 1, (1, 2)),
        ('same', 7, 5, 1, 1, (2, 2)),
        ('same', 14, 3, 1, 2, (2, 2)),
        ('same', 8, 1, 2, 1, (0, 0)),
        ('bottom_right', 224, 3, 2, 1, (0, 1)),
        ('bottom_right', 97, 3, 2, 1, (0, 1)),
        ('bottom_right', 97, 5, 2, 1, (1, 2)),
        ('bottom_right', 7, 3, 1, 1, (1, 1)),
        ('bottom_right', 13, 3, 1, 2, (2, 2)),
        ('bottom_right', 9, 1, 2, 1, (0, 0)),
        ('symmetric', 224, 3, 2, 1, (1, 1)),
        ('symmetric', 97, 5, 2, 1, (2, 2)),
        ('symmetric', 14, 5, 1, 2, (4, 4)),
        ('symmetric', 8, 1, 2, 1, (0, 0)),
    ],
)
def test_padding(padding, size, kernel_size, stride, dilation, pixels):
    rows, columns = ops.padding_pairs(padding, (size, 7), (kernel_size, 1), (stride, 1), (dilation, 1))
    assert rows == pixels
    assert columns == (0, 0)


@pytest.mark.parametrize('kind', ['standard', 'depthwise'])
def test_a_layer_pads_by_its_convention(kind):
    images, kernel = jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1))
    conv = layers.Conv(features=1, kernel_size=3, strides=2, kind=kind)
    # SAME puts its one pixel last, symmetric padding one on each side: how many ones the first and last window see.
    for convention, seen in (('tensorflow', [[9, 6], [6, 4]]), ('torch', [[4, 6], [6, 9]])):
        outputs = conv.clone(convention=convention).apply({'params': {'kernel': kernel}}, images)
        np.testing.assert_array_equal(outputs[0, :, :, 0], seen)


@pytest.mark.parametrize('size', [(6, 8), (5, 8), (6, 7), (5, 7), (1, 2)])
@pytest.mark.parametrize(('strides', 'dilation', 'pixels'), [(2, 1, (0, 1)), (1, 1, (1, 1)), (1, 2, (2, 2))])
def test_keras_v1_pads_a_strided_depthwise_convolution_below_and_at_the_right(size, strides, dilation, pixels):
    rng = np.random.default_rng(0)
    images, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, *size, 4), (3, 3, 1, 4)))
    conv = layers.Conv(kernel_size=3, strides=strides, dilation=dilation, kind='depthwise', convention='keras_v1')
    outputs = conv.apply({'params': {'kernel': kernel}}, images)
    wanted = lax.conv_general_dilated(
        images,
        kernel,
        (strides, strides),
        (pixels, pixels),
        rhs_dilation=(dilation, dilation),
        feature_group_count=4,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    assert outputs.shape == wanted.shape
    np.testing.assert_allclose(outputs, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', [(6, 8), (5, 7)])
def test_keras_v1_pads_all_else_as_tensorflow_does(size):
    rng = np.random.default_rng(0)
    images, kernel = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, *size, 3), (3, 3, 3, 4)))
    conv = layers.Conv(features=4, kernel_size=3, strides=2, convention='keras_v1')
    wanted = lax.conv_general_dilated(images, kernel, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    np.testing.assert_allclose(conv.apply({'params': {'kernel': kernel}}, images), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('convention', 'momentum', 'epsilon'),
    [('tensorflow', 0.99, 1e-3), ('keras_v1', 0.99, 1e-3), ('torch', 0.9, 1e-5), ('torchvision_v3', 0.99, 1e-3)],
)
def test_batch_norm_by_hand(convention, momentum, epsilon):
    block = layers.ConvNorm(features=1, kind='pointwise', activation='linear', convention=convention)
    variables = {
        'params': {
            'conv': {'kernel': jnp.ones((1, 1, 1, 1))},
            'norm': {'scale': jnp.asarray([3.0]), 'bias': jnp.asarray([0.5])},
        },
        'batch_stats': {'norm': {'mean': jnp.asarray([2.0]), 'var': jnp.asarray([0.0])}},
    }
    images = jnp.asarray([1.0, 5.0]).reshape(2, 1, 1, 1)  # mean 3, variance 4
    evaluated = jax.jit(block.apply)(variables, images)
    np.testing.assert_allclose(evaluated.ravel(), [0.5 - 3 / epsilon**0.5, 0.5 + 9 / epsilon**0.5], rtol=1e-5)
    training = jax.jit(functools.partial(block.apply, train=True, mutable=['batch_stats']))
    trained, updated = training(variables, images)
    half = 3 * 2 / np.sqrt(4 + epsilon)
    np.testing.assert_allclose(trained.ravel(), [0.5 - half, 0.5 + half], rtol=1e-6)
    statistics = updated['batch_stats']['norm']
    np.testing.assert_allclose(statistics['mean'], [momentum * 2 + (1 - momentum) * 3], rtol=1e-6)
    np.testing.assert_allclose(statistics['var'], [(1 - momentum) * 4], rtol=1e-5)


def kernel_of(layer, channels):
    shape = (1, channels) if isinstance(layer, layers.Dense) else (1, 5, 5, channels)
    params = jax.jit(layer.init)(jax.random.key(0), np.zeros(shape, np.float32))['params']
    if 'bias' in params:
        assert not np.asarray(params['bias']).any()
    return np.asarray(params['kernel'], np.float64)


INITIALIZED = [
    ('tensorflow', layers.Conv(features=96, kernel_size=3), 32, TRUNCATED),
    ('tensorflow', layers.Conv(kernel_size=3, kind='depthwise'), 960, TRUNCATED),
    ('tensorflow', layers.Conv(features=96, kind='pointwise', use_bias=True), 128, TRUNCATED),
    ('tensorflow', layers.Dense(256), 64, TRUNCATED),
    ('torch', layers.Conv(features=96, kernel_size=3), 32, (2 / (9 * 96)) ** 0.5),
    # Each group has one output: fan out is 9, not 9 * 960.
    ('torch', layers.Conv(kernel_size=3, kind='depthwise'), 960, (2 / 9) ** 0.5),
    ('torch', layers.Conv(features=960, kernel_size=5, kind='depthwise'), 480, (2 / 50) ** 0.5),
    ('torch', layers.Conv(features=96, kind='pointwise'), 128, (2 / 96) ** 0.5),
    ('torch', layers.Dense(256), 64, (1 / 256 / 3) ** 0.5),
    ('torchvision_v3', layers.Conv(features=96, kernel_size=3), 32, (2 / (9 * 96)) ** 0.5),
    ('torchvision_v3', layers.Conv(kernel_size=3, kind='depthwise'), 960, (2 / (9 * 960)) ** 0.5),
    ('torchvision_v3', layers.Conv(features=96, kind='pointwise'), 128, (2 / 96) ** 0.5),
    ('torchvision_v3', layers.Dense(256), 64, 0.01),
]


@pytest.mark.parametrize(('convention', 'layer', 'channels', 'deviation'), INITIALIZED)
def test_initialization(convention, layer, channels, deviation):
    kernel = kernel_of(layer.clone(convention=convention), channels)
    standard_error = deviation / np.sqrt(2 * kernel.size)
    assert abs(kernel.std() - deviation) <= 4 * standard_error
    assert abs(kernel.mean()) <= 4 * deviation / np.sqrt(kernel.size)
    reach = np.abs(kernel).max() / deviation
    if convention == 'tensorflow':
        assert 0.17 < np.abs(kernel).max() <= 2 * 0.09
    elif convention == 'torch' and isinstance(layer, layers.Dense):
        assert 0.99 / 16 < np.abs(kernel).max() <= 1 / 16
    else:
        assert reach > 3  # a normal distribution, not cut


@pytest.mark.parametrize(
    ('convention', 'deviation'),
    [('tensorflow', TRUNCATED), ('torch', (2 / 256) ** 0.5), ('torchvision_v3', 0.01)],
)
def test_initialization_of_the_layer_behind_v3_s_pooling(convention, deviation):
    initializer = layers.get_convention(convention).head_initializer()
    kernel = np.asarray(initializer(jax.random.key(0), (1, 1, 64, 256), jnp.float32))
    assert abs(kernel.std() - deviation) <= 4 * deviation / np.sqrt(2 * kernel.size)


@pytest.mark.parametrize(
    ('name', 'convention'),
    [
        ('tensorflow', layers.TENSORFLOW),
        ('keras_v1', layers.KERAS_V1),
        ('torch', layers.TORCH),
        ('torchvision_v3', layers.TORCHVISION_V3),
    ],
)
def test_a_convention_s_name_is_the_convention(name, convention):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 5, 8)), jnp.float32)
    outputs = [
        block.apply(block.init(jax.random.key(1), images), images)
        for block in (layers.ConvNorm(kernel_size=3, strides=2, convention=given) for given in (name, convention))
    ]
    np.testing.assert_array_equal(*outputs)


def test_each_field_can_be_overridden():
    convention = Convention(padding='symmetric', epsilon=3.0, momentum=0.25)
    block = layers.ConvNorm(kernel_size=3, strides=2, kind='depthwise', activation='linear', convention=convention)
    images = jnp.ones((1, 4, 4, 1))
    variables = {
        'params': {
            'conv': {'kernel': jnp.ones((3, 3, 1, 1))},
            'norm': {'scale': jnp.ones(1), 'bias': jnp.zeros(1)},
        },
        'batch_stats': {'norm': {'mean': jnp.zeros(1), 'var': jnp.ones(1)}},
    }
    np.testing.assert_array_equal(block.apply(variables, images)[0, :, :, 0], [[2, 3], [3, 4.5]])
    _, updated = block.apply(variables, images, train=True, mutable=['batch_stats'])
    np.testing.assert_allclose(updated['batch_stats']['norm']['mean'], [0.75 * (4 + 6 + 6 + 9) / 4])


def test_an_unknown_convention_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown convention 'torchvision'.*torchvision_v3"):
        layers.ConvNorm(features=4, convention='torchvision').init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
