"""Every transformation of JAX gives what it means: numbers against the plain computation, in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from benchmarks.random_variables import random_variables
from flaxmobile.models import MobileNetEdgeTPUV2XS, MobileNetV1, MobileNetV2, MobileNetV3Small, MobileNetV4HybridMedium
from flaxmobile.models.mobilenetv4 import attention, convnext, fused, inverted_bottleneck


class FirstBlocks(MobileNetV3Small):
    """Every kind of layer of the first three generations in three blocks: the default run compiles no more."""

    table = MobileNetV3Small.table[:2]


class OneBlock(MobileNetV3Small):
    """Without `jit` every operation is compiled by itself."""

    table = MobileNetV3Small.table[:1]


class UniversalBlocks(MobileNetV4HybridMedium):
    """Every kind of layer that the fourth adds, and blur pools."""

    anti_aliasing = 'blur'
    table = (
        (fused(3, 4, 16, s=2),),
        (convnext(3, 2, 24, s=2), attention(2, 8, 2), inverted_bottleneck(3, 2, 24), attention(2, 8)),
    )


class GroupedBlocks(MobileNetEdgeTPUV2XS):
    """MobileNet-EdgeTPU-V2's first blocks, in small groups."""

    table = MobileNetEdgeTPUV2XS.table[:2]
    stage_features = MobileNetEdgeTPUV2XS.stage_features[:3]
    group_size = 16


NETWORKS = {
    'one block': (OneBlock, 0.5),
    'first blocks': (FirstBlocks, 0.5),
    'universal blocks': (UniversalBlocks, 0.5),
    'grouped blocks': (GroupedBlocks, 0.5),
    'v1': (MobileNetV1, 0.25),
    'v2': (MobileNetV2, 0.35),
    'v3': (MobileNetV3Small, 0.35),
}
# Blocks have every layer; whole networks repeat them.
MARKS = {'first blocks': (), **dict.fromkeys(('v1', 'v2', 'v3'), (pytest.mark.slow, pytest.mark.thorough))}
FAMILIES = list(NETWORKS)[1:]
every_family = pytest.mark.parametrize(
    'family', [pytest.param(family, marks=MARKS.get(family, pytest.mark.slow)) for family in FAMILIES]
)
LIMIT = 1e-10
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})  # Compiled in less time.
BATCH, CLASSES, DEVICES = 4, 5, 2


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Case:
    """A small network, its variables, images, labels, and the functions that several tests compile once."""

    def __init__(self, family):
        network, width = NETWORKS[family]
        self.model = network(num_classes=CLASSES, width_multiplier=width, dropout_rate=0.0)
        rng = np.random.default_rng(0)
        self.images = jnp.asarray(rng.normal(size=(BATCH, 32, 32, 3)))
        self.labels = jnp.asarray(rng.integers(0, CLASSES, BATCH))
        self.variables, self.others = (
            random_variables(self.model, self.images.shape, seed=seed, dtype=np.float64) for seed in (0, 1)
        )
        self.apply = jit(self.model.apply)
        self.gradient = jit(jax.grad(self.loss))

    def loss(self, params, image, label):
        logits = self.model.apply({**self.variables, 'params': params}, image[None])
        return -jax.nn.log_softmax(logits)[0, label]

    def training(self, axis_name=None, *, gradient=False):
        """(variables, images, labels) to logits and new statistics, and the gradient of the mean loss."""
        model = self.model.clone(batch_norm_axis_name=axis_name)

        def loss(params, statistics, images, labels):
            logits, updated = model.apply(
                {'params': params, 'batch_stats': statistics}, images, train=True, mutable=['batch_stats']
            )
            losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
            mean = jnp.mean(losses)
            return lax.pmean(mean, axis_name) if axis_name else mean, (logits, updated['batch_stats'])

        def run(variables, images, labels):
            arguments = (variables['params'], variables['batch_stats'], images, labels)
            return jax.grad(loss, has_aux=True)(*arguments) if gradient else loss(*arguments)[1]

        return run


case = functools.cache(Case)


def assert_close(got, want, limit=LIMIT):
    """Each leaf relative to its largest number; mere rounding (a bias before BatchNorm) relative to the tree."""
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    floor = 1e-3 * max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(want))
    for (path, value), reference in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        scale = max(np.max(np.abs(reference)), floor)
        assert np.max(np.abs(np.asarray(value) - np.asarray(reference))) <= limit * scale, jax.tree_util.keystr(path)


def direction(params):
    """One random number for each parameter."""
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)


