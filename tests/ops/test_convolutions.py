"""Each convolution against XLA's own in float64: outputs and gradients over random shapes, and transformations."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import EXAMPLES, KINDS, assert_close, example, relative, waves, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from flaxmobile import ops

LIMITS = {'float32': 1e-6, 'float64': 1e-13}
sides, sizes, steps = st.integers(1, 9), st.integers(1, 13), st.integers(1, 3)


@st.composite
def cases(draw, kind):
    """Shapes and a window; where the kernel does not fit in the padded images, the output is empty."""
    case = {'batch': draw(st.sampled_from([1, 0, 2, 5, 9])), 'size': (draw(sizes), draw(sizes)), 'window': {}}
    case['dtype'] = draw(st.sampled_from([*LIMITS, 'bfloat16', 'float16']))
    case['seed'] = draw(st.integers(0, 2**32 - 1))
    case['window']['strides'] = draw(steps), draw(steps)
    kernel, channels, features = (1, 1), draw(st.integers(1, 5)), draw(st.integers(1, 6))
    if kind != 'pointwise':
        rows = draw(sides)
        kernel = rows, draw(st.integers(1, min(9, 36 // rows)) if kind == 'few channels' else sides)
        case['window']['dilation'] = draw(steps), draw(steps)
        case['window']['padding'] = draw(
            st.sampled_from(['same', ((0, 1), (2, 0)), ((4, 4), (4, 4)), ((3, -1), (4, 5))])
        )
    if kind == 'few channels':
        channels = draw(st.integers(1, min(5, 36 // math.prod(kernel))))
    if kind == 'many channels':
        channels = 36 // math.prod(kernel) + channels
    case['channels'] = channels
    case['kernel'] = (
        *kernel,
        *((1, channels * draw(st.integers(1, 3))) if kind == 'depthwise' else (channels, features)),
    )
    return case


def operands_of(case, reference):
    """Images, kernel and cotangent around 1, so that no sum is close to zero, where only rounding is left of it."""
    rng = np.random.default_rng(case['seed'])
    images, kernel = (
        rng.normal(1, 1, shape) for shape in ((case['batch'], *case['size'], case['channels']), case['kernel'])
    )
    return images, kernel, rng.normal(1, 1, jax.eval_shape(reference, images, kernel).shape)


def functions_of(kind, case):
    window = case['window']
    theirs = window | {'padding': 'SAME'} if window.get('padding') == 'same' else window
    return functools.partial(KINDS[kind].ours, **window), functools.partial(KINDS[kind].reference, **theirs)


def check(kind, case):
    """Half types may be 1.5 times as far from float64 as XLA's own convolution is."""
    ours, reference = functions_of(kind, case)
    dtype = case['dtype']
    with jax.enable_x64(True):
        operands = [jnp.asarray(values, dtype) for values in operands_of(case, reference)]
        got = with_gradients(ours)(*operands)
        want = with_gradients(reference)(*(values.astype(jnp.float64) for values in operands))
        if dtype in LIMITS:
            limits = [LIMITS[dtype]] * 3
        else:
            native = with_gradients(reference)(*operands)
            limits = [1.5 * relative(value, exact) for value, exact in zip(native, want, strict=True)]
    for value, exact, limit in zip(got, want, limits, strict=True):
        assert value.dtype == dtype
        assert relative(value, exact) <= limit


@pytest.mark.parametrize('kind', KINDS)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_outputs_and_gradients(kind, data):
    check(kind, data.draw(cases(kind)))


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_outputs_and_gradients_of_many_cases(kind, data):
    check(kind, data.draw(cases(kind)))


def test_the_random_cases_are_what_they_are_called():
    """Few channels are the primitive, many are not: the boundary is 36 weights a feature."""
    images = jnp.ones((1, 5, 5, 4))
    few, many = (str(jax.make_jaxpr(ops.conv)(images, jnp.ones((3, size, 4, 2)))) for size in (3, 4))
    assert 'conv_of_few_channels' in few
    assert 'conv_of_few_channels' not in many


