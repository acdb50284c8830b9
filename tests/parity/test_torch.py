"""Every registered name against timm or torchvision on the same weights, float64 on both sides."""

import itertools

import jax
import peers
import pytest
import torch
import torchvision
from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf

import flaxmobile
from flaxmobile.weights import from_torch

pytestmark = pytest.mark.parity
LIMIT = 1e-9
ODD = (97, 131)
NO_TWIN: dict[str, str] = {}  # name: why neither timm nor torchvision can build the network


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def last_map_at_each_stride(blocks, batch):
    """`{2: ...}`, by the height of what each block returns."""
    maps, values = {}, batch
    for block in blocks:
        values = block(values)
        stride = -(-batch.shape[2] // values.shape[2])
        maps[2 ** (stride - 1).bit_length()] = values
    return maps


@torch.no_grad()
def run(name, network, batch):
    """Logits and, in their order, the strides and maps of the torch network."""
    batch = peers.to_torch(batch)
    if name in peers.TORCHVISION:
        maps = last_map_at_each_stride(network.features, batch)
    else:
        backbone = peers.timm_twin(name, features_only=True).double().eval()
        assert not backbone.load_state_dict(network.state_dict(), strict=False).missing_keys
        maps = dict(zip(backbone.feature_info.reduction(), backbone(batch), strict=True))
    return peers.from_torch(network(batch)), tuple(maps), [peers.from_torch(values) for values in maps.values()]


@pytest.mark.parametrize('name', flaxmobile.list_models())
def test_logits_and_the_map_at_each_stride(name):
    if name in NO_TWIN:
        pytest.skip(NO_TWIN[name])
    network = peers.calibrate(peers.twin(name), peers.images(8, (96, 96), seed=1))
    model = peers.create(name)
    variables = from_torch(network.state_dict(), model)
    side = flaxmobile.models.registry.entry(name).image_size
    for size in ((side, side), ODD):
        batch = peers.images(2, size)
        wanted, strides, wanted_maps = run(name, network, batch)
        logits, maps = peers.logits_and_maps(model, variables, batch)
        assert peers.see_the_images(wanted)
        assert logits.dtype == 'float64'
        assert peers.relative(logits, wanted) <= LIMIT
        assert model.feature_strides == strides
        for stride, values, wanted_map in zip(strides, maps, wanted_maps, strict=True):
            assert peers.relative(values, wanted_map) <= LIMIT, stride


@pytest.mark.parametrize('width', [35, 50, 75, 100, 130, 140])
def test_logits_of_torchvision_mobilenetv2(width):
    torch.manual_seed(width)
    network = torchvision.models.mobilenet_v2(width_mult=width / 100)
    peers.calibrate(network, peers.images(8, (96, 96), seed=1))
    model = peers.create(f'mobilenetv2_{width:03d}')
    batch = peers.images(2, ODD)
    wanted = run_logits(network, batch)
    logits = peers.apply(model, from_torch(network.state_dict(), model), batch)
    assert peers.see_the_images(wanted)
    assert peers.relative(logits, wanted) <= LIMIT


@torch.no_grad()
def run_logits(network, batch):
    return peers.from_torch(network(peers.to_torch(batch)))


@pytest.mark.parametrize('output_stride', [8, 16])
@pytest.mark.parametrize(
    'name',
    [
        'mobilenetv1_050',
        'tf_mobilenetv1_025',
        'mobilenetv2_050',
        'tf_mobilenetv2_035',
        'mobilenet_edgetpu_v2_xs',
        'semnasnet_050',
    ],
)
def test_dilation_is_timm_s(name, output_stride):
    torch.manual_seed(0)
    network = peers.timm_twin(name, output_stride=output_stride)
    peers.calibrate(network, peers.images(8, (96, 96), seed=1))
    model = peers.create(name, output_stride=output_stride)
    batch = peers.images(2, ODD)
    wanted = run_logits(network, batch)
    with torch.no_grad():
        deepest = peers.from_torch(network.blocks(network.bn1(network.conv_stem(peers.to_torch(batch)))))
    logits, maps = peers.logits_and_maps(model, from_torch(network.state_dict(), model), batch)
    assert peers.see_the_images(wanted)
    assert peers.relative(logits, wanted) <= LIMIT
    assert peers.relative(maps[-1], deepest) <= LIMIT


def dilate(blocks, output_stride):
    """torchvision's rule on timm's V4: all convolutions of the block that loses its stride are dilated."""
    stride, dilation = 2, 1
    for block in itertools.chain(*blocks):
        convolutions = {name: layer for name, layer in block.named_modules() if isinstance(layer, torch.nn.Conv2d)}
        for name, convolution in convolutions.items():
            if convolution.stride[0] == 2 and 'attn' not in name:
                loses = stride == output_stride
                convolution.stride = (1, 1) if loses else (2, 2)
                stride, dilation = (stride, 2 * dilation) if loses else (2 * stride, dilation)
        for convolution in convolutions.values():
            reach = convolution.kernel_size[0] // 2 * dilation
            convolution.dilation, convolution.padding = (dilation,) * 2, (reach,) * 2


@pytest.mark.parametrize('output_stride', [8, 16])
@pytest.mark.parametrize('name', ['mobilenetv4_conv_small_050', 'mobilenetv4_hybrid_medium_075'])
def test_dilation_of_v4_is_torchvision_s(name, output_stride):
    torch.manual_seed(0)
    network = peers.timm_twin(name)
    dilate(network.blocks, output_stride)
    peers.calibrate(network, peers.images(8, (96, 96), seed=1))
    model = peers.create(name, output_stride=output_stride)
    batch = peers.images(2, (65, 97))
    wanted = run_logits(network, batch)
    with torch.no_grad():
        deepest = peers.from_torch(network.forward_features(peers.to_torch(batch)))
    logits, maps = peers.logits_and_maps(model, from_torch(network.state_dict(), model), batch)
    assert peers.see_the_images(wanted)
    assert peers.relative(logits, wanted) <= LIMIT
    assert peers.relative(maps[-1], deepest) <= LIMIT


@pytest.mark.parametrize(
    'name', ['mobilenetv2_050', 'mobilenetv4_conv_small', 'mobilenetv4_hybrid_medium', 'mobilenet_edgetpu_100']
)
def test_stochastic_depth_is_timm_s(name):
    with torch.device('meta'):
        network = peers.timm_twin(name, drop_path_rate=0.3)
    wanted = [getattr(block.drop_path, 'drop_prob', 0.0) for block in itertools.chain(*network.blocks)]
    blocks = peers.create(name, stochastic_depth_rate=0.3).bind({}).block.values()
    rates = [getattr(block, 'stochastic_depth_rate', 0.0) for block in blocks]
    # timm gives its plain convolutions a rate too, which without a residual is never used.
    used = [hasattr(block, 'stochastic_depth_rate') for block in blocks]
    assert rates == pytest.approx([rate * use for rate, use in zip(wanted, used, strict=True)])


def dilate_everything_past_stride_8(features):
    """torchvision's rule, one stage earlier: the block that loses its stride is dilated with all that follow."""
    stride, dilation = 1, 1
    for convolution in (module for module in features.modules() if isinstance(module, torch.nn.Conv2d)):
        own, size = convolution.stride[0], convolution.kernel_size[0]
        if own == 2 and stride == 8:
            convolution.stride, dilation = (1, 1), 2 * dilation
        elif own == 2:
            stride *= 2
        if size > 1:
            convolution.dilation, convolution.padding = (dilation,) * 2, ((size - 1) // 2 * dilation,) * 2


@pytest.mark.parametrize('output_stride', [8, 16])
@pytest.mark.parametrize('size', ['large', 'small'])
def test_dilation_of_v3_is_torchvision_s(size, output_stride):
    torch.manual_seed(0)
    network = MobileNetV3(*_mobilenet_v3_conf(f'mobilenet_v3_{size}', dilated=output_stride == 16))
    if output_stride == 8:
        dilate_everything_past_stride_8(network.features)
    peers.calibrate(network, peers.images(8, (96, 96), seed=1))
    model = peers.create(f'tv_mobilenetv3_{size}_100', output_stride=output_stride)
    batch = peers.images(2, ODD)
    wanted = run_logits(network, batch)
    with torch.no_grad():
        deepest = peers.from_torch(network.features(peers.to_torch(batch)))
    logits, maps = peers.logits_and_maps(model, from_torch(network.state_dict(), model), batch)
    assert peers.see_the_images(wanted)
    assert peers.relative(logits, wanted) <= LIMIT
    assert peers.relative(maps[-1], deepest) <= LIMIT
