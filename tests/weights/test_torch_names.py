"""timm's and torchvision's names, shapes and layout of our variables; round trips."""

import jax
import jax.numpy as jnp
import numpy as np
import published_names
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from two_blocks import TwoBlocks, arrays, assert_same_bits, filled, message, model, variables

import flaxmobile
from flaxmobile.layers import InvertedResidual
from flaxmobile.models import MobileNetV1, MobileNetV2
from flaxmobile.models.network import variable_shapes
from flaxmobile.weights import from_torch, recognition, to_torch
from flaxmobile.weights.torch_names import layouts

__all__ = ['arrays', 'model', 'variables']  # Fixtures.

# State dicts without num_batches_tracked: timm 1.0.31, torchvision 0.29.1.
STATE_DICTS = published_names.read('torch_names.txt', ('weight', 'bias', 'running_mean', 'running_var'), '.')


# Some of their tensors and our variables, written by hand.
PLACES = {
    ('torchvision', 'mobilenetv2_100'): {
        'features.1.conv.0.1.weight': 'params/block_00/depthwise/norm/scale',
        'features.1.conv.1.weight': 'params/block_00/project/conv/kernel',
        'features.1.conv.2.running_var': 'batch_stats/block_00/project/norm/var',
        'features.17.conv.0.1.bias': 'params/block_16/expand/norm/bias',
        'features.17.conv.1.1.bias': 'params/block_16/depthwise/norm/bias',
        'features.18.0.weight': 'params/head_conv/conv/kernel',
        'classifier.1.bias': 'params/classifier/bias',
    },
    ('timm', 'mobilenetv1_100h'): {
        'blocks.3.5.bn1.weight': 'params/block_10/depthwise/norm/scale',
        'blocks.3.5.conv_pw.weight': 'params/block_10/pointwise/conv/kernel',
        'blocks.3.5.bn2.running_mean': 'batch_stats/block_10/pointwise/norm/mean',
        'bn2.running_mean': 'batch_stats/head_conv/norm/mean',
    },
    ('timm', 'mobilenetv4_hybrid_medium'): {
        'blocks.0.0.conv_exp.weight': 'params/block_00/expand/conv/kernel',
        'blocks.0.0.bn1.weight': 'params/block_00/expand/norm/scale',
        'blocks.0.0.bn2.weight': 'params/block_00/project/norm/scale',
        'blocks.2.0.dw_start.bn.weight': 'params/block_03/depthwise_start/norm/scale',
        'blocks.2.0.pw_exp.bn.weight': 'params/block_03/expand/norm/scale',
        'blocks.2.0.dw_mid.bn.weight': 'params/block_03/depthwise/norm/scale',
        'blocks.2.0.pw_proj.bn.weight': 'params/block_03/project/norm/scale',
        'blocks.2.0.layer_scale.gamma': 'params/block_03/layer_scale/gamma',
        'blocks.2.4.norm.running_mean': 'batch_stats/block_07/norm/mean',
        'blocks.2.4.attn.query.proj.weight': 'params/block_07/attention/query/project/kernel',
        'blocks.2.4.attn.key.down_conv.weight': 'params/block_07/attention/key/depthwise/conv/kernel',
        'blocks.2.4.attn.key.norm.running_var': 'batch_stats/block_07/attention/key/depthwise/norm/var',
        'blocks.2.4.attn.key.proj.weight': 'params/block_07/attention/key/project/kernel',
        'blocks.2.4.attn.value.norm.bias': 'params/block_07/attention/value/depthwise/norm/bias',
        'blocks.2.4.attn.value.proj.weight': 'params/block_07/attention/value/project/kernel',
        'blocks.2.4.attn.output.proj.weight': 'params/block_07/attention/output/project/kernel',
        'norm_head.weight': 'params/head_conv/norm/scale',
    },
    ('timm', 'semnasnet_100'): {
        'blocks.0.0.bn1.weight': 'params/block_00/depthwise/norm/scale',
        'blocks.2.0.bn1.weight': 'params/block_03/expand/norm/scale',
        'blocks.2.0.bn2.weight': 'params/block_03/depthwise/norm/scale',
        'blocks.2.0.se.conv_expand.bias': 'params/block_03/squeeze_excite/expand/bias',
    },
}