TRANSFORMATIONS = {
    'jvp': lambda f: lambda i, k: jax.jvp(f, (i, k), (jnp.cos(i), jnp.cos(k))),
    'forward over reverse': lambda f: lambda i, k: jax.jvp(jax.grad(f, (0, 1)), (i, k), (jnp.cos(i), jnp.cos(k))),
    'reverse over reverse': lambda f: jax.grad(lambda i, k: jnp.sum(jax.grad(f)(i, k) ** 2), (0, 1)),
    'reverse over reverse by the kernel': lambda f: jax.grad(lambda i, k: jnp.sum(jax.grad(f, 1)(i, k) ** 2), (0, 1)),
    'checkpoint': lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
    'vmap over images': lambda f: lambda i, k: jax.vmap(f, (0, None))(jnp.stack([i, i + 1]), k),
    'vmap over kernels': lambda f: lambda i, k: jax.vmap(f, (None, 3))(i, jnp.stack([k, k + 1], 3)),
    'vmap over both': lambda f: lambda i, k: jax.vmap(f, (1, 0))(jnp.stack([i, i + 1], 1), jnp.stack([k, k + 1])),
    'gradients per example': lambda f: lambda i, k: jax.vmap(jax.grad(f, (0, 1)), (0, None))(i[:, None], k),
    'gradients of an ensemble': lambda f: (
        lambda i, k: jax.vmap(jax.grad(f, (0, 1)), (None, 0))(i, jnp.stack([k, 2 * k]))
    ),
    'scan': lambda f: jax.grad(
        lambda i, k: lax.scan(lambda total, image: (total + f(image[None], k), None), 0.0, i)[0], (0, 1)
    ),
}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize('kind', EXAMPLES)
def test_transformations(kind, float64):
    ours, reference, shape = example(kind)
    rng = np.random.default_rng(0)
    operands = rng.normal(size=(2, 6, 5, 3)), rng.normal(size=shape)

    def of(convolve):
        return lambda *operands: {name: f(waves(convolve))(*operands) for name, f in TRANSFORMATIONS.items()}

    # In one program each: to compile one is most of the cost of a small one.
    got, want = (jax.jit(of(convolve))(*operands) for convolve in (ours, reference))
    for name in TRANSFORMATIONS:
        assert_close(got[name], want[name], 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_mapped_over_images_kernels_and_both(kind, data):
    case = data.draw(cases(kind))
    axes = data.draw(st.sampled_from([(0, None, 0), (None, 0, 0), (0, 0, 0)]))
    functions, rng = functions_of(kind, case), np.random.default_rng(case['seed'])
    operands = operands_of(case, functions[1])
    operands = [
        operand if axis is None else np.stack([operand, rng.normal(size=operand.shape)])
        for operand, axis in zip(operands, axes, strict=True)
    ]
    with jax.enable_x64(True):
        got, want = (jax.vmap(with_gradients(convolve), axes)(*operands) for convolve in functions)
        assert_close(got, want, 1e-13)


@pytest.mark.parametrize('kind', EXAMPLES)
def test_without_jit(kind, float64):
    ours, reference, shape = example(kind)
    operands = np.ones((2, 6, 5, 3)), np.arange(math.prod(shape), dtype=float).reshape(shape)
    assert_close(ours(*operands), reference(*operands), 1e-13)


@pytest.mark.parametrize(
    ('convolution', 'shape', 'dtype'),
    [
        (ops.conv, (3, 3, 2, 4), 'float32'),
        (ops.conv, (3, 3, 4), 'float32'),
        (ops.conv, (3, 3, 3, 4), 'bfloat16'),
        (ops.pointwise_conv, (3, 3, 3, 4), 'float32'),
        (ops.pointwise_conv, (1, 1, 4, 4), 'float32'),
        (ops.depthwise_conv, (3, 3, 3, 3), 'float32'),
        (ops.depthwise_conv, (3, 3, 1, 4), 'float32'),
        (ops.depthwise_conv, (0, 3, 1, 3), 'float32'),
    ],
)
def test_a_kernel_for_other_images_is_refused(convolution, shape, dtype):
    with pytest.raises(ValueError, match=r'does not fit images float32\[1, 8, 8, 3\]'):
        convolution(jnp.ones((1, 8, 8, 3)), jnp.ones(shape, dtype))


@pytest.mark.parametrize('convolution', [ops.conv, ops.depthwise_conv, ops.pointwise_conv])
@pytest.mark.parametrize('strides', [0, -1, 1.5, (1, 2, 3), (1, 0), 'two'])
def test_strides_that_cannot_be(convolution, strides):
    kernel = jnp.ones((1, 1, 1 if convolution is ops.depthwise_conv else 3, 3))
    with pytest.raises(ValueError, match=r'strides is .*: it has to be a whole number, 1 or more'):
        convolution(jnp.ones((1, 8, 8, 3)), kernel, strides=strides)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [({'dilation': 0}, 'dilation is 0'), ({'padding': 1}, 'padding 1 is'), ({'padding': ((1, 1),)}, 'padding .* is')],
)
def test_windows_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        ops.depthwise_conv(jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 1, 3)), **arguments)


def test_a_convolution_of_integers_is_exact():
    images, kernel = jnp.full((1, 4, 4, 1), 2**24 + 1, jnp.int32), jnp.ones((1, 1, 1, 1), jnp.int32)
    np.testing.assert_array_equal(ops.conv(images, kernel), images)
