"""What is fused, and what only looks like it, against ONNX Runtime."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from flaxmobile import ops
from tests.export.onnx_runs import convolve, kinds, noise, same

pytestmark = pytest.mark.export
IMAGES = noise(3, 4, 6, 8)

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
    'a sum of slices, one of them for all': (lambda x: x[:, :3] + x[:, 1:2], 'Conv'),
    'a scaled sum of slices, one of them for all': (lambda x: x[:, :3] * 0.5 + x[:, 1:2] * 0.5, 'Conv'),
    'a sum of slices, one made longer by its factor': (
        lambda x: x[:, :3] + x[:, 1:2] * jnp.full((x.shape[0], 3, 6, 8), 0.5),
        'Conv',
    ),
    'tiles of images of five axes': (lambda x: x.reshape(x.shape[0], 4, 6, 2, 4).mean((2, 4)), 'AveragePool'),
}


@pytest.mark.parametrize('name', NOT_FUSED)
def test_what_differs_stays_plain(name):
    function, kind = NOT_FUSED[name]
    assert kind not in kinds(same(function, IMAGES, tolerance=2e-6))


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
    'a map of factors': (lambda x, y: y * noise(2, 4, 5), {'Mul': 1}),
    'a row of factors': (lambda x, y: y * noise(4, 1), {'Mul': 1}),
    'a constant less the map': (lambda x, y: np.float32(1) - y, {'Sub': 1}),
    'two users': (lambda x, y: (y, y * np.float32(2)), {'Mul': 1}),
    'another map': (lambda x, y: y * x[:, :2, :4, :5], {'Mul': 1, 'Slice': 1}),
}


@pytest.mark.parametrize('name', KEPT)
def test_other_factors_stay(name):
    kernel = noise(3, 3, 8, 5, scale=0.3)
    function, nodes = KEPT[name]
    model = same(lambda x: function(x, convolve(x, kernel)), IMAGES)
    assert kinds(model) == {'Conv': 1, **nodes}


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


def test_rows_that_are_cut_off_and_would_fill_a_tile_stay_out():
    model = same(lambda x: x[:, :2].reshape(x.shape[0], 1, 2, 3, 2, 8).mean((2, 4)), IMAGES)
    assert kinds(model) == {'Slice': 1, 'AveragePool': 1}


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
