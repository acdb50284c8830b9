"""Our norms against Flax's, against cases worked by hand, and over a mapped axis."""

import functools
import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from flaxmobile.layers.normalization import BatchNorm, RMSNorm, SingleValues

CONSTANTS = {'momentum': 0.9, 'epsilon': 1e-3}
LIMITS = {'float64': 1e-12, 'float32': 1e-5}


def relative(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.max(np.abs(got - want)) / np.max(np.abs(want))


def assert_close(got, want, limit):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for value, reference in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert relative(value, reference) <= limit


def drawn(dtype):
    """Variables, images and a cotangent; no factor near 0."""
    shape = 4, 5, 6, 3
    rng = np.random.default_rng(0)
    params = {'scale': rng.uniform(0.5, 1.5, 3), 'bias': rng.normal(size=3)}
    statistics = {'mean': rng.normal(size=3), 'var': rng.uniform(0.5, 1.5, 3)}
    values = {'params': params, 'batch_stats': statistics}, rng.normal(1, 2, shape), rng.normal(size=shape)
    return jax.tree.map(lambda value: jnp.asarray(value, dtype), values)


@functools.partial(jax.jit, static_argnums=0)
def outcome(layer, variables, images, cotangent):
    """Outputs, running statistics after, and the gradients by parameters and images."""

    def apply(params, images):
        outputs, updates = layer.apply({**variables, 'params': params}, images, mutable=['batch_stats'])
        return outputs, updates['batch_stats']

    outputs, transpose, statistics = jax.vjp(apply, variables['params'], images, has_aux=True)
    return outputs, statistics, transpose(cotangent)


@pytest.mark.parametrize('dtype', LIMITS)
@pytest.mark.parametrize('evaluation', [False, True])
def test_equals_flax(evaluation, dtype):
    with jax.enable_x64(dtype == 'float64'):
        operands = drawn(dtype)
        got = outcome(BatchNorm(use_running_average=evaluation, param_dtype=dtype, **CONSTANTS), *operands)
        flax = nn.BatchNorm(use_running_average=evaluation, param_dtype=dtype, **CONSTANTS)
        assert_close(got, outcome(flax, *operands), LIMITS[dtype])


def test_the_variables_are_those_of_flax():
    images = jnp.ones((2, 4, 4, 3))
    ours, flax = (
        jax.jit(layer(use_running_average=False).init)(jax.random.key(0), images) for layer in (BatchNorm, nn.BatchNorm)
    )
    assert jax.tree.structure(ours) == jax.tree.structure(flax)
    jax.tree.map(np.testing.assert_array_equal, ours, flax)


def test_by_hand():
    """Channel 0 has mean 3 and variance 4; channel 1 mean 10 and variance 0, which leaves its bias."""
    images = jnp.asarray([[1.0, 10.0], [5.0, 10.0]]).reshape(2, 1, 1, 2)
    params = {'scale': jnp.asarray([2.0, 3.0]), 'bias': jnp.asarray([0.5, -1.0])}
    statistics = {'mean': jnp.asarray([1.0, 2.0]), 'var': jnp.asarray([1.0, 2.0])}
    layer = BatchNorm(use_running_average=False, momentum=0.75, epsilon=2.25)
    apply = jax.jit(functools.partial(layer.apply, mutable=['batch_stats']))
    outputs, updates = apply({'params': params, 'batch_stats': statistics}, images)
    np.testing.assert_allclose(outputs.reshape(2, 2), [[0.5 - 4 / 2.5, -1], [0.5 + 4 / 2.5, -1]], atol=1e-6)
    np.testing.assert_allclose(updates['batch_stats']['mean'], [1.5, 4], rtol=1e-6)
    np.testing.assert_allclose(updates['batch_stats']['var'], [1.75, 1.5], rtol=1e-6)
    evaluated = jax.jit(BatchNorm(use_running_average=True, epsilon=1.25).apply)(
        {'params': params, 'batch_stats': statistics}, images
    )
    np.testing.assert_allclose(evaluated.reshape(2, 2)[:, 0], [0.5, 0.5 + 2 * 4 / 1.5], rtol=1e-6)


@pytest.mark.parametrize('mean', [0, 10, 100])
def test_a_large_mean_costs_no_more_than_in_flax(mean):
    """The variance is a mean of squares less a squared mean: its error grows as the square of mean / deviation.

    And as the root of how many values there are, where a machine adds them one by one.
    """
    images = np.random.default_rng(0).normal(mean, 1, (8, 14, 14, 16)).astype(np.float32)
    exact = images.astype(np.float64)
    want = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + CONSTANTS['epsilon'])
    ours, flax = (
        relative(
            jax.jit(functools.partial(layer(use_running_average=False, **CONSTANTS).apply, mutable=True))(
                variables_of(images), images
            )[0],
            want,
        )
        for layer in (BatchNorm, nn.BatchNorm)
    )
    assert ours <= 2**-24 * (1 + mean**2) * np.sqrt(images.size // images.shape[-1])
    assert ours <= 1.5 * flax


def variables_of(images):
    zeros, ones = np.zeros(images.shape[-1:], np.float32), np.ones(images.shape[-1:], np.float32)
    return {'params': {'scale': ones, 'bias': zeros}, 'batch_stats': {'mean': zeros, 'var': ones}}


def test_bfloat16_images_have_float32_statistics():
    images = jnp.asarray(np.random.default_rng(0).normal(1, 2, (8, 14, 14, 3)), jnp.bfloat16)
    layer = BatchNorm(use_running_average=False, **CONSTANTS)
    apply = jax.jit(functools.partial(layer.apply, mutable=['batch_stats']))
    outputs, updates = apply(variables_of(images), images)
    wide, exact = apply(variables_of(images), images.astype(jnp.float32))
    assert outputs.dtype == jnp.bfloat16
    np.testing.assert_array_equal(outputs, wide.astype(jnp.bfloat16))
    for value, same in zip(jax.tree.leaves(updates), jax.tree.leaves(exact), strict=True):
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, same)
    gradient = jax.grad(lambda images: layer.apply(variables_of(images), images, mutable=True)[0].astype(float).sum())
    assert jax.eval_shape(gradient, images).dtype == jnp.bfloat16


