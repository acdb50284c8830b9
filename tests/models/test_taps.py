"""Maps of single blocks, of expansions inside them, the classifier's input, and recomputed blocks."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.random_variables import random_variables
from flaxmobile.analysis.counts import count_layers
from flaxmobile.layers import ConvNorm, FusedInvertedBottleneck, InvertedResidual, ResidualBlock, fold_batch_norm
from flaxmobile.models import (
    MobileNet,
    MobileNetV1,
    MobileNetV2,
    MobileNetV3Large,
    MobileNetV4HybridMedium,
    create_model,
)
from flaxmobile.models.mobilenetv4 import attention, convnext, extra_dw, ffn, fused, inverted_bottleneck
from flaxmobile.models.network import variable_shapes

KEY = jax.random.key(0)
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


class Every(MobileNetV4HybridMedium):
    """Each kind of block that has an expansion, with its stride in each place, and attention."""

    stem_features = 8
    table = (
        (fused(3, 4, 16, s=2),),
        (convnext(3, 2, 24, s=2), ffn(2, 24), attention(2, 8, 2)),
        (extra_dw(3, 3, 2, 32, s=2), inverted_bottleneck(3, 3, 32)),
    )


class Own(MobileNet):
    """What the base's description says a network of one's own is."""

    def stem_layer(self):
        return ConvNorm(features=16, kernel_size=3)

    def stages(self):
        first = [InvertedResidual(features=16, expansion_ratio=1)]
        second = [InvertedResidual(features=24, strides=2), InvertedResidual(features=24)]
        return [first, second]


# By hand: stride to the image and channels. V3 large 12 is the paper's 13th bneck, whose expansion is SSDLite's C4.
STRIDES_AND_CHANNELS = [
    (MobileNetV3Large, {}, 'stem', 2, 16),
    (MobileNetV3Large, {}, 'block_03', 8, 40),
    (MobileNetV3Large, {}, 'block_05', 8, 40),
    (MobileNetV3Large, {}, 'block_12', 32, 160),
    (MobileNetV3Large, {}, 'block_12/expand', 16, 672),
    (MobileNetV3Large, {'output_stride': 16}, 'block_12', 16, 160),
    (MobileNetV3Large, {'output_stride': 8}, 'block_12/expand', 8, 672),
    (MobileNetV3Large, {'stem_stride': 1}, 'block_12/expand', 8, 672),
    (MobileNetV3Large, {}, 'block_15', 32, 960),
    (MobileNetV2, {}, 'block_13/expand', 16, 576),  # SSDLite's first map in 1801.04381: the expansion of layer 15
    (MobileNetV2, {'width_multiplier': 0.5}, 'block_13/expand', 16, 288),
    (MobileNetV1, {}, 'block_10', 16, 512),
    (Every, {}, 'block_00/expand', 4, 32),
    (Every, {}, 'block_01/expand', 8, 32),
    (Every, {'output_stride': 8, 'stem_stride': 2}, 'block_04/expand', 8, 48),
    (Every, {}, 'block_02/expand', 8, 48),
    (Every, {}, 'block_03', 8, 24),
    (Every, {}, 'block_04/expand', 8, 48),
    (Every, {}, 'block_05/expand', 16, 96),
]


@pytest.mark.parametrize(('network', 'fields', 'name', 'stride', 'channels'), STRIDES_AND_CHANNELS)
def test_strides_and_channels_are_known_without_a_trace(network, fields, name, stride, channels):
    model = network(**fields)
    assert model.tap_strides((name,)) == (stride,)
    assert model.tap_channels((name,)) == (channels,)
    (found,), _ = jax.eval_shape(
        functools.partial(model.init_with_output, names=(name,), method='taps'),
        KEY,
        jax.ShapeDtypeStruct((1, 97, 70, 3), jnp.float32),
    )
    assert found.shape == (1, -(-97 // stride), -(-70 // stride), channels)


def test_only_blocks_with_an_expansion_have_one_to_tap():
    names = MobileNetV2().tap_names
    assert names[:4] == ('stem', 'block_00', 'block_01', 'block_02')
    assert 'block_00/expand' not in names
    assert 'block_01/expand' in names
    assert not [name for name in MobileNetV1().tap_names if 'expand' in name]
    assert 'block_03/expand' not in Every().tap_names


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ('model', 'folded'),
    [
        (Every(num_classes=3), False),
        (Every(num_classes=3, output_stride=8, convention='torch'), False),
        (Every(num_classes=3), True),
        (Every(num_classes=3, remat=True), False),
    ],
    ids=['plain', 'dilated', 'folded', 'recomputed'],
)
def test_maps_are_what_the_modules_return(model, folded):
    """Against Flax's own record of what every module returns."""
    images = images_of(2, 40, 33, 3)
    variables = random_variables(model, images.shape)
    if folded:
        variables = jit(lambda variables: fold_batch_norm(model, variables, images))(variables)
        assert 'folded' in variables['params']['block_00']['expand']
    names = model.tap_names

    @jit
    def run(variables, images):
        _, captured = model.clone(remat=False).apply(
            variables, images, capture_intermediates=True, mutable=['intermediates']
        )
        return model.apply(variables, images, names, method='taps'), captured['intermediates']

    taps, captured = run(variables, images)
    assert len(taps) == len(names) > 10
    for name, values in zip(names, taps, strict=True):
        (want,) = functools.reduce(lambda tree, part: tree[part], name.split('/'), captured)['__call__']
        np.testing.assert_allclose(values, want, rtol=1e-5, atol=1e-5 * np.abs(want).max(), err_msg=name)


