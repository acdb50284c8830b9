"""Each operation and each fusion against ONNX Runtime."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from flaxmobile import ops
from tests.export.onnx_runs import kinds, noise, same, written

pytestmark = pytest.mark.export
IMAGES = noise(3, 4, 6, 8)
few = settings(max_examples=15, deadline=None)

FUSED = {
    'relu': (jax.nn.relu, {'Relu': 1}),
    'relu6': (jax.nn.relu6, {'Clip': 1}),
    'clip': (lambda x: jnp.clip(x, -1.5, 2), {'Clip': 1}),
    'clamp': (lambda x: lax.clamp(-1.5, x, 2.0), {'Clip': 1}),
    'hard sigmoid': (jax.nn.hard_sigmoid, {'HardSigmoid': 1}),
    'hard swish': (jax.nn.hard_swish, {'HardSwish': 1}),
    'sigmoid': (jax.nn.sigmoid, {'Sigmoid': 1}),
    'silu': (jax.nn.silu, {'Sigmoid': 1, 'Mul': 1}),
    'gelu': (ops.activation('gelu'), {'Gelu': 1}),
    'gelu by tanh': (ops.activation('gelu_tanh'), {'Gelu': 1}),
    'softmax': (jax.nn.softmax, {'Softmax': 1}),
    'softmax over rows': (lambda x: jax.nn.softmax(x, axis=1), {'Softmax': 1}),
    'global mean': (lambda x: x.mean((1, 2)), {'GlobalAveragePool': 1, 'Flatten': 1}),
    'global mean, sides kept': (lambda x: x.mean((1, 2), keepdims=True), {'GlobalAveragePool': 1}),
    'mean of channels': (lambda x: x.mean(3), {'ReduceMean': 1}),
    'average pooling': (ops.average_pool, {'AveragePool': 1}),
    'blur pooling': (ops.blur_pool, {'Conv': 1}),
    'nearest, twice': (lambda x: ops.resize_nearest(x, 8, 18), {'Resize': 1}),
    'nearest': (lambda x: ops.resize_nearest(x, 6, 9), {'Gather': 2}),
}


@pytest.mark.parametrize('layout', ['nchw', 'nhwc'])
@pytest.mark.parametrize('name', FUSED)
def test_fused(name, layout):
    function, wanted = FUSED[name]
    model = same(function, IMAGES, layout)
    transposes = kinds(model).pop('Transpose', 0)
    assert {kind: count for kind, count in kinds(model).items() if kind != 'Transpose'} == wanted
    answers_map = len(model.graph.output[0].type.tensor_type.shape.dim) == 4
    assert transposes == (0 if layout == 'nchw' else 1 + answers_map)


def almost(shift: float = 3, high: float = 6, divisor: float = 6):
    return lambda x: x * (jnp.clip(x + shift, 0, high) / divisor)


def softmax(x, sum_axis=-1, scale=None):
    powers = jnp.exp(x - x.max(-1, keepdims=True))
    return (powers if scale is None else powers * scale) / powers.sum(sum_axis, keepdims=True)


NOT_FUSED = {
    'hard swish of another shift': (almost(shift=3.000001), 'HardSwish'),
    'hard swish of another limit': (almost(high=5.9), 'HardSwish'),
    'hard swish of another divisor': (almost(divisor=5), 'HardSwish'),
    'hard swish of two values': (lambda x: x[:, :2] * jax.nn.hard_sigmoid(x[:, 2:]), 'HardSwish'),
    'hard sigmoid whose sum is an output': (lambda x: (y := x + 3, jax.nn.relu6(y) / 6), 'HardSigmoid'),
    'relu6 whose relu is used': (lambda x: (y := jnp.maximum(x, 0), jnp.minimum(y, 6)), 'Clip'),
    'relu of another number': (lambda x: jnp.maximum(x, 1e-30), 'Relu'),
    'limits the wrong way round': (lambda x: jnp.minimum(jnp.maximum(x, 2), 1), 'Clip'),
    'softmax by another axis': (lambda x: softmax(x, sum_axis=1), 'Softmax'),
    'softmax without a maximum': (lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True), 'Softmax'),
    'softmax and its powers': (
        lambda x: (y := jnp.exp(x - x.max(-1, keepdims=True)), y / y.sum(-1, keepdims=True)),
        'Softmax',
    ),
    'softmax, scaled between': (lambda x: softmax(x, scale=2.0), 'Softmax'),
    'gelu of another factor': (lambda x: 0.5 * x * lax.erfc(-x * 0.7), 'Gelu'),
    'gelu of another half': (lambda x: 0.25 * x * lax.erfc(-x * np.float32(np.sqrt(0.5))), 'Gelu'),
    'gelu of two values': (lambda x: 0.5 * x[:, :2] * lax.erfc(-x[:, 2:] * np.float32(np.sqrt(0.5))), 'Gelu'),
    'gelu by tanh of another cubic': (lambda x: 0.5 * x * (1 + jnp.tanh(0.797885 * (x + 0.045 * x**3))), 'Gelu'),
    'a sum by another number': (lambda x: x.sum((1, 2)) / 25, 'GlobalAveragePool'),
    'tiles of another order': (
        lambda x: x.reshape(x.shape[0], 2, 2, 3, 2, 8).mean(axis=(1, 3)),
        'AveragePool',
    ),
    'nearest, repeated otherwise': (
        lambda x: x[:, np.array([0, 0, 0, 1, 2, 2, 3, 3])][:, :, np.arange(6)[::-1]],
        'Resize',
    ),
    'a sum of slices with a gap': (lambda x: x[:, :1] + x[:, 3:], 'Conv'),
    'a sum of slices from the second on': (lambda x: x[:, 1:3] + x[:, 2:4], 'Conv'),
}


@pytest.mark.parametrize('name', NOT_FUSED)
def test_what_differs_stays_plain(name):
    function, kind = NOT_FUSED[name]
    assert kind not in kinds(same(function, IMAGES, tolerance=2e-6))


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


def convolve(x, kernel, **fields):
    fields = {'window_strides': (1, 1), 'padding': 'VALID', 'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')} | fields
    return lax.conv_general_dilated(x, kernel, **fields)


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


FACTORS = {
    'a factor': lambda y: y * np.float32(2),
    'factors': lambda y: y * noise(5),
    'a divisor': lambda y: y / np.float32(3),
    'summands': lambda y: y + noise(5) - np.float32(1),
    'all': lambda y: ((y - noise(5)) * noise(5, seed=1) + noise(5, seed=2)) / np.float32(7),
}


@pytest.mark.parametrize('name', FACTORS)
def test_factors_and_summands_go_into_the_weights(name):
    kernel, weights = noise(3, 3, 8, 5, scale=0.3), noise(8, 5)
    assert kinds(same(lambda x: FACTORS[name](convolve(x, kernel)), IMAGES)) == {'Conv': 1}
    pooled = same(lambda x: FACTORS[name](x.mean((1, 2)) @ weights), IMAGES)
    assert kinds(pooled) == {'GlobalAveragePool': 1, 'Flatten': 1, 'Gemm': 1}


KEPT = {
    'a map of factors': lambda x, y: y * noise(2, 4, 5),
    'a row of factors': lambda x, y: y * noise(4, 1),
    'a constant less the map': lambda x, y: np.float32(1) - y,
    'two users': lambda x, y: (y, y * np.float32(2)),
    'another map': lambda x, y: y * x[:, :2, :4, :5],
}


@pytest.mark.parametrize('name', KEPT)
def test_other_factors_stay(name):
    kernel = noise(3, 3, 8, 5, scale=0.3)
    model = same(lambda x: KEPT[name](x, convolve(x, kernel)), IMAGES)
    assert len(model.graph.node) >= 2


def test_a_kernel_that_is_computed():
    same(lambda x: convolve(x, jnp.tanh(x.max(0)[:3, :3, :, None] * 0.1) * np.ones(5, np.float32)), IMAGES)


def test_zeros_around_the_images_become_padding():
    kernel = noise(3, 3, 8, 5, scale=0.3)
    model = same(
        lambda x: convolve(jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0))), kernel, padding=((0, 0), (1, 1))), IMAGES
    )
    assert kinds(model) == {'Conv': 1}
    for filling, sides in ((1.0, ((0, 0), (1, 2), (0, 1), (0, 0))), (0.0, ((0, 0), (1, 2), (0, 1), (0, 1)))):
        wide = noise(3, 3, 8 + sides[3][1], 5, scale=0.3)
        model = same(lambda x: convolve(jnp.pad(x, sides, constant_values=filling), wide), IMAGES)  # noqa: B023
        assert kinds(model) == {'Pad': 1, 'Conv': 1}


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


def test_attention_is_written_with_the_fewest_transposes():
    """Keys need none, queries, values and the answer one each."""
    kernels = [noise(1, 1, 8, features, scale=0.3) for features in (16, 8, 8)]
    back = noise(1, 1, 16, 8, scale=0.3)

    def function(x):
        batch, height, width, _ = x.shape
        query, key, value = (convolve(x, kernel) for kernel in kernels)
        query = query.reshape(batch, height * width, 2, 8)
        key, value = (each.reshape(batch, -1, 8) for each in (key, value))
        shares = jax.nn.softmax(jnp.einsum('bqhd,bkd->bqhk', query, key) / np.float32(np.sqrt(8)))
        return convolve(jnp.einsum('bqhk,bkd->bqhd', shares, value).reshape(batch, height, width, 16), back)

    made = kinds(same(function, IMAGES, tolerance=3e-6))
    assert made == {'Conv': 4, 'Reshape': 4, 'Transpose': 3, 'Unsqueeze': 2, 'MatMul': 2, 'Div': 1, 'Softmax': 1}


CONSTANTS = (0.0, 1.0, 3.0, 6.0, 1 / 6, 0.5, -2.0)
STEPS = {
    'add': lambda x, y: x + y,
    'sub': lambda x, y: x - y,
    'mul': lambda x, y: jnp.tanh(x) * y,
    'max': jnp.maximum,
    'min': jnp.minimum,
    'div': lambda x, y: x / (1 + abs(y)),
}
ONES = {
    'exp': lambda x: jnp.exp(jnp.minimum(x, 2.0)),
    'relu6': jax.nn.relu6,
    'hard sigmoid': jax.nn.hard_sigmoid,
    'softmax': jax.nn.softmax,
    'mean': lambda x: x.mean((1, 2), keepdims=True),
    'largest': lambda x: x.max(-1, keepdims=True),
    'shift': lambda x: x - x.max(-1, keepdims=True),
    'shares': lambda x: x / (1 + abs(x).sum(-1, keepdims=True)),
    'conv': lambda x: convolve(jnp.broadcast_to(x, (x.shape[0], 4, 6, 8)), noise(1, 1, 8, 8, scale=0.3)),
}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*STEPS, *ONES]), st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=9)
)
def test_whatever_is_composed(steps):
    """Any mixture, with every value in between among the outputs or not, is right, fused or plain."""

    def function(x):
        values = [x]
        for name, first, second in steps:
            one = values[-1 - first % len(values)]
            if name in ONES:
                values.append(ONES[name](one))
                continue
            pool = [*values[::-1], *map(np.float32, CONSTANTS)]
            values.append(STEPS[name](one, pool[second % len(pool)]))
        return tuple(values[1 + len(steps) // 2 :])

    same(function, IMAGES, tolerance=5e-6)


class Layers(nn.Module):
    function: object

    @nn.compact
    def __call__(self, images):
        return Layer(self.function, name='block_03')(images)


class Layer(nn.Module):
    function: object

    @nn.compact
    def __call__(self, images):
        return self.function(images)


def test_rows_that_are_cut_off_and_would_fill_a_tile_stay_out():
    model = same(lambda x: x[:, :2].reshape(x.shape[0], 1, 2, 3, 2, 8).mean((2, 4)), IMAGES)
    assert kinds(model) == {'Slice': 1, 'AveragePool': 1}


REFUSED = {
    'sort': (jnp.sort, "operation 'sort' of the layer block_03 is none that exporters know"),
    'half precision': (lambda x: x.astype(jnp.bfloat16) * 2, 'of the layer block_03 computes in bfloat16'),
    'batch': (lambda x: x / x.shape[0], "'dim_as_value' of the layer block_03 computes with the number of images"),
    'number of images': (lambda x: x.reshape(len(x), -1), r'any number of images \(where it says len'),
    'transposed convolution': (
        lambda x: convolve(x, noise(3, 3, 8, 5), lhs_dilation=(2, 2), padding=((0, 0), (0, 0))),
        "'conv_general_dilated' of the layer block_03 has lhs_dilation",
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
    'several open sides': (
        lambda x: jnp.einsum('bhwc,dhwc->bd', x, x).reshape(-1).reshape(x.shape[0], x.shape[0]),
        "'reshape' of the layer block_03 makes a shape of several open sides",
    ),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_not_known_is_refused_by_name_and_layer(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        written(lambda x: Layers(function).apply({}, x), IMAGES)
    assert len(str(caught.value)) < 300
    assert '\n' not in str(caught.value)
