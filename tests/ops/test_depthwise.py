"""The depthwise primitives against XLA's own grouped convolution in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxmobile import ops


def grouped(images, kernel, *, strides, padding, dilation):
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        feature_group_count=images.shape[-1],
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


def relative(got, want):
    return np.max(np.abs(np.asarray(got, np.float64) - want), initial=0) / max(np.max(np.abs(want), initial=0), 1e-30)


side = st.integers(1, 3)
cases = st.fixed_dictionaries(
    {
        'batch': st.integers(0, 9),
        'size': st.tuples(st.integers(3, 11), st.integers(3, 11)),
        'channels': st.integers(1, 5),
        'kernel': st.tuples(st.integers(1, 5), st.integers(1, 5)),
        'multiplier': st.integers(1, 2),
        'strides': st.tuples(side, side),
        'dilation': st.tuples(st.integers(1, 2), st.integers(1, 2)),
        'padding': st.sampled_from(['SAME', ((0, 1), (2, 0)), ((4, 4), (4, 4)), ((3, -1), (4, 5))]),
        'seed': st.integers(0, 9),
    }
)


@settings(max_examples=6, deadline=None)
@given(cases)
def test_output_and_gradients_equal_the_grouped_convolution(case):
    check_output_and_gradients(case)


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(cases)
def test_output_and_gradients_of_many_shapes(case):
    check_output_and_gradients(case)


def check_output_and_gradients(case):
    rng = np.random.default_rng(case['seed'])
    shape = (case['batch'], *case['size'], case['channels'])
    kernel_shape = (*case['kernel'], 1, case['channels'] * case['multiplier'])
    window = {key: case[key] for key in ('strides', 'dilation', 'padding')}
    with jax.enable_x64(True):
        images, kernel = jnp.asarray(rng.normal(size=shape)), jnp.asarray(rng.normal(size=kernel_shape))
        try:
            want, transpose = jax.vjp(lambda i, k: grouped(i, k, **window), images, kernel)
        except (ValueError, TypeError):
            return
        cotangent = jnp.asarray(rng.normal(size=want.shape))
        wanted = [want, *transpose(cotangent)]
    ours = {**window, 'padding': 'same' if window['padding'] == 'SAME' else window['padding']}
    for dtype, limit in ((jnp.float64, 1e-13), (jnp.float32, 1e-6)):
        with jax.enable_x64(dtype == jnp.float64):
            got, transpose = jax.vjp(
                lambda i, k: ops.depthwise_conv(i, k, **ours), images.astype(dtype), kernel.astype(dtype)
            )
            for value, reference in zip([got, *transpose(cotangent.astype(dtype))], wanted, strict=True):
                assert value.shape == reference.shape
                assert relative(value, np.asarray(reference)) <= limit


WINDOW = {'strides': 2, 'padding': ((1, 1), (1, 1)), 'dilation': 1}
PLAIN = {'strides': (2, 2), 'padding': ((1, 1), (1, 1)), 'dilation': (1, 1)}


def ours(images, kernel):
    return jnp.sum(jnp.sin(ops.depthwise_conv(images, kernel, **WINDOW)))


def reference(images, kernel):
    return jnp.sum(jnp.sin(grouped(images, kernel, **PLAIN)))


@pytest.fixture
def operands():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        yield jnp.asarray(rng.normal(size=(2, 6, 5, 3))), jnp.asarray(rng.normal(size=(3, 3, 1, 3)))


TRANSFORMATIONS = {
    'jvp': lambda f: lambda i, k: jax.jvp(f, (i, k), (jnp.cos(i), jnp.cos(k))),
    'forward over reverse': lambda f: lambda i, k: jax.jvp(jax.grad(f, 1), (i, k), (jnp.cos(i), jnp.cos(k))),
    'reverse over reverse': lambda f: jax.grad(lambda i, k: jnp.sum(jax.grad(f)(i, k) ** 2), (0, 1)),
    'reverse over reverse by the kernel': lambda f: jax.grad(lambda i, k: jnp.sum(jax.grad(f, 1)(i, k) ** 2), (0, 1)),
    'checkpoint': lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
    'vmap over images': lambda f: lambda i, k: jax.vmap(f, (0, None))(jnp.stack([i, i + 1]), k),
    'vmap over kernels': lambda f: lambda i, k: jax.vmap(f, (None, 3))(i, jnp.stack([k, k + 1], 3)),
    'vmap over both': lambda f: lambda i, k: jax.vmap(f, (1, 0))(jnp.stack([i, i + 1], 1), jnp.stack([k, k + 1])),
    'gradients per example': lambda f: lambda i, k: jax.vmap(jax.grad(f, 1), (0, None))(i[:, None], k),
    'gradients of an ensemble': lambda f: (
        lambda i, k: jax.vmap(jax.grad(f, (0, 1)), (None, 0))(i, jnp.stack([k, 2 * k]))
    ),
    'scan': lambda f: lambda i, k: lax.scan(lambda total, image: (total + f(image[None], k), None), 0.0, i)[0],
}


@pytest.mark.parametrize('name', TRANSFORMATIONS)
def test_transformations_equal_those_of_the_grouped_convolution(name, operands):
    transform = TRANSFORMATIONS[name]
    got, want = (jax.tree.leaves(jax.jit(transform(f))(*operands)) for f in (ours, reference))
    assert len(got) == len(want)
    for value, expected in zip(got, want, strict=True):
        assert relative(value, np.asarray(expected)) <= 1e-13


def test_gradients_inside_shard_map_are_those_of_the_whole_batch(operands):
    mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,))

    def total(images, kernel):
        return lax.psum(ours(images, kernel), 'data')

    sharded = jax.shard_map(total, mesh=mesh, in_specs=(P('data'), P()), out_specs=P())
    got, want = jax.grad(sharded, (0, 1))(*operands), jax.grad(reference, (0, 1))(*operands)
    for value, expected in zip(got, want, strict=True):
        assert relative(value, np.asarray(expected)) <= 1e-13


@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
def test_gradients_of_a_sharded_batch(axis_type, operands):
    mesh = jax.make_mesh((2,), ('data',), axis_types=(axis_type,))
    want = jax.grad(reference, (0, 1))(*operands)
    with jax.set_mesh(mesh):
        images = jax.device_put(operands[0], NamedSharding(mesh, P('data')))
        got = jax.jit(jax.grad(ours, (0, 1)))(images, jax.device_put(operands[1], NamedSharding(mesh, P())))
    for value, expected in zip(got, want, strict=True):
        assert relative(value, np.asarray(expected)) <= 1e-13


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_types_are_as_close_as_the_grouped_convolution(dtype):
    rng = np.random.default_rng(1)
    images, kernel = rng.normal(size=(2, 16, 16, 8)), rng.normal(size=(3, 3, 1, 8))
    with jax.enable_x64(True):
        half = [jnp.asarray(value, dtype) for value in (images, kernel)]
        want = np.asarray(grouped(*(value.astype(jnp.float64) for value in half), **PLAIN))
        got, native = ops.depthwise_conv(*half, **WINDOW), grouped(*half, **PLAIN)
    assert got.dtype == dtype
    assert relative(got, want) <= 1.5 * relative(native, want)


def test_the_lowering_follows_the_platform():
    images, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 1, 4))
    function = jax.jit(lambda i, k: ops.depthwise_conv(i, k, **WINDOW))
    assert 'stablehlo.convolution' not in export.export(function, platforms=['cpu'])(images, kernel).mlir_module()
    for platform in ('tpu', 'cuda'):
        text = export.export(function, platforms=[platform])(images, kernel).mlir_module()
        assert 'feature_group_count = 4' in text
    every = export.export(function, platforms=['cpu', 'cuda', 'tpu'])(images, kernel)
    np.testing.assert_allclose(every.call(images, kernel), grouped(images, kernel, **PLAIN), rtol=1e-6)


def test_no_group_convolution_in_a_compiled_gradient_on_a_cpu():
    images, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 1, 4))
    text = jax.jit(jax.grad(ours, (0, 1))).lower(images, kernel).compile().as_text()
    assert 'feature_group_count' not in text


def test_a_gradient_exports_with_a_symbolic_batch():
    (batch,) = export.symbolic_shape('batch')
    gradient = jax.jit(jax.grad(ours, (0, 1)))
    shapes = jax.ShapeDtypeStruct((batch, 6, 5, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 1, 3), jnp.float32)
    exported = export.export(gradient, platforms=['cpu'])(*shapes)
    rng = np.random.default_rng(0)
    images, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((5, 6, 5, 3), (3, 3, 1, 3)))
    for value, expected in zip(exported.call(images, kernel), jax.grad(reference, (0, 1))(images, kernel), strict=True):
        assert relative(value, np.asarray(expected)) <= 1e-6


def test_a_sharded_batch_is_not_gathered():
    mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
    images = jax.ShapeDtypeStruct((8, 16, 16, 8), jnp.float32, sharding=NamedSharding(mesh, P('data')))
    kernel = jax.ShapeDtypeStruct((3, 3, 1, 8), jnp.float32, sharding=NamedSharding(mesh, P()))
    text = jax.jit(jax.grad(ours, (0, 1))).lower(images, kernel).compile().as_text()
    assert 'all-reduce(' in text
    assert not re.search('all-gather|all-to-all|collective-permute', text)
