"""Shapes, strides, types, parameter paths and names of the networks, by hand and against each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile import layers
from flaxmobile.models import (
    MobileNetEdgeTPUV1,
    MobileNetV1,
    MobileNetV2,
    MobileNetV3Large,
    MobileNetV3Small,
    MobileNetV4ConvMedium,
    MobileNetV4ConvSmall,
    MobileNetV4HybridMedium,
    SemNASNet,
)
from flaxmobile.models.mobilenetv4 import attention, extra_dw

# Channels of the last map at each halving of the image, and what the classifier is given (the papers' tables).
CHANNELS = {
    MobileNetV1: ((64, 128, 256, 512, 1024), 1024),
    MobileNetV2: ((16, 24, 32, 96, 320), 1280),
    MobileNetV3Large: ((16, 24, 40, 112, 960), 1280),
    MobileNetV3Small: ((16, 16, 24, 48, 576), 1024),
    MobileNetV4ConvSmall: ((32, 32, 64, 96, 960), 1280),
    MobileNetV4HybridMedium: ((32, 48, 80, 160, 960), 1280),
    MobileNetEdgeTPUV1: ((16, 32, 48, 96, 192), 1280),
    SemNASNet: ((16, 24, 40, 112, 320), 1280),
}
CLASSES = list(CHANNELS)
KEY = jax.random.key(0)


def image(size=(32, 32), channels=3, dtype=jnp.float32):
    return jax.ShapeDtypeStruct((1, *size, channels), dtype)


class ShortV2(MobileNetV2):
    """Stem, a block and the head."""

    def stages(self):
        return super().stages()[:1]


class ShortV3(MobileNetV3Small):
    """Stem, a block and the head, which is of another kind."""

    table = MobileNetV3Small.table[:1]


class ShortHybrid(MobileNetV4HybridMedium):
    """The first block of each stage, and attention."""

    table = (
        *(stage[:1] for stage in MobileNetV4HybridMedium.table[:-1]),
        (extra_dw(5, 5, 6, 256, s=2), attention(4, 64)),
    )


@functools.cache
def shapes(model, images, method='__call__'):
    """Of the outputs and of the variables."""
    return jax.eval_shape(functools.partial(model.init_with_output, method=method), KEY, images)


# From 32x32 up and odd sizes; a stem stride of 1 shows at the full depth and where it first is cut.
STRIDES = [
    (2, 32, (32, 32)),
    (2, 32, (97, 131)),
    (2, 16, (97, 131)),
    (2, 8, (97, 131)),
    (1, 32, (33, 45)),
    (1, 8, (33, 45)),
]


def every_stride():
    """All of the first network, the full depth of the others, and where it is cut of three of them."""
    for network in CLASSES:
        default = STRIDES if network is MobileNetV1 else STRIDES[1:2]
        default = STRIDES[1::4] if network in (MobileNetV3Small, MobileNetV4HybridMedium, SemNASNet) else default
        for case in STRIDES:
            yield pytest.param(network, *case, marks=() if case in default else pytest.mark.thorough)


@pytest.mark.parametrize(('network', 'stem_stride', 'output_stride', 'size'), every_stride())
def test_the_last_map_at_each_stride(network, stem_stride, output_stride, size):
    channels, _ = CHANNELS[network]
    strides = [stem_stride * 2**n for n in range(5)]
    reached = [stride for stride in strides if stride <= output_stride]
    want = dict(zip(strides, channels, strict=True))
    want[reached[-1]] = channels[-1]
    model = network(stem_stride=stem_stride, output_stride=output_stride)
    maps, _ = shapes(model, image(size), 'features')
    assert [leaf.shape for leaf in maps] == [
        (1, -(-size[0] // stride), -(-size[1] // stride), want[stride]) for stride in reached
    ]
    assert model.feature_strides == tuple(reached)
    assert model.feature_channels == tuple(want[stride] for stride in reached)


def test_strides_and_channels_of_a_folded_network_are_its_own():
    model = ShortHybrid(width_multiplier=0.5, stem_stride=1, output_stride=8)

    def maps(images):
        variables = layers.fold_batch_norm(model, model.init(KEY, images), images)
        return model.apply(variables, images, method='features')

    shapes = [leaf.shape for leaf in jax.eval_shape(maps, image())]
    assert model.feature_strides == (1, 2, 4, 8) == tuple(32 // height for _, height, _, _ in shapes)
    # A stem never shrinks; half of 48, 80 and of the last 960, each a multiple of 8.
    assert model.feature_channels == (32, 24, 40, 480) == tuple(channels for *_, channels in shapes)


def test_maps_keep_their_order_under_jit():
    model = MobileNetV3Small(width_multiplier=0.35, stem_stride=1)
    variables, outside = jax.eval_shape(model.init, KEY, image()), []

    @jax.jit
    def features(variables, images):
        maps = model.apply(variables, images, method='features')
        outside.extend(leaf.shape for leaf in maps)
        return maps

    *others, deepest = jax.eval_shape(features, variables, image((64, 64)))
    assert [leaf.shape for leaf in (*others, deepest)] == outside
    assert deepest.shape == (1, 4, 4, 200)  # 0.35 of 576, a multiple of 8


def test_more_than_a_hundred_blocks_keep_their_order():
    model = MobileNetV3Small(width_multiplier=0.1, depth_multiplier=12)
    depths = [block.channels for block in model.plan.blocks]
    assert len(depths) > 100
    assert [block.features for block in model.bind({}).block.values()] == depths


@pytest.mark.parametrize(
    ('convention', 'dilation'),
    [
        # The blocks with index 3 and 8 lose their strides; the last entry is the last pointwise convolution.
        ('torch', [1, 1, 1, 1, 2, 2, 2, 2, 2, 4, 4, 4]),
        ('tensorflow', [1, 1, 1, 1, 2, 2, 2, 2, 2, 4, 4, 4]),
        ('torchvision_v3', [1, 1, 1, 2, 2, 2, 2, 2, 4, 4, 4, 4]),
    ],
)
def test_only_torchvision_dilates_the_block_that_loses_its_stride(convention, dilation):
    places = [block.place for block in MobileNetV3Small(output_stride=8, convention=convention).plan.blocks]
    assert [placed.dilation for placed in places] == dilation
    assert [placed.strides for placed in places] == [2, 2] + [1] * 10


@pytest.mark.parametrize(
    ('side', 'maps', 'torch_s'),
    # Keras's stem rounds up, its strided depthwise convolutions round down.
    [
        pytest.param(224, [112, 56, 28, 14, 7], 7, marks=pytest.mark.thorough),
        (200, [100, 50, 25, 12, 6], 7),
        (225, [113, 56, 28, 14, 7], 8),
    ],
)
def test_maps_of_keras_s_mobilenetv1(side, maps, torch_s):
    found, _ = shapes(flaxmobile.create_model('tf_mobilenetv1_025'), image((side, 132)), 'features')
    assert [leaf.shape[1:3] for leaf in found] == list(zip(maps, [66, 33, 16, 8, 4], strict=True))
    for convention in ('tensorflow', 'torch'):
        *_, deepest = shapes(MobileNetV1(convention=convention), image((side, 132)), 'features')[0]
        assert deepest.shape[1:3] == (torch_s, 5)


def test_images_of_which_nothing_is_left_are_refused():
    model = MobileNetV1(convention='keras_v1')
    shapes(model, image((32, 31)))
    with pytest.raises(ValueError, match='images of 32x30 pixels are too small: nothing is left of them at stride 32'):
        shapes(model, image((32, 30)))


def test_average_pooling_floors_odd_sizes_and_gives_way_to_dilation():
    model = MobileNetV4ConvMedium(anti_aliasing='average', output_stride=16)
    maps, _ = shapes(model, image((97, 131)), 'features')
    assert [leaf.shape[1:3] for leaf in maps] == [(49, 66), (24, 33), (12, 16), (6, 8)]


@pytest.mark.parametrize(
    'network',
    [
        # V3Small has the head of the one, V2 that of the other.
        ShortV2,
        ShortV3,
        *(
            pytest.param(network, marks=[pytest.mark.thorough, pytest.mark.slow])
            if network in (MobileNetV2, MobileNetV3Small)
            else pytest.param(network, marks=pytest.mark.slow)
            for network in CLASSES
            if network not in (MobileNetV4HybridMedium, SemNASNet)
        ),
    ],
)
def test_num_classes_0_returns_the_classifier_s_input(network):
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    model = network(num_classes=5, width_multiplier=0.25)
    variables = random_variables(model, images.shape)
    classifier = variables['params']['classifier']

    @jax.jit
    def run(variables, images):
        rest = {**variables, 'params': {k: v for k, v in variables['params'].items() if k != 'classifier'}}
        return model.apply(variables, images), model.clone(num_classes=0).apply(rest, images)

    logits, pooled = run(variables, images)
    assert logits.shape == (2, 5)
    channels = {MobileNetV1: 256, ShortV2: 1280, ShortV3: 1024}
    assert pooled.shape == (2, channels.get(network) or CHANNELS[network][1])
    want = np.asarray(pooled, np.float64) @ np.asarray(classifier['kernel'], np.float64) + classifier['bias']
    np.testing.assert_allclose(logits, want, atol=1e-5 * np.abs(want).max())


def test_dropout_acts_on_the_classifier_s_input():
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    model = ShortV2(num_classes=0, width_multiplier=0.25, dropout_rate=0.75)
    variables = random_variables(model, images.shape)
    training = {'train': True, 'mutable': ['batch_stats']}

    @jax.jit
    def run(variables, images):
        dropped, _ = model.apply(variables, images, **training, rngs={'dropout': KEY})
        plain, _ = model.clone(dropout_rate=0.0).apply(variables, images, **training)
        return dropped, plain

    dropped, plain = (np.asarray(values) for values in run(variables, images))
    alive = np.abs(plain) > 1e-4 * np.abs(plain).max()
    kept = alive & (dropped != 0)
    assert abs(kept.sum() / alive.sum() - 0.25) < 0.05
    np.testing.assert_allclose(dropped[kept], 4 * plain[kept], rtol=1e-3)


def half_grey(network, method='__call__'):
    return shapes(network(num_classes=5, dtype=jnp.bfloat16), image(channels=1), method)


def every_map():
    """The maps of some; they are what the logits are computed of."""
    for network in CLASSES:
        yield network, '__call__'
        some = network in (MobileNetV1, MobileNetV4HybridMedium)
        yield pytest.param(network, 'features', marks=() if some else pytest.mark.thorough)


@pytest.mark.parametrize(('network', 'method'), every_map())
def test_computation_in_bfloat16_keeps_float32_parameters(network, method):
    outputs, variables = half_grey(network, method)
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype('bfloat16')}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}


@pytest.mark.slow
def test_bfloat16_comes_close_to_float32():
    model = MobileNetV1(num_classes=5, width_multiplier=0.25, dtype=jnp.bfloat16)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    variables = random_variables(model, images.shape)
    logits = jax.jit(model.apply)(variables, images)
    want = jax.jit(model.clone(dtype=None).apply)(variables, images)
    assert want.dtype == jnp.float32
    assert 1e-4 < jnp.max(jnp.abs(logits - want)) / jnp.max(jnp.abs(want)) < 0.05


@pytest.mark.parametrize('network', CLASSES)
def test_grey_images(network):
    _, variables = half_grey(network)
    assert variables['params']['stem']['conv']['kernel'].shape[:3] == (3, 3, 1)


def test_grey_images_are_colour_images_with_the_stem_summed():
    grey = np.random.default_rng(0).normal(size=(2, 33, 47, 1)).astype(np.float32)
    model = ShortV2(num_classes=5, width_multiplier=0.25)
    variables = random_variables(model, (1, 32, 32, 3))
    colour = jax.jit(model.apply)(variables, grey.repeat(3, axis=-1))
    stem = variables['params']['stem']['conv']
    stem['kernel'] = np.asarray(stem['kernel']).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, grey), colour, rtol=1e-3, atol=1e-4)


def test_parameter_paths():
    variables = jax.eval_shape(flaxmobile.create_model('mobilenetv3_small_100').init, KEY, image())
    params = {'/'.join(path): leaf.shape for path, leaf in flatten_dict(variables['params']).items()}
    assert params['stem/conv/kernel'] == (3, 3, 3, 16)
    assert params['stem/norm/scale'] == params['stem/norm/bias'] == (16,)
    assert params['block_03/expand/conv/kernel'] == (1, 1, 24, 96)
    assert params['block_03/depthwise/conv/kernel'] == (5, 5, 1, 96)
    assert params['block_03/squeeze_excite/reduce/kernel'] == (1, 1, 96, 24)
    assert params['block_03/project/norm/bias'] == (40,)
    assert params['head_conv/kernel'] == (1, 1, 576, 1024)
    assert params['classifier/kernel'] == (1024, 1000)
    assert params['classifier/bias'] == (1000,)
    statistics = {'/'.join(path) for path in flatten_dict(variables['batch_stats'])}
    assert {'stem/norm/mean', 'block_03/depthwise/norm/var'} <= statistics


def test_parameter_paths_of_mobilenetv4():
    variables = jax.eval_shape(flaxmobile.create_model('mobilenetv4_hybrid_medium').init, KEY, image())
    shape = {'/'.join(path): leaf.shape for path, leaf in flatten_dict(variables['params']).items()}
    assert shape['block_00/expand/conv/kernel'] == (3, 3, 32, 128)
    assert shape['block_03/depthwise_start/conv/kernel'] == (3, 3, 1, 80)
    assert shape['block_03/depthwise/conv/kernel'] == (5, 5, 1, 480)
    assert shape['block_03/layer_scale/gamma'] == (160,)
    assert {path.split('/')[1] for path in shape if path.startswith('block_04')} == {'expand', 'project', 'layer_scale'}
    assert {path: sizes for path, sizes in shape.items() if path.startswith('block_07')} == {
        'block_07/norm/scale': (160,),
        'block_07/norm/bias': (160,),
        'block_07/attention/query/project/kernel': (1, 1, 160, 256),
        'block_07/attention/key/depthwise/conv/kernel': (3, 3, 1, 160),
        'block_07/attention/key/depthwise/norm/scale': (160,),
        'block_07/attention/key/depthwise/norm/bias': (160,),
        'block_07/attention/key/project/kernel': (1, 1, 160, 64),
        'block_07/attention/value/depthwise/conv/kernel': (3, 3, 1, 160),
        'block_07/attention/value/depthwise/norm/scale': (160,),
        'block_07/attention/value/depthwise/norm/bias': (160,),
        'block_07/attention/value/project/kernel': (1, 1, 160, 64),
        'block_07/attention/output/project/kernel': (1, 1, 256, 160),
        'block_07/layer_scale/gamma': (160,),
    }
    assert shape['head_conv/conv/kernel'] == (1, 1, 960, 1280)
    assert shape['head_conv/norm/scale'] == (1280,)


FORMS = [
    'mobilenetv1_100h',
    'mobilenetv2_110d',
    'mobilenetv3_large_150d',
    'mobilenetv3_small_minimal_100',
    'mobilenetv3_rw',
    'mobilenetv4_conv_blur_medium',
    'mobilenetv4_hybrid_medium_075',
    'mobilenet_edgetpu_v2_xs',
    'mnasnet_small',
]


REPEATED = ('mobilenetv2_110d', 'mobilenetv3_large_150d', 'mobilenetv3_rw', 'mobilenetv4_conv_blur_medium')


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.thorough if name in REPEATED else ()) for name in FORMS]
)
def test_every_form_keeps_the_contract_of_paths(name):
    variables = jax.eval_shape(flaxmobile.create_model(name, num_classes=3).init, KEY, image())
    for path, leaf in flatten_dict(variables['params']).items():
        assert path[0] in ('stem', 'head_conv', 'classifier') or path[0].startswith('block_')
        # A depthwise kernel, and nothing else, has one input channel.
        depthwise = path[-1] == 'kernel' and leaf.ndim == 4 and leaf.shape[2] == 1
        assert depthwise == (path[-1] == 'kernel' and any(part.startswith('depthwise') for part in path)), path
        assert (path[-1] == 'scale') <= ('norm' in path), path
    assert {path[-2] for path in flatten_dict(variables['batch_stats'])} == {'norm'}


def test_stochastic_depth_grows_linearly_from_0():
    model = MobileNetV2(stochastic_depth_rate=0.34).bind({})
    rates = [block.stochastic_depth_rate for block in model.block.values()]
    np.testing.assert_allclose(rates, 0.34 * np.arange(17) / 17)
    blocks = MobileNetV4HybridMedium(stochastic_depth_rate=0.32).bind({}).block
    *rates, last = [getattr(block, 'stochastic_depth_rate', None) for block in blocks.values()]
    np.testing.assert_allclose(rates, 0.01 * np.arange(31))
    assert last is None


@pytest.mark.parametrize(
    ('images', 'message'),
    [
        (jnp.zeros((32, 32, 3)), r'images are \[batch, height, width, channels\], was given shape \(32, 32, 3\)'),
        (jnp.zeros((1, 32, 32, 3), jnp.uint8), 'images are floats, was given uint8'),
        (jnp.zeros((1, 32, 32, 3), jnp.int32), 'images are floats, was given int32'),
        (jnp.zeros((1, 32, 32, 1)), r'stem/conv: the parameters .* take 3 channels, the input .* has 1'),
    ],
)
def test_refused_images(images, message):
    model = MobileNetV1(width_multiplier=0.25, num_classes=2)
    variables = jax.eval_shape(model.init, KEY, image())
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.apply, variables, images)


def test_a_network_without_residual_branches_refuses_stochastic_depth():
    model = flaxmobile.create_model('mobilenetv1_025', stochastic_depth_rate=0.1)
    with pytest.raises(ValueError, match='MobileNetV1 has no residual branches'):
        jax.eval_shape(model.init, KEY, image())
