"""MobileNetV5 against timm: every kind of block, norm and head on a short table, and all blocks of a narrow network."""

import io
from functools import partial
from unittest import mock

import jax
import numpy as np
import peers
import pytest
import timm
import torch
from timm.layers import RmsNorm2d
from timm.models import mobilenetv5
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from torch import nn

import flaxmobile
from flaxmobile import layers
from flaxmobile.models import MobileNetV5, MobileNetV5Encoder
from flaxmobile.models.mobilenetv4 import attention, convnext, extra_dw, ffn, fused
from flaxmobile.weights import from_torch, origins, to_torch

pytestmark = pytest.mark.parity
LIMIT = 1e-9
NAMES = ['mobilenetv5_300m', 'mobilenetv5_300m_enc']

THEIRS = [
    ['er_r1_k3_s2_e4_c128', 'er_r1_k3_s1_e4_c128'],
    ['uir_r1_a3_k5_s2_e6_c256', 'uir_r1_a5_k0_s1_e4_c256'],
    ['uir_r1_a5_k5_s2_e6_c640', 'uir_r1_a0_k0_s1_e1_c640', 'mqa_r1_k3_h12_v2_s1_d64_c640', 'uir_r1_a0_k0_s1_e2_c640'],
    ['uir_r1_a5_k5_s2_e6_c1280', 'mqa_r1_k3_h16_s1_d96_c1280', 'uir_r1_a0_k0_s1_e2_c1280'],
]
OURS = (
    (fused(3, 4, 128, s=2), fused(3, 4, 128)),
    (extra_dw(3, 5, 6, 256, s=2), convnext(5, 4, 256)),
    (extra_dw(5, 5, 6, 640, s=2), ffn(1, 640), attention(12, 64, 2), ffn(2, 640)),
    (extra_dw(5, 5, 6, 1280, s=2), attention(16, 96), ffn(2, 1280)),
)


class Short(MobileNetV5):
    """A block of each kind."""

    table = OURS


class ShortEncoder(MobileNetV5Encoder):
    """The same."""

    table = OURS


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@torch.no_grad()
def drawn(network):
    """In float64 and evaluation mode, no factor near 0 or 1, no bias 0."""
    for module in network.modules():
        if getattr(module, 'bias', None) is not None:
            module.bias.normal_(0, 0.2)
        if isinstance(module, RmsNorm2d):
            module.weight.uniform_(0.5, 1.5)
        if hasattr(module, 'gamma'):
            module.gamma.uniform_(0.5, 1.5)
    return network.double().eval()


def short_twin(encoder, width):
    torch.manual_seed(0)
    fields = {
        'block_args': decode_arch_def(THEIRS),
        'stem_size': 64,
        'fix_stem': width < 1,
        'round_chs_fn': partial(round_channels, multiplier=width),
        'norm_layer': RmsNorm2d,
        'act_layer': partial(nn.GELU, approximate='tanh'),
        'layer_scale_init_value': 1e-5,
    }
    own = {'pad_type': 'same'} if encoder else {'num_classes': 7}
    return drawn((mobilenetv5.MobileNetV5Encoder if encoder else mobilenetv5.MobileNetV5)(**fields, **own))


def twin(name, width, **fields):
    torch.manual_seed(0)
    fields |= {'encoder': True, 'pad_type': 'same'} if name.endswith('enc') else {}
    return drawn(mobilenetv5._gen_mobilenet_v5(name, channel_multiplier=width, **fields))


@torch.no_grad()
def theirs(network, batch):
    """Output and the maps at each stride."""
    batch = peers.to_torch(batch)
    maps = network.forward_intermediates(batch, intermediates_only=True)
    return peers.from_torch(network(batch)), [peers.from_torch(values) for values in maps]


def ours(model, variables, batch):
    """The same of our network; XLA is done sooner where LLVM may leave it slow."""

    def run(variables, batch):
        return model.apply(variables, batch), model.apply(variables, batch, method='features')

    run = jax.jit(run, compiler_options={'xla_backend_optimization_level': 0})
    return jax.tree.map(np.asarray, run(variables, batch))


def assert_equal_answers(network, model, size):
    batch = peers.images(2, size)
    wanted, wanted_maps = theirs(network, batch)
    output, maps = ours(model, from_torch(network.state_dict(), model), batch)
    assert output.dtype == 'float64'
    assert peers.see_the_images(wanted)
    assert peers.relative(output, wanted) <= LIMIT
    for values, wanted_map in zip(maps, wanted_maps, strict=True):
        assert peers.relative(values, wanted_map) <= LIMIT