def random_bits(model, channels):
    """Variables of the model: NaNs, infinities and denormals among them."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jnp.array(np.frombuffer(rng.bytes(leaf.size * leaf.dtype.itemsize), leaf.dtype).reshape(leaf.shape))

    return jax.tree.map(draw, variable_shapes(model, channels))


# With the places above, one of each family; `make parity` compares the names of every network with the library's.
OF_THEIR_KIND = ('torchvision tv_mobilenetv3_small_100', 'timm mobilenetv3_rw', 'timm mobilenet_edgetpu_v2_m')


def marked(words):
    layout, name = words.split()
    kept = words in OF_THEIR_KIND or (layout, name) in PLACES
    return pytest.param(layout, name, marks=() if kept else pytest.mark.thorough)


@pytest.mark.parametrize(('layout', 'name'), [marked(words) for words in STATE_DICTS])
def test_names_and_shapes_are_the_library_s(layout, name):
    model = flaxmobile.create_model(name)
    assigned = layouts(model)[layout].assign(recognition.shapes(name))
    assert {theirs: assigned[theirs].path for theirs in PLACES.get((layout, name), {})} == PLACES.get(
        (layout, name), {}
    )
    assert {theirs: place.foreign_shape for theirs, place in assigned.items()} == STATE_DICTS[f'{layout} {name}']
    given = {theirs: jax.ShapeDtypeStruct(place.foreign_shape, np.float32) for theirs, place in assigned.items()}
    fitting = [fit.networks for fit in recognition.fits(given) if not fit.wrong]
    assert any(name in networks for networks in fitting)


# MobileNetV3 small with two blocks: our module, timm's, torchvision's, and the shape of torch's `weight`.
MODULES = [
    ('stem/conv', 'conv_stem', 'features.0.0', (16, 3, 3, 3)),
    ('stem/norm', 'bn1', 'features.0.1', (16,)),
    ('block_00/depthwise/conv', 'blocks.0.0.conv_dw', 'features.1.block.0.0', (16, 1, 3, 3)),
    ('block_00/depthwise/norm', 'blocks.0.0.bn1', 'features.1.block.0.1', (16,)),
    ('block_00/squeeze_excite/reduce', 'blocks.0.0.se.conv_reduce', 'features.1.block.1.fc1', (8, 16, 1, 1)),
    ('block_00/squeeze_excite/expand', 'blocks.0.0.se.conv_expand', 'features.1.block.1.fc2', (16, 8, 1, 1)),
    ('block_00/project/conv', 'blocks.0.0.conv_pw', 'features.1.block.2.0', (16, 16, 1, 1)),
    ('block_00/project/norm', 'blocks.0.0.bn2', 'features.1.block.2.1', (16,)),
    ('block_01/expand/conv', 'blocks.1.0.conv_pw', 'features.2.block.0.0', (72, 16, 1, 1)),
    ('block_01/expand/norm', 'blocks.1.0.bn1', 'features.2.block.0.1', (72,)),
    ('block_01/depthwise/conv', 'blocks.1.0.conv_dw', 'features.2.block.1.0', (72, 1, 3, 3)),
    ('block_01/depthwise/norm', 'blocks.1.0.bn2', 'features.2.block.1.1', (72,)),
    ('block_01/project/conv', 'blocks.1.0.conv_pwl', 'features.2.block.2.0', (24, 72, 1, 1)),
    ('block_01/project/norm', 'blocks.1.0.bn3', 'features.2.block.2.1', (24,)),
    ('block_02/conv', 'blocks.2.0.conv', 'features.3.0', (576, 24, 1, 1)),
    ('block_02/norm', 'blocks.2.0.bn1', 'features.3.1', (576,)),
    ('head_conv', 'conv_head', 'classifier.0', (1024, 576, 1, 1)),
    ('classifier', 'classifier', 'classifier.3', (10, 1024)),
]
WITH_BIAS = ('squeeze_excite/reduce', 'squeeze_excite/expand', 'head_conv', 'classifier')


def expected_state_dict(flat, layout):
    """Our variables, moved by hand to where torch has them."""
    expected = {}
    for ours, timm, torchvision, shape in MODULES:
        theirs = timm if layout == 'timm' else torchvision
        if len(shape) == 1:
            expected[f'{theirs}.weight'] = flat[f'params/{ours}/scale']
            expected[f'{theirs}.bias'] = flat[f'params/{ours}/bias']
            expected[f'{theirs}.running_mean'] = flat[f'batch_stats/{ours}/mean']
            expected[f'{theirs}.running_var'] = flat[f'batch_stats/{ours}/var']
            expected[f'{theirs}.num_batches_tracked'] = np.array(0, np.int64)
        else:
            kernel = np.moveaxis(flat[f'params/{ours}/kernel'], (-1, -2), (0, 1))
            assert kernel.shape == shape
            expected[f'{theirs}.weight'] = kernel[..., 0, 0] if theirs == 'classifier.0' else kernel
            if ours.endswith(WITH_BIAS):
                expected[f'{theirs}.bias'] = flat[f'params/{ours}/bias']
    return expected


@pytest.mark.parametrize('layout', ['timm', 'torchvision'])
def test_names_order_and_values_of_a_small_network(layout):
    model = TwoBlocks(num_classes=10, convention={'timm': 'torch', 'torchvision': 'torchvision_v3'}[layout])
    variables = filled(model)
    flat = {path: np.asarray(values) for path, values in flatten_dict(variables, sep='/').items()}
    arrays = to_torch(variables, model, layout)
    expected = expected_state_dict(flat, layout)
    assert list(arrays) == list(expected)
    assert_same_bits(arrays, expected)
    stem, depthwise = flat['params/stem/conv/kernel'], flat['params/block_01/depthwise/conv/kernel']
    names = ('conv_stem', 'blocks.1.0.conv_dw') if layout == 'timm' else ('features.0.0', 'features.2.block.1.0')
    assert arrays[f'{names[0]}.weight'][5, 2, 0, 1] == stem[0, 1, 2, 5]
    assert arrays[f'{names[1]}.weight'][70, 0, 2, 1] == depthwise[2, 1, 0, 70]


class OneBlock(MobileNetV1):
    def stages(self):
        return super().stages()[:1]


class ThreeBlocks(MobileNetV2):
    def stages(self):
        return super().stages()[:2]


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from([OneBlock, TwoBlocks, ThreeBlocks]),
    width=st.sampled_from([0.1, 0.25, 0.4]),
    num_classes=st.integers(0, 11),
    channels=st.integers(1, 5),
    dtype=st.sampled_from(['bfloat16', 'float16', 'float32']),
    last=st.booleans(),
)
def test_round_trips_keep_every_bit(kind, width, num_classes, channels, dtype, last):
    model = kind(width_multiplier=width, num_classes=num_classes, param_dtype=dtype, convention='torch')
    layout = layouts(model).popitem()[0] if last else 'timm'
    if (kind, layout) == (TwoBlocks, 'torchvision'):
        model = model.clone(convention='torchvision_v3')
    variables = random_bits(model, channels)
    arrays = to_torch(variables, model, layout)
    loaded = from_torch(arrays, model)
    assert_same_bits(loaded, variables)
    assert_same_bits(to_torch(loaded, model, layout), arrays)


def test_default_layout_follows_the_convention(model, variables):
    assert 'conv_stem.weight' in to_torch(variables, model)
    with pytest.warns(UserWarning, match='network of timm'):
        assert 'conv_stem.weight' in to_torch(variables, model.clone(convention='tensorflow'))
    assert 'features.0.0.weight' in to_torch(variables, model.clone(convention='torchvision_v3'))


@pytest.mark.parametrize(
    ('theirs', 'param_dtype', 'params', 'statistics'),
    [
        ('float16', 'float32', 'float32', 'float32'),
        ('bfloat16', 'float32', 'float32', 'float32'),
        ('float32', 'bfloat16', 'float32', 'float32'),
        ('bfloat16', 'bfloat16', 'bfloat16', 'float32'),
        ('bfloat16', 'float16', 'float32', 'float32'),
        ('float64', 'float32', 'float64', 'float64'),
        ('float32', 'float64', 'float64', 'float32'),
    ],
)
def test_types_are_the_wider_of_the_file_s_and_the_model_s(model, arrays, theirs, param_dtype, params, statistics):
    with jax.enable_x64(True):
        given = {name: array.astype(theirs) for name, array in arrays.items() if array.ndim}
        loaded = from_torch(given, model.clone(param_dtype=param_dtype))
        for path, values in flatten_dict(loaded, sep='/').items():
            assert isinstance(values, jax.Array)
            assert values.dtype == (params if path.startswith('params') else statistics), path
        kernel = given['classifier.weight'].T.astype(params)
        assert np.asarray(loaded['params']['classifier']['kernel']).tobytes() == kernel.tobytes()


def test_float64_becomes_float32_without_x64(model, arrays):
    loaded = from_torch({name: array.astype('float64') for name, array in arrays.items()}, model)
    assert {values.dtype for values in jax.tree.leaves(loaded)} == {np.dtype('float32')}


def aligned(array):
    """A copy at a multiple of 64 bytes, which JAX would take as it is if it could."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copied = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copied[...] = array
    return copied


