"""Compiled and exported programs: every platform in one, no gather of a sharded batch, no code that grows with it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from convolutions import EXAMPLES, assert_close, example, waves
from jax import export, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

every_kind = pytest.mark.parametrize('kind', EXAMPLES)


def random_operands(shape, *, batch=4, dtype=np.float32):
    rng = np.random.default_rng(0)
    return rng.normal(size=(batch, 6, 5, 3)).astype(dtype), rng.normal(size=shape).astype(dtype)


def gradients(convolve):
    return jax.jit(jax.grad(waves(convolve), (0, 1)))


@every_kind
def test_one_artefact_for_every_platform_and_batch(kind):
    ours, reference, shape = example(kind)
    (batch,) = export.symbolic_shape('batch')
    operands = jax.ShapeDtypeStruct((batch, 6, 5, 3), jnp.float32), jax.ShapeDtypeStruct(shape, jnp.float32)
    for own, theirs in ((jax.jit(ours), jax.jit(reference)), (gradients(ours), gradients(reference))):
        artefact = export.export(own, platforms=['cpu', 'cuda', 'tpu'])(*operands)
        restored = export.deserialize(artefact.serialize())
        for size in (1, 5):
            values = random_operands(shape, batch=size)
            assert_close(restored.call(*values), theirs(*values), 1e-6)


def stablehlo(function, platform, *operands):
    return export.export(jax.jit(function), platforms=[platform])(*operands).mlir_module()


def test_a_depthwise_convolution_follows_the_platform():
    ours, _, shape = example('depthwise')
    operands = random_operands(shape)
    for function, convolutions in ((ours, 1), (jax.grad(waves(ours), (0, 1)), 3)):
        assert 'stablehlo.convolution' not in stablehlo(function, 'cpu', *operands)
        for platform in ('tpu', 'cuda'):
            text = stablehlo(function, platform, *operands)
            assert len(re.findall(r'stablehlo.convolution.*(?:feature|batch)_group_count = 3', text)) == convolutions


def test_a_convolution_of_few_channels_follows_the_platform():
    ours, _, shape = example('few channels')
    operands = random_operands(shape)
    assert 'stablehlo.convolution' not in stablehlo(ours, 'cpu', *operands)
    assert all('stablehlo.convolution' in stablehlo(ours, platform, *operands) for platform in ('tpu', 'cuda'))


def test_a_pointwise_convolution_is_a_product_but_on_a_tpu():
    """There it is XLA's own convolution: forward, and for the gradients by kernel and images."""
    ours, _, shape = example('pointwise')
    for platform, product, convolution in (('cpu', 3, 0), ('cuda', 3, 0), ('tpu', 0, 3)):
        text = stablehlo(gradients(ours), platform, *random_operands(shape))
        assert text.count('stablehlo.dot_general') == product
        assert text.count('stablehlo.convolution') == convolution


def test_no_grouped_convolution_in_a_compiled_gradient_on_a_cpu():
    ours, reference, shape = example('depthwise')
    operands = random_operands(shape)
    compiled, grouped = (gradients(convolve).lower(*operands).compile().as_text() for convolve in (ours, reference))
    assert 'group_count' not in compiled
    assert 'group_count' in grouped


@every_kind
def test_code_does_not_grow_with_the_batch(kind):
    ours, _, shape = example(kind)

    def instructions(batch):
        operands = jax.ShapeDtypeStruct((batch, 14, 14, 3), jnp.float32), jax.ShapeDtypeStruct(shape, jnp.float32)
        return gradients(ours).lower(*operands).compile().as_text().count(' = ')

    small, middle, large = (instructions(batch) for batch in (8, 64, 512))
    assert middle <= small + 8
    assert large <= small + 8


def mesh_of(devices, axis_type):
    return jax.make_mesh((devices,), ('data',), axis_types=(axis_type,))


@every_kind
def test_gradients_inside_shard_map(kind):
    ours, reference, shape = example(kind)
    with jax.enable_x64(True):
        operands = random_operands(shape, dtype=np.float64)
        sharded = jax.shard_map(
            lambda *operands: lax.psum(waves(ours)(*operands), 'data'),
            mesh=mesh_of(2, AxisType.Auto),
            in_specs=(P('data'), P()),
            out_specs=P(),
        )
        assert_close(jax.jit(jax.grad(sharded, (0, 1)))(*operands), gradients(reference)(*operands), 1e-13)


def sharded(mesh, images, kernel):
    shardings = NamedSharding(mesh, P('data')), NamedSharding(mesh, P())
    return tuple(jax.device_put(values, sharding) for values, sharding in zip((images, kernel), shardings, strict=True))


@every_kind
@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
def test_a_sharded_batch_stays_where_it_is(axis_type, kind):
    ours, reference, shape = example(kind)
    mesh, plain = mesh_of(4, axis_type), random_operands(shape, batch=8)
    with jax.set_mesh(mesh):
        operands = sharded(mesh, *plain)
        for argument, collectives in ((0, set()), (1, {'all-reduce'})):
            compiled = jax.jit(jax.grad(waves(ours), argument)).lower(*operands).compile()
            assert collectives_of(compiled) == collectives
            assert_close(compiled(*operands), gradients(reference)(*plain)[argument], 1e-6)
        assert compiled_output_is_sharded(jax.jit(ours)(*operands))


def collectives_of(compiled):
    names = 'all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast'
    return set(re.findall(rf'({names})(?:-start)?\(', compiled.as_text()))


def compiled_output_is_sharded(outputs):
    return outputs.sharding.is_equivalent_to(NamedSharding(outputs.sharding.mesh, P('data')), outputs.ndim)