def training(layer):
    """Outputs and statistics as a function of parameters and images."""

    def apply(params, images):
        variables = {**variables_of(images), 'params': params}
        return layer.apply(variables, images, mutable=['batch_stats'])

    return apply


def test_forward_mode_equals_flax():
    with jax.enable_x64(True):
        variables, images, tangent = drawn('float64')
        primals, tangents = (variables['params'], images), (jax.tree.map(jnp.cos, variables['params']), tangent)
        got, want = (
            jax.jit(functools.partial(jax.jvp, training(layer(use_running_average=False, **CONSTANTS))))(
                primals, tangents
            )
            for layer in (BatchNorm, nn.BatchNorm)
        )
        assert_close(got, want, 1e-12)


SHARED = BatchNorm(use_running_average=False, axis_name='data', **CONSTANTS)


def shards_by_vmap(function):
    """`function` of parameters and a shard, over two shards of the batch."""

    def whole(params, images):
        shards = images.reshape(2, -1, *images.shape[1:])
        outputs, updates = jax.vmap(function, in_axes=(None, 0), out_axes=(0, None), axis_name='data')(params, shards)
        return outputs.reshape(images.shape), updates

    return whole


def shards_by_shard_map(function):
    mesh = jax.make_mesh((2,), ('data',), axis_types=(AxisType.Auto,))
    return jax.shard_map(function, mesh=mesh, in_specs=(P(), P('data')), out_specs=(P('data'), P()))


every_mapping = pytest.mark.parametrize('mapped', [shards_by_vmap, shards_by_shard_map])


@every_mapping
def test_statistics_shared_over_an_axis_are_those_of_the_whole_batch(mapped):
    with jax.enable_x64(True):
        variables, images, cotangent = drawn('float64')

        def outcome_of(function):
            outputs, transpose, updates = jax.vjp(jax.jit(function), variables['params'], images, has_aux=True)
            return outputs, updates, transpose(cotangent)

        whole = training(nn.BatchNorm(use_running_average=False, **CONSTANTS))
        assert_close(outcome_of(mapped(training(SHARED))), outcome_of(whole), 1e-12)


def test_one_collective_for_mean_and_variance():
    variables, images, _ = drawn('float32')
    text = jax.jit(shards_by_shard_map(training(SHARED))).lower(variables['params'], images).compile().as_text()
    assert len(re.findall(r' all-reduce(?:-start)?\(', text)) == 1
    assert not re.search('all-gather|all-to-all|collective-permute', text)


@pytest.mark.parametrize('shape', [(1, 3), (1, 1, 1, 3)])
def test_one_value_per_channel_is_told_in_training(shape):
    """The output is the bias whatever the image, and there is no gradient: torch raises an error here."""
    layer, images = BatchNorm(use_running_average=False), np.random.default_rng(0).normal(3, 2, shape)
    variables = variables_of(images)
    variables['params']['bias'] += [1, 2, 3]
    images = jnp.asarray(images, jnp.float32)

    def apply(images):
        return layer.apply(variables, images, mutable=['batch_stats'])[0]

    with pytest.warns(SingleValues, match='BatchNorm: BatchNorm in training sees one value per channel'):
        outputs, transpose = jax.vjp(apply, images)
    np.testing.assert_allclose(outputs.ravel(), [1, 2, 3], atol=1e-5)
    np.testing.assert_array_equal(transpose(jnp.ones_like(images))[0], jnp.zeros_like(images))


