"""`ops.standard`: the same numbers from XLA's own operations alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import EXAMPLES, assert_close, example, waves
from jax import export, lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from benchmarks.random_variables import random_variables
from flaxmobile import ops
from flaxmobile.models import MobileNetV2, MobileNetV3Small, MobileNetV4ConvSmall
from flaxmobile.ops.primitives import STANDARD

every_kind = pytest.mark.parametrize('kind', EXAMPLES)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def ours_in(function, *operands):
    """The primitives of this library in the traced program, at any depth."""
    traced = str(jax.make_jaxpr(function)(*operands))
    return {primitive.name for primitive in STANDARD if re.search(rf'= {primitive.name}\b', traced)}


def operands_of(shape):
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 6, 5, 3)), rng.normal(size=shape)


def assert_standard(function, *operands):
    """The numbers of `function`, whose program has primitives of ours, from a program that has none."""
    assert ours_in(function, *operands)
    assert not ours_in(ops.standard(function), *operands)
    assert_close(*jax.jit(lambda *operands: (ops.standard(function)(*operands), function(*operands)))(*operands), 1e-12)


def looped(f):
    def add(total, image):
        image = lax.cond(image.sum() > 0, lambda k: f(image[None], k), lambda k: f(-image[None], 2 * k), total[1])
        return (total[0] + image, total[1]), image

    return lambda i, k: lax.scan(add, (jnp.zeros((), i.dtype), k), i)


def repeated(f):
    def turn(i, k, state):
        return state[0] + 1, f(i, state[1] * k)

    return lambda i, k: lax.while_loop(lambda state: state[0] < 3, lambda state: turn(i, k, state), (0, 1.0))


def with_derivative_of_its_own(f):
    own = jax.custom_vjp(f)
    own.defvjp(lambda i, k: (f(i, k), (i, k)), lambda saved, cotangent: (cotangent * saved[0], 5 * saved[1]))
    return own


CONTAINERS = {
    'alone': lambda f: f,
    'jit in jit': lambda f: jax.jit(lambda i, k: 2 * jax.jit(f)(i, k)),
    'gradients': lambda f: jax.grad(f, (0, 1)),
    'second order': lambda f: jax.grad(lambda i, k: jnp.sum(jax.grad(f)(i, k) ** 2), (0, 1)),
    'checkpoint': lambda f: jax.grad(jax.checkpoint(f), (0, 1)),
    'scan and cond': looped,
    'gradient of scan and cond': lambda f: jax.grad(lambda i, k: looped(f)(i, k)[0][0], (0, 1)),
    'while': repeated,
    'vmap': lambda f: jax.vmap(lambda i, k: f(i[None], k), (0, None)),
    'custom_jvp': lambda f: lambda i, k: f(jax.nn.relu(i), k),
    'custom_vjp': with_derivative_of_its_own,
    'gradient of custom_vjp': lambda f: jax.grad(with_derivative_of_its_own(f), (0, 1)),
}


OF_EVERY_KIND = ('alone', 'gradients', 'second order', 'vmap')


def contained():
    """Derivatives and batches of every kind; what only holds a program holds one kind as it holds another."""
    for name in CONTAINERS:
        for kind in EXAMPLES:
            default = name in OF_EVERY_KIND or kind == 'pointwise'
            yield pytest.param(name, kind, marks=() if default else pytest.mark.thorough)


@pytest.mark.parametrize(('name', 'kind'), list(contained()))
def test_no_primitive_of_ours_in(name, kind):
    ours, _, shape = example(kind)
    assert_standard(CONTAINERS[name](waves(ours)), *operands_of(shape))


TRANSFORMATIONS = {
    'gradient': lambda f: jax.grad(f, (0, 1)),
    'forward over reverse': lambda f: lambda i, k: jax.jvp(jax.grad(f), (i, k), (i, k)),
    'gradients per example': lambda f: jax.vmap(jax.grad(lambda i, k: f(i[None], k), 1), (0, None)),
    'vmap over kernels': lambda f: lambda i, k: jax.vmap(f, (None, 0))(i, jnp.stack([k, -k])),
}


@every_kind
@pytest.mark.parametrize('name', TRANSFORMATIONS)
def test_it_can_be_transformed(name, kind):
    ours, reference, shape = example(kind)
    got, want = (TRANSFORMATIONS[name](f) for f in (ops.standard(waves(ours)), waves(reference)))
    operands = operands_of(shape)
    assert not ours_in(got, *operands)
    assert_close(*jax.jit(lambda *operands: (got(*operands), want(*operands)))(*operands), 1e-13)


def test_a_derivative_that_a_function_has_of_its_own_stays():
    """Half of the gradient of `maximum(x, 0)` at 0 is what an inlined `relu` would have."""
    assert jax.grad(ops.standard(jax.nn.relu))(0.0) == jax.grad(jax.nn.relu)(0.0) == 0


def test_names_of_scopes_stay():
    ours, _, shape = example('depthwise')

    @jax.jit
    def inner(images, kernel):
        with jax.named_scope('inner'):
            return jnp.sin(ours(images, kernel))

    def function(images, kernel):
        with jax.named_scope('outer'):
            return inner(images, kernel) + 1

    equations = jax.make_jaxpr(ops.standard(function))(*operands_of(shape)).eqns
    names = {equation.primitive.name: str(equation.source_info.name_stack) for equation in equations}
    assert names['sin'] == names['conv_general_dilated'] == 'outer/inner'
    assert names['add'] == 'outer'


def test_trees_names_and_closures():
    ours, _, shape = example('depthwise')
    images, kernel = operands_of(shape)

    def function(variables, *, offset):
        return {'outputs': [ours(images + offset, variables['kernel'])], 'nothing': None, 'number': 3}

    got = ops.standard(function)({'kernel': kernel, 'unused': None}, offset=1.0)
    assert_close(got['outputs'][0], ours(images + 1, kernel), 1e-15)
    assert got['nothing'] is None
    assert got['number'] == 3
    assert ops.standard(function).__name__ == 'function'


def test_what_it_closes_over_is_differentiated():
    ours, _, shape = example('few channels')
    images, kernel = operands_of(shape)

    def by(wrap):
        return jax.grad(lambda kernel: wrap(lambda images: waves(ours)(images, kernel))(images))(kernel)

    assert_close(by(ops.standard), by(lambda function: function), 1e-13)


def test_a_shard_map_is_refused():
    mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,))
    ours, _, shape = example('depthwise')
    sharded = jax.shard_map(ours, mesh=mesh, in_specs=(P('data'), P()), out_specs=P('data'))
    with pytest.raises(ValueError, match='inside the shard_map'):
        ops.standard(sharded)(*operands_of(shape))


def test_exported_for_a_cpu_with_a_symbolic_batch():
    ours, reference, shape = example('depthwise')
    (batch,) = export.symbolic_shape('batch')
    operands = jax.ShapeDtypeStruct((batch, 6, 5, 3), jnp.float64), jax.ShapeDtypeStruct(shape, jnp.float64)
    for transform in (lambda f: f, lambda f: jax.grad(waves(f), (0, 1))):
        exported = export.export(jax.jit(ops.standard(transform(ours))), platforms=['cpu'])(*operands)
        assert 'feature_group_count = 3' in exported.mlir_module()
        assert_close(exported.call(*operands_of(shape)), transform(reference)(*operands_of(shape)), 1e-13)


class FirstBlock(MobileNetV2):
    """With stem and head it has every primitive."""

    def stages(self):
        return super().stages()[:1]


NETWORKS = (MobileNetV2, MobileNetV3Small, MobileNetV4ConvSmall)


def network_and_gradient(network):
    """Variables and images, and functions of them: logits, and the gradient of a training step with its statistics."""
    model = network(num_classes=5, width_multiplier=0.35)
    images = np.random.default_rng(0).normal(size=(4, 33, 33, 3))
    variables = random_variables(model, images.shape, dtype=np.float64)

    def loss(params, statistics, images):
        rngs = {'dropout': jax.random.key(0)}
        logits, updates = model.apply(
            {'params': params, 'batch_stats': statistics}, images, train=True, mutable=['batch_stats'], rngs=rngs
        )
        return jnp.sum(jnp.sin(logits)), updates

    def gradient(variables, images):
        return jax.grad(loss, has_aux=True)(variables['params'], variables['batch_stats'], images)

    return variables, images, model.apply, gradient


@pytest.mark.parametrize(
    'network',
    [MobileNetV3Small, *(pytest.param(network, marks=pytest.mark.thorough) for network in (NETWORKS[0], NETWORKS[2]))],
)
def test_no_primitive_of_ours_in_a_network(network):
    variables, images, _, gradient = network_and_gradient(network)
    every = {primitive.name for primitive in STANDARD}
    assert ours_in(gradient, variables, images) == every
    assert not ours_in(ops.standard(gradient), variables, images)


@pytest.mark.parametrize(
    'network', [FirstBlock, *(pytest.param(network, marks=pytest.mark.thorough) for network in NETWORKS)]
)
def test_a_network_and_its_gradient(network):
    variables, images, apply, gradient = network_and_gradient(network)
    quickly = {'xla_backend_optimization_level': 0}
    for function in (apply, gradient):
        both = (jax.jit(each, compiler_options=quickly) for each in (ops.standard(function), function))
        got, want = (jax.tree.leaves(each(variables, images)) for each in both)
        # By the bias in front of a BatchNorm the gradient is nothing but rounding.
        floor = 1e-3 * max(np.max(np.abs(leaf)) for leaf in want)
        for value, reference in zip(got, want, strict=True):
            assert np.max(np.abs(value - reference)) <= 1e-10 * max(np.max(np.abs(reference)), floor)


def test_an_exported_network_has_grouped_convolutions_and_no_shifted_sums():
    variables, images, apply, _ = network_and_gradient(FirstBlock)
    (batch,) = export.symbolic_shape('batch')
    shape = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    exported = export.export(jax.jit(ops.standard(apply)), platforms=['cpu'])(variables, shape)
    text = exported.mlir_module()
    assert text.count('stablehlo.convolution') == text.count('feature_group_count')
    depthwise = [name for name, _ in jax.tree.leaves_with_path(variables['params']) if 'depthwise' in str(name)]
    assert depthwise
    assert 'stablehlo.pad' not in text
    assert_close(exported.call(variables, images), jax.jit(apply)(variables, images), 1e-12)