def test_loaded_variables_share_no_memory(model, arrays):
    arrays = {name: aligned(array) for name, array in arrays.items()}
    loaded = from_torch(arrays, model)
    before = np.array(loaded['params']['stem']['norm']['scale'])
    for array in arrays.values():
        array[...] = 1
    assert np.asarray(loaded['params']['stem']['norm']['scale']).tobytes() == before.tobytes()
    written = to_torch(loaded, model)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in written.values())


def test_layouts_that_a_library_does_not_have(model, variables):
    assert "'torchvision'" in message(lambda: to_torch(variables, OneBlock(), 'torchvision'))
    assert "'keras'" in message(lambda: to_torch(variables, model, 'keras'))


class OwnBlock(InvertedResidual):
    def setup(self):
        self.param('temperature', lambda key: jnp.ones(()))


class WithOwnBlock(TwoBlocks):
    module: type = OwnBlock

    def stages(self):
        return [[self.module(features=16)]]


def test_a_block_with_variables_of_its_own():
    model = WithOwnBlock()
    with pytest.raises(ValueError, match=r'timm has no names for these of WithOwnBlock: .*temperature'):
        to_torch(filled(model), model)


class UnknownBlock(nn.Module):
    features: int

    def __call__(self, images, *, train=False):
        return images


@pytest.mark.parametrize('unknown', [nn.Dense(3), WithOwnBlock(module=UnknownBlock)])
def test_networks_without_torch_names(unknown):
    for call in (lambda: to_torch({}, unknown), lambda: from_torch({}, unknown)):
        assert message(call).startswith(f'no torch names for {type(unknown).__name__}')
