"""Each operation against ONNX Runtime, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from flaxmobile import ops
from tests.export.onnx_runs import Layers, convolve, kinds, noise, same, written

pytestmark = pytest.mark.export
IMAGES = noise(3, 4, 6, 8)
few = settings(max_examples=15, deadline=None)


@jax.custom_vjp
def halved(x):
    return x / 2


halved.defvjp(lambda x: (halved(x), None), lambda _, cotangent: (cotangent,))

PLAIN = {
    'arithmetic': lambda x: (x + 1) * x - x / 3 + 2 / (x + 40) - (-x),
    'extremes': lambda x: (jnp.maximum(x, x[:, ::-1]), jnp.minimum(x, 1.0), abs(x), jnp.sign(x), x % 2.0),
    'roots and powers': lambda x: (jnp.sqrt(x * x), lax.rsqrt(x * x + 1), x**2, x**3, x**-2, jnp.abs(x) ** 1.5),
    'transcendental': lambda x: (jnp.exp(x), jnp.log(x * x + 1), jnp.tanh(x), jnp.sin(x), jnp.cos(x)),
    'error function': lambda x: (lax.erf(x), lax.erfc(x)),
    'rounding': lambda x: (jnp.floor(x), jnp.ceil(x), jnp.round(x), jnp.round(x * 0.5)),
    'comparisons': lambda x: (x > 1, x >= 1, x < 1, x <= 1, x == x[:, :1], x != x[:, :1]),
    'logic': lambda x: ((x > 0) & (x < 1), (x > 0) | (x < -1), (x > 0) ^ (x > 1), ~(x > 0)),
    'choice': lambda x: (jnp.where(x > 0, x, -2.0), jnp.where(x > 0, 1.0, jnp.float32(0))),
    'types': lambda x: (x.astype(jnp.int32), (x > 0).astype(jnp.float32), x.astype(bool)),
    'whole numbers': lambda x: ((y := x.astype(jnp.int32)) // 2, y % 3, lax.div(y, 2), lax.rem(y, 3), y * y, -y),
    'extremes of whole numbers': lambda x: jnp.minimum(jnp.maximum(x.astype(jnp.int32), 0), 6).max(3) + 3,
    'calls within calls': lambda x: jax.checkpoint(jax.jit(lambda y: jax.nn.relu(halved(y))))(x),
    'bounds that are no numbers': lambda x: lax.clamp(-x * x, x, x * x),
    'reductions': lambda x: (
        x.sum(1),
        x.max((1, 3)),
        x.min(2, keepdims=True),
        (x / 4).prod(3),
        x.mean((2, 3)),
        x.sum(),
    ),
    'log softmax and deviation': lambda x: (jax.nn.log_softmax(x), jnp.std(x, -1), jax.nn.logsumexp(x, axis=1)),
    'one number for each image': lambda x: (x.mean((1, 2, 3)), x - x.mean((1, 2, 3), keepdims=True)),
    'bilinear': lambda x: (ops.resize_bilinear(x, 7, 9), ops.resize_bilinear(x, 2, 3)),
    'joined': lambda x: (
        jnp.concatenate([x, x + 1], 3),
        jnp.concatenate([x, jnp.ones_like(x)], 1),
        jnp.stack([x, -x], 1),
    ),
    'constants alone': lambda x: (
        jnp.zeros((x.shape[0], 2)),
        jnp.arange(4.0),
        jnp.full(x.shape, 2.0) + jnp.arange(8.0),
    ),
    'an input as it is': lambda x: (x, x, x + 1, x[:, :]),
    'broadcast before a product': lambda x: jnp.broadcast_to(x[:, :1, :1], x.shape) @ np.ones((8, 3), np.float32),
    'broadcast of one image': lambda x: jnp.concatenate(
        [jnp.broadcast_to(np.arange(8.0, dtype=np.float32), x.shape), x], 1
    ),
    'one number for all': lambda x: (
        x * x.max(),
        lax.clamp(x.min() / 2, x, x.max() / 2),
        lax.select_n(x.max() > 3, x, -x),
    ),
    'batch norm': lambda x: x * np.arange(8, dtype=np.float32) + np.arange(8, dtype=np.float32),
    'flipped': lambda x: x[:, ::-1, :, ::-1],
    'parts': lambda x: (x[:, 0, 0], x[:, 1, 2:4], x[..., 3], x[:, ::2, 3], x[:, ::2, 1:3, ::3], x[:, 1, ::-2, 2]),
    'places': lambda x: (x[:, np.array([0, 0, 2])][:, :, 2], x[:, :, np.array([4, 0]), :]),
}


@pytest.mark.parametrize('layout', ['nchw', 'nhwc'])
@pytest.mark.parametrize('name', PLAIN)
def test_plain(name, layout):
    same(PLAIN[name], IMAGES, layout, tolerance=2e-6)


@pytest.mark.parametrize('layout', ['nchw', 'nhwc'])
def test_pixels_of_files(layout):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3), np.uint8)
    mean, std = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.4])
    same(lambda x: (x.astype(jnp.float32) / 255 - mean) / std, pixels, layout)


@few
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * 2),
    groups=st.sampled_from([1, 2, 4, 8]),
    order=st.sampled_from([('NHWC', 'HWIO', 'NHWC'), ('NHWC', 'OIHW', 'NCHW'), ('NWHC', 'IOWH', 'CNHW')]),
    bias=st.booleans(),
)
def test_convolutions(kernel, strides, dilation, padding, groups, order, bias):
    sides = {'H': kernel[0], 'W': kernel[1], 'I': 8 // groups, 'O': 16}
    weights = noise(*(sides[letter] for letter in order[1]), scale=0.3)
    channels = [16 if letter == 'C' else 1 for letter in order[2]]

    def function(x):
        told = {'window_strides': strides, 'padding': padding, 'rhs_dilation': dilation, 'dimension_numbers': order}
        values = convolve(x, weights, feature_group_count=groups, **told)
        return values + noise(16, seed=1).reshape(channels) if bias else values

    images = noise(2, 7, 9, 8)
    model = same(function, images, tolerance=3e-6)
    assert kinds(model)['Conv'] == 1
    assert 'Add' not in kinds(model)


def test_a_kernel_that_is_computed():
    same(lambda x: convolve(x, jnp.tanh(x.max(0)[:3, :3, :, None] * 0.1) * np.ones(5, np.float32)), IMAGES)


EINSUMS = [
    ('bhwc,cf->bhwf', (8, 5)),
    ('bhwc,fc->bfhw', (5, 8)),
    ('bhwc,hk->bkwc', (4, 7)),
    ('bhwc,wcf->bhf', (6, 8, 5)),
    ('bhwc,hwcf->bf', (4, 6, 8, 5)),
    ('bhwc,cfg->bhwfg', (8, 5, 2)),
    ('bhwc,c->bhw', (8,)),
]


@pytest.mark.parametrize(('letters', 'shape'), EINSUMS)
def test_products_with_constants(letters, shape):
    weights = noise(*shape)
    same(lambda x: jnp.einsum(letters, x, weights), IMAGES, tolerance=3e-6)


SELF_EINSUMS = [
    'bhwc,bhwd->bcd',
    'bhwc,bhvc->bhwv',
    'bhwc,bgwc->bhgwc',
    'bhwc,bgvc->bhwgv',
    'bhwc,bhwc->b',
    'bhwc,bhwc->bhw',
    'bhwc,dhwc->bdhw',
    'bhwc,dhwc->bd',
]


@pytest.mark.parametrize('letters', SELF_EINSUMS)
def test_products_of_maps(letters):
    same(lambda x: jnp.einsum(letters, x, jnp.tanh(x)), IMAGES, tolerance=3e-6)


@few
@given(st.permutations(range(4)), st.permutations(range(4)), st.sampled_from(['conv', 'none']), st.booleans())
def test_transposed_and_reshaped(first, second, before, merged):
    kernel = noise(1, 1, 8, 8, scale=0.3)

    def function(x):
        x = convolve(x, kernel) if before == 'conv' else x
        x = jnp.transpose(x, first)
        if merged and first[0] == 0:
            x = x.reshape(x.shape[0], -1, x.shape[3]).reshape(x.shape)
        return jnp.transpose(jnp.tanh(x), second).sum(1)

    same(function, IMAGES, tolerance=3e-6)


@few
@given(
    shape=st.sampled_from(
        [(24, 8), (4, 48), (192,), (2, 2, 6, 8), (4, 2, 3, 2, 4), (1, 4, 6, 1, 8), (8, 24), (3, 64), (2, 96)]
    ),
    before=st.booleans(),
    after=st.booleans(),
)
def test_reshapes(shape, before, after):
    kernel = noise(1, 1, 8, 8, scale=0.3)

    def function(x):
        x = convolve(x, kernel) if before else x
        x = x.reshape(x.shape[0], *shape)
        return convolve(x.reshape(x.shape[0], 4, 6, 8), kernel) if after else x * 2

    same(function, IMAGES, tolerance=3e-6)


@few
@given(
    start=st.tuples(*[st.integers(0, 2)] * 3),
    length=st.tuples(*[st.integers(1, 4)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    padding=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 3),
)
def test_slices_and_padding(start, length, stride, padding):
    rows, columns, channels = (slice(s, s + n, d) for s, n, d in zip(start, length, stride, strict=True))
    same(lambda x: jnp.pad(x, ((0, 0), *padding), constant_values=2)[:, rows, columns, channels] * 2, IMAGES)


REFUSED = {
    'sort': (jnp.sort, "operation 'sort' of the layer block_03 is none that exporters know"),
    'half precision': (lambda x: x.astype(jnp.bfloat16) * 2, 'of the layer block_03 computes in bfloat16'),
    'batch': (lambda x: x / x.shape[0], "'dim_as_value' of the layer block_03 computes with the number of images"),
    'number of images': (lambda x: x.reshape(len(x), -1), r'any number of images \(where it says len'),
    'transposed convolution': (
        lambda x: convolve(x, noise(3, 3, 8, 5), lhs_dilation=(2, 2), padding=((0, 0), (0, 0))),
        "'conv_general_dilated' of the layer block_03 has lhs_dilation",
    ),
    'groups of the batch': (
        lambda x: convolve(jnp.transpose(x, (1, 0, 2, 3)), noise(1, 1, 8, 4), batch_group_count=2),
        "'conv_general_dilated' of the layer block_03",
    ),
    'padding between': (
        lambda x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0)]),
        "'pad' of the layer block_03",
    ),
    'cut off': (
        lambda x: convolve(x, noise(1, 1, 8, 5), padding=((-1, 0), (0, 0))),
        "'conv_general_dilated' of the layer",
    ),
    'places that are computed': (lambda x: x[:, x[0, 0, 0].astype(int) % 4], 'of the layer block_03'),
    'places outside': (lambda x: jnp.take(x, np.array([0, 9]), axis=1), "'gather' of the layer block_03"),
    'bits': (lambda x: x.astype(jnp.int32) & 3, "'and' of the layer block_03 is one of bits"),
    'rounding away': (lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), "'round' of the layer block_03"),
    'whole powers': (lambda x: x.astype(jnp.int32) ** 3, "'integer_pow' of the layer block_03"),
    'extremes of truth values': (
        lambda x: jnp.maximum(x > 0, x < -1),
        "'max' of the layer block_03 is of truth values",
    ),
    'a number for each image': (
        lambda x: x[:, 0, 0, 0] * jnp.arange(x.shape[0]),
        "'iota' of the layer block_03 is none that exporters know",
    ),
    'several open sides': (
        lambda x: jnp.einsum('bhwc,dhwc->bd', x, x).reshape(-1).reshape(x.shape[0], x.shape[0]),
        "'reshape' of the layer block_03 makes a shape of several open sides",
    ),
    'maps of four for each image': (
        lambda x: jnp.concatenate([x.reshape(-1, 6, 8), jnp.ones((4 * x.shape[0], 6, 8))], -1),
        "'concatenate' of the layer block_03 has a side of 4\\*batch: ",
    ),
    'twice as many answers': (
        lambda x: jnp.zeros((2 * x.shape[0], 3)),
        r'export: an output has a side of 2\*batch: numbers alone and the number of images itself are known',
    ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_not_known_is_refused_by_name_and_layer(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        written(lambda x: Layers(function).apply({}, x), IMAGES)
    assert len(str(caught.value)) < 300
    assert '\n' not in str(caught.value)