# A map of 16x16 that stays; of 32x16 that is averaged; odd ones that are resized, down and up.
@pytest.mark.parametrize('size', [(256, 256), (512, 256), (291, 67)])
def test_short_network(size):
    assert_equal_answers(short_twin(False, 0.0625), Short(7, width_multiplier=0.0625, convention='torch'), size)


@pytest.mark.parametrize('size', [(97, 131)])
def test_short_encoder(size):
    model = ShortEncoder(width_multiplier=0.0625, convention=layers.Convention('same', initialization='fan_out'))
    network = short_twin(True, 0.0625)
    with pytest.raises(ValueError, match='made for same padding'):
        from_torch(network.state_dict(), model.clone(convention='torch'))
    model = model.clone(convention=flaxmobile.create_model(NAMES[1]).convention)
    assert_equal_answers(network, model, size)


def test_a_wide_stem_scales_and_a_projection_as_wide_as_its_input_has_no_residual():
    """1.067 of 640 and of 1280 are 2048 together, and timm's head adds nothing there either."""
    model = Short(7, width_multiplier=1.067, convention='torch')
    assert sum(model.feature_channels[-2:]) == 2048
    assert model.feature_channels[0] == 72
    with torch.device('meta'):
        network = short_twin(False, 1.067)
    assert not network.msfa.ffn.has_skip
    want = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32))
    assert {name: array.shape for name, array in to_torch(zeros(variables), model).items()} == want


def zeros(shapes):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


def test_names_of_every_tensor_both_ways():
    """All 84 blocks, as narrow as they get; the encoder has the same."""
    network, model = twin(NAMES[1], 0.01), flaxmobile.create_model(NAMES[1], width_multiplier=0.01)
    state = network.state_dict()
    arrays = to_torch(from_torch(state, model), model)
    assert list(arrays) == list(state)
    assert len(arrays) == 548
    for tensor_name, array in arrays.items():
        assert array.tobytes() == state[tensor_name].numpy().tobytes(), tensor_name


def test_names_behind_the_prefix_of_gemma():
    network, model = short_twin(False, 0.01), Short(7, width_multiplier=0.01, convention='torch')
    state = {f'model.vision_tower.timm_model.{name}': tensor for name, tensor in network.state_dict().items()}
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    with pytest.warns(UserWarning, match='model.vision_tower.timm_model'):
        variables = from_torch(torch.load(file), model)
    stem = network.conv_stem.conv.bias.detach().numpy()
    assert np.asarray(variables['params']['stem']['conv']['bias']).tobytes() == stem.tobytes()


@pytest.mark.parametrize('name', NAMES)
def test_padding_and_epsilon_are_timm_s(name):
    with torch.device('meta'):
        network = timm.create_model(name)
    same = any('Same' in type(module).__name__ for module in network.modules())
    (convention,) = origins.of_timm(flaxmobile.create_model(name))
    assert convention.padding == ('same' if same else 'symmetric')
    assert {module.eps for module in network.modules() if isinstance(module, RmsNorm2d)} == {1e-6}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_stochastic_depth_is_timm_s():
    with torch.device('meta'):
        network = timm.create_model(NAMES[0], drop_path_rate=0.3)
    wanted = [getattr(block.drop_path, 'drop_prob', 0.0) for stage in network.blocks for block in stage]
    blocks = flaxmobile.create_model(NAMES[0], stochastic_depth_rate=0.3).bind({}).block.values()
    assert [block.stochastic_depth_rate for block in blocks] == pytest.approx(wanted)


def test_every_block_of_a_narrow_network():
    network = twin(NAMES[0], 0.0625, num_classes=7)
    assert_equal_answers(network, flaxmobile.create_model(NAMES[0], num_classes=7, width_multiplier=0.0625), (97, 131))


@pytest.mark.thorough
def test_the_whole_network():
    """Seven gigabytes: 294 million numbers of eight bytes on both sides, and what copies them."""
    with mock.patch.object(mobilenetv5, 'efficientnet_init_weights'):  # Minutes, for numbers that are drawn anew.
        network = timm.create_model(NAMES[0])
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
    assert_equal_answers(drawn(network), flaxmobile.create_model(NAMES[0]), (64, 96))