@pytest.mark.parametrize(
    'family',
    [
        'one block',
        *(pytest.param(name, marks=MARKS.get(name, pytest.mark.slow) or pytest.mark.thorough) for name in FAMILIES),
    ],
)
def test_jit_and_eval_shape(family):
    this = case(family)
    logits = this.apply(this.variables, this.images)
    assert np.ptp(np.asarray(logits), axis=0).min() > 1e-2  # the images are told apart
    assert_close(this.model.apply(this.variables, this.images), logits)
    shape = jax.eval_shape(this.model.apply, this.variables, this.images)
    assert (shape.shape, shape.dtype) == (logits.shape, logits.dtype) == ((BATCH, CLASSES), jnp.float64)


@every_family
def test_vmap_over_images(family):
    this = case(family)
    one_by_one = jit(jax.vmap(lambda image: this.model.apply(this.variables, image[None])[0]))(this.images)
    assert_close(one_by_one, this.apply(this.variables, this.images))


@every_family
def test_vmap_over_parameters_is_an_ensemble(family):
    this = case(family)
    both = jax.tree.map(lambda *leaves: np.stack(leaves), this.variables, this.others)
    ensemble = jit(jax.vmap(this.model.apply, in_axes=(0, None)))(both, this.images)
    assert_close(ensemble, np.stack([this.apply(v, this.images) for v in (this.variables, this.others)]))


@pytest.mark.slow
@every_family
def test_jvp_grad_and_finite_differences(family):
    this = case(family)
    params = this.variables['params']
    towards = direction(params)
    loss = functools.partial(this.loss, image=this.images[0], label=this.labels[0])
    value, slope = jit(lambda p, t: jax.jvp(loss, (p,), (t,)))(params, towards)
    gradient = this.gradient(params, this.images[0], this.labels[0])
    product = sum(jnp.vdot(g, t) for g, t in zip(jax.tree.leaves(gradient), jax.tree.leaves(towards), strict=True))
    np.testing.assert_allclose(slope, product, rtol=LIMIT)
    step = 1e-7

    def loss_at(distance):
        moved = jax.tree.map(lambda p, t: p + distance * t, params, towards)
        return -jax.nn.log_softmax(this.apply({**this.variables, 'params': moved}, this.images))[0, this.labels[0]]

    up, down = loss_at(step), loss_at(-step)
    np.testing.assert_allclose(value, (up + down) / 2, rtol=1e-6)
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-4)


@pytest.mark.slow
@every_family
def test_vmap_of_grad_is_a_gradient_per_example(family):
    this = case(family)
    params, number = this.variables['params'], 2
    per_example = jit(jax.vmap(jax.grad(this.loss), in_axes=(None, 0, 0)))
    together = per_example(params, this.images[:number], this.labels[:number])
    for n in range(number):
        one = jax.tree.map(lambda leaf, n=n: leaf[n], together)
        assert_close(one, this.gradient(params, this.images[n], this.labels[n]))


def split(values):
    return values.reshape(DEVICES, -1, *values.shape[1:])


@pytest.mark.slow
@every_family
def test_batch_norm_over_a_named_axis_is_that_of_the_whole_batch(family):
    this = case(family)
    gradient, (logits, statistics) = jit(this.training(gradient=True))(this.variables, this.images, this.labels)
    alone, _ = jit(this.training())(this.variables, this.images[:2], this.labels[:2])
    assert np.max(np.abs(alone - logits[:2])) > 1e-2 * np.max(np.abs(logits))  # two images' statistics are not four's
    mapped = this.training('batch')
    for transform in (jax.vmap, jax.pmap):
        run = transform(mapped, axis_name='batch', in_axes=(None, 0, 0))
        run = jit(run) if transform is jax.vmap else run
        parts, everywhere = run(this.variables, split(this.images), split(this.labels))
        assert_close(parts.reshape(logits.shape), logits)
        for device in (0, DEVICES - 1):
            assert_close(jax.tree.map(lambda leaf, d=device: leaf[d], everywhere), statistics)
    mesh = jax.make_mesh((DEVICES,), ('batch',), axis_types=(AxisType.Auto,), devices=jax.devices()[:DEVICES])
    sharded = jax.shard_map(
        this.training('batch', gradient=True),
        mesh=mesh,
        in_specs=(P(), P('batch'), P('batch')),
        out_specs=(P(), (P('batch'), P())),
    )
    got = jax.device_get(jit(sharded)(this.variables, this.images, this.labels))
    assert_close(got, jax.device_get((gradient, (logits, statistics))))


@every_family
def test_one_exported_artefact_for_cpu_cuda_and_tpu(family):
    this = case(family)
    exported = export.export(jax.jit(this.model.apply), platforms=('cpu', 'cuda', 'tpu'))(this.variables, this.images)
    loaded = export.deserialize(exported.serialize())
    assert loaded.platforms == ('cpu', 'cuda', 'tpu')
    assert_close(loaded.call(this.variables, this.images), this.apply(this.variables, this.images))