def test_maps_come_in_the_order_that_they_are_asked_for():
    model, images = Every(), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    names = ('block_05', 'stem', 'block_00/expand', 'block_05')
    (*maps,), _ = jax.eval_shape(functools.partial(model.init_with_output, names=names, method='taps'), KEY, images)
    assert [leaf.shape[3] for leaf in maps] == [32, 8, 32, 32] == list(model.tap_channels(names))
    assert [64 // leaf.shape[1] for leaf in maps] == [16, 2, 4, 16] == list(model.tap_strides(names))


def test_blocks_behind_the_last_map_do_not_run():
    model, images = MobileNetV3Large(), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(
        functools.partial(model.init, names=('block_03/expand', 'stem'), method='taps'), KEY, images
    )
    assert set(variables['params']) == {'stem', 'block_00', 'block_01', 'block_02', 'block_03'}
    whole = jax.eval_shape(model.init, KEY, images)
    program = jax.make_jaxpr(functools.partial(model.apply, names=('stem',), method='taps'))(whole, images)
    assert len(program.eqns) < 20


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('block_3',), r"unknown tap of MobileNetV2 'block_3'. Did you mean: .*block_03"),
        (('block_00/expand',), r"unknown tap of MobileNetV2 'block_00/expand'. Did you mean: .*block_../expand"),
        (('stem', 'block_17'), "unknown tap of MobileNetV2 'block_17'"),
        ('block_03', "a tuple of names, .*given 'block_03'"),
        ((3,), r'a tuple of names, .*given \(3,\)'),
    ],
)
def test_unknown_taps_are_refused(names, message):
    model = MobileNetV2()
    for call in (
        lambda: model.tap_strides(names),
        lambda: model.tap_channels(names),
        lambda: jax.eval_shape(
            functools.partial(model.init, names=names, method='taps'), KEY, jnp.zeros((1, 32, 32, 3))
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize('remat', [False, True])
def test_taps_under_transformations(remat):
    """A gradient, and a batch by `vmap`, against the plain calls."""
    model = Own(num_classes=0, dropout_rate=0.0, remat=remat)
    images, names = images_of(3, 24, 24, 3), ('block_01/expand', 'block_02')
    variables = random_variables(model, images.shape)

    def maps(images):
        return model.apply(variables, images, names, method='taps')

    def score(images):
        expanded, last = maps(images)
        return jnp.sum(jnp.sin(expanded)) + jnp.sum(last**2)

    def by_hand(images):
        bound = model.clone(remat=False).bind(variables)
        values = bound.block['00'](bound.stem(images))
        expanded = nn.relu6(_conv_norm(variables, ('block_01', 'expand'), values))
        return jnp.sum(jnp.sin(expanded)) + jnp.sum(bound.block['02'](bound.block['01'](values)) ** 2)

    got = jit(lambda images: (jax.grad(score)(images), jax.vmap(lambda one: maps(one[None]))(images)))(images)
    want = jit(lambda images: (jax.grad(by_hand)(images), maps(images)))(images)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-4 * np.abs(want[0]).max())
    for values, wanted in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(values[:, 0], wanted, rtol=1e-4, atol=1e-5)


def _conv_norm(variables, path, values):
    """A pointwise convolution and its BatchNorm, from their formulas."""
    params, statistics = (
        functools.reduce(lambda tree, part: tree[part], path, variables[kind]) for kind in ('params', 'batch_stats')
    )
    values = jnp.einsum('bhwc,cf->bhwf', values, params['conv']['kernel'][0, 0])
    norm, moments = params['norm'], statistics['norm']
    return (values - moments['mean']) / jnp.sqrt(moments['var'] + 1e-3) * norm['scale'] + norm['bias']


def test_a_network_inside_another_module_keeps_its_names():
    class Detector(nn.Module):
        backbone: MobileNet

        @nn.compact
        def __call__(self, images):
            names = ('block_01/expand', 'block_02')
            channels = self.backbone.tap_channels(names)
            fine, coarse = self.backbone.taps(images, names)
            return InvertedResidual(features=channels[1], name='top')(coarse), fine, channels

    model, images = Detector(Own()), images_of(1, 32, 32, 3)
    (top, fine, channels), variables = jit(model.init_with_output)(KEY, images)
    assert channels == (96, 24)
    assert (top.shape[3], fine.shape[3]) == (24, 96)
    assert set(variables['params']) == {'backbone', 'top'}
    assert set(variables['params']['backbone']) == {'stem', 'block_00', 'block_01', 'block_02'}
    backbone = {kind: values['backbone'] for kind, values in variables.items()}
    (want,) = jit(lambda variables: Own().apply(variables, images, ('block_01/expand',), method='taps'))(backbone)
    np.testing.assert_allclose(fine, want, rtol=1e-5)


def test_embed_is_what_the_classifier_is_given():
    model, images = Own(num_classes=5), images_of(2, 24, 24, 3)
    variables = random_variables(model, images.shape)

    @jit
    def run(variables):
        return (
            model.apply(variables, images, method='embed'),
            model.clone(num_classes=0).apply(variables, images),
            model.apply(variables, images),
            model.apply(variables, images, ('block_02',), method='taps')[0],
        )

    vectors, without, logits, last = (np.asarray(values, np.float64) for values in run(variables))
    np.testing.assert_array_equal(vectors, without)
    np.testing.assert_allclose(vectors, last.mean((1, 2)), rtol=1e-5)
    classifier = variables['params']['classifier']
    want = vectors @ np.asarray(classifier['kernel'], np.float64) + classifier['bias']
    np.testing.assert_allclose(logits, want, atol=1e-5 * np.abs(want).max())


def loss_of(model, variables, images):
    """A function of the parameters: the loss of a training step, the new statistics beside it."""

    def loss(params):
        logits, updates = model.apply(
            {**variables, 'params': params}, images, train=True, mutable=['batch_stats'], rngs={'dropout': KEY}
        )
        return jnp.sum(jnp.sin(logits)), updates

    return loss


def test_recomputed_blocks_give_the_same_step():
    """In float64, with stochastic depth and dropout: the same parameters, draws, statistics and gradients."""
    with jax.enable_x64(True):
        model = Own(num_classes=3, stochastic_depth_rate=0.9, dropout_rate=0.5)
        images = images_of(4, 16, 16, 3).astype(np.float64)
        variables = random_variables(model, images.shape, dtype=np.float64)
        again = model.clone(remat=True)
        assert jax.tree.map(jnp.shape, jax.eval_shape(again.init, KEY, images)) == jax.tree.map(jnp.shape, variables)
        (one, updates), gradient = jit(jax.value_and_grad(loss_of(model, variables, images), has_aux=True))(
            variables['params']
        )
        (other, same), twin = jit(jax.value_and_grad(loss_of(again, variables, images), has_aux=True))(
            variables['params']
        )
    np.testing.assert_allclose(other, one, rtol=1e-12)
    for got, want in zip(jax.tree.leaves((same, twin)), jax.tree.leaves((updates, gradient)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * max(1e-3, np.abs(want).max()))


def test_recomputed_blocks_keep_nothing_of_their_inside():
    """What a backward pass is given: with `remat` no map has the channels of an expansion (6 times 16 and 24)."""
    images = images_of(5, 32, 32, 3)

    def kept(model):
        variables = random_variables(model, images.shape)
        backward = jax.eval_shape(
            lambda params: jax.vjp(loss_of(model, variables, images), params, has_aux=True)[1], variables['params']
        )
        return {leaf.shape[3] for leaf in jax.tree.leaves(backward) if leaf.ndim == 4 and leaf.shape[0] == 5}

    assert {96, 144} <= kept(Own())
    assert kept(Own(remat=True)) == {3, 16, 24}


def test_recomputed_blocks_are_the_same_layers():
    """The same variables and counts, and no class made anew for a trace, which nothing would free."""
    model = create_model('mobilenetv2_035')
    again, before = model.clone(remat=True), InvertedResidual.__subclasses__()
    assert variable_shapes(again) == variable_shapes(model)
    assert count_layers(again, 64) == count_layers(model, 64)
    assert InvertedResidual.__subclasses__() == before


def test_a_block_without_dilation_is_refused_where_it_would_need_one():
    class Residual(Own):
        def stages(self):
            return [[ResidualBlock(features=16, strides=2)], [ResidualBlock(16, strides=2)], [ResidualBlock(16)]]

    images = jnp.zeros((1, 32, 32, 3))
    assert Residual().feature_strides == (2, 4, 8)
    jax.eval_shape(Residual(output_stride=8).init, KEY, images)

    class Deeper(Residual):
        def stages(self):
            return [*super().stages(), [ResidualBlock(24, strides=2), ResidualBlock(24)]]

    Deeper(output_stride=16).plan  # noqa: B018
    # The block that loses its stride keeps its dilation, and the next one needs 2.
    with pytest.raises(ValueError, match=r'^Deeper: output_stride=8 takes a dilation of 2 at block_04, and ResidualBl'):
        jax.eval_shape(Deeper(output_stride=8).init, KEY, images)


def test_a_block_s_own_dilation_is_kept_under_the_network_s():
    class Dilated(Own):
        def stages(self):
            blocks = [InvertedResidual(16, strides=2), InvertedResidual(16, dilation=3), FusedInvertedBottleneck(16)]
            return [blocks, [InvertedResidual(16, strides=4), *blocks[1:]]]

    for output_stride, dilations in ((32, [1, 3, 1, 1, 3, 1]), (8, [1, 3, 1, 1, 12, 4])):
        plan = Dilated(output_stride=output_stride).plan
        assert [block.module.dilation for block in plan.blocks] == dilations


def test_fields_of_a_place_reach_every_layer():
    convention = dataclasses.replace(create_model('mobilenetv2_100').convention, epsilon=0.5)
    model = Own(convention=convention, dtype=jnp.bfloat16, batch_norm_axis_name='i', stochastic_depth_rate=0.3)
    bound = model.bind({})
    for layer in (bound.stem, *bound.block.values()):
        assert (layer.convention, layer.dtype, layer.batch_norm_axis_name) == (convention, jnp.bfloat16, 'i')
    np.testing.assert_allclose([block.stochastic_depth_rate for block in bound.block.values()], [0, 0.1, 0.2])
    assert bound.classifier.dtype == jnp.bfloat16


def shape_of_maps(model, names, images):
    maps, _ = jax.eval_shape(functools.partial(model.init_with_output, names=names, method='taps'), KEY, images)
    return [leaf.shape for leaf in maps]