def test_nothing_is_told_of_more_values_of_evaluation_and_of_a_start():
    one = jnp.ones((1, 1, 1, 3))
    training, evaluation = BatchNorm(use_running_average=False), BatchNorm(use_running_average=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        jax.eval_shape(training.init, jax.random.key(0), one)
        jax.eval_shape(evaluation.apply, variables_of(one), one)
        for shape in ((2, 1, 1, 3), (1, 2, 1, 3), (1, 1, 2, 3), (2, 3)):
            jax.eval_shape(
                functools.partial(training.apply, mutable=['batch_stats']), variables_of(one), np.ones(shape)
            )


def test_training_exports_with_a_symbolic_batch():
    layer, one = BatchNorm(use_running_average=False), jnp.ones((1, 2, 2, 3))
    (batch,) = export.symbolic_shape('batch')
    exported = export.export(
        jax.jit(lambda images: layer.apply(variables_of(one), images, mutable=['batch_stats'])[0])
    )(jax.ShapeDtypeStruct((batch, 2, 2, 3), jnp.float32))
    images = jnp.asarray(np.random.default_rng(0).normal(3, 2, (5, 2, 2, 3)), jnp.float32)
    want = (images - images.mean((0, 1, 2))) / np.sqrt(images.var((0, 1, 2)) + layer.epsilon)
    np.testing.assert_allclose(exported.call(images), want, atol=1e-4)


@pytest.mark.parametrize('devices', [1, 2])
def test_a_mapped_axis_counts(devices):
    one = jnp.ones((1, 1, 1, 3))
    layer = BatchNorm(use_running_average=False, axis_name='batch')
    apply = jax.vmap(
        lambda images: layer.apply(variables_of(one), images, mutable=['batch_stats'])[0], axis_name='batch'
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        jax.eval_shape(apply, np.ones((devices, *one.shape)))
    assert [warning.category for warning in caught] == ([SingleValues] if devices == 1 else [])


@pytest.mark.parametrize('dtype', LIMITS)
def test_rms_norm_equals_flax(dtype):
    with jax.enable_x64(dtype == 'float64'):
        variables, images, cotangent = drawn(dtype)
        params = {'scale': variables['params']['scale']}
        outcomes = []
        for layer in (RMSNorm(epsilon=1e-3), nn.RMSNorm(epsilon=1e-3)):

            @jax.jit
            def both(params, images, cotangent, layer=layer):
                outputs, transpose = jax.vjp(
                    lambda params, images: layer.apply({'params': params}, images), params, images
                )
                return outputs, transpose(cotangent)

            outcomes.append(both(params, images, cotangent))
        assert_close(*outcomes, LIMITS[dtype])


def test_rms_norm_by_hand():
    """Of 1, 5 and 7 the mean square is 25, and of 3, 3 and 3 it is 9; pixel by pixel, with an epsilon of 11 and 16."""
    images = jnp.asarray([[1.0, 5.0, 7.0], [3.0, 3.0, 3.0]]).reshape(1, 2, 1, 3)
    params = {'scale': jnp.asarray([1.0, 2.0, -3.0])}
    for epsilon, roots in ((11.0, (6.0, np.sqrt(20))), (16.0, (np.sqrt(41), 5.0))):
        outputs = jax.jit(RMSNorm(epsilon=epsilon).apply)({'params': params}, images).reshape(2, 3)
        want = np.asarray([[1, 10, -21], [3, 6, -9]]) / np.asarray(roots)[:, None]
        np.testing.assert_allclose(outputs, want, rtol=1e-6)


def test_rms_norm_has_a_scale_of_ones_and_no_statistics():
    layer = RMSNorm(param_dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), jnp.ones((1, 2, 2, 3)))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, float(leaf.sum())), dict(variables)) == {
        'params': {'scale': ((3,), jnp.bfloat16, 3.0)}
    }
    assert layer.epsilon == 1e-6


def test_rms_norm_of_bfloat16_computes_in_float32():
    images = jnp.asarray(np.random.default_rng(0).normal(1, 200, (2, 3, 3, 16)), jnp.bfloat16)
    variables = {'params': {'scale': jnp.full(16, 1.01)}}
    outputs, wide = (jax.jit(RMSNorm().apply)(variables, values) for values in (images, images.astype(jnp.float32)))
    assert outputs.dtype == jnp.bfloat16
    np.testing.assert_array_equal(outputs, wide.astype(jnp.bfloat16))
    # Squares of float16 values above 256 are beyond its range; the norm's are not.
    half = jnp.full((1, 1, 1, 4), 1000, jnp.float16)
    np.testing.assert_allclose(
        RMSNorm().apply({'params': {'scale': jnp.ones(4)}}, half), np.ones((1, 1, 1, 4)), rtol=1e-3
    )
