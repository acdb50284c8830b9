"""Every registered name against timm or torchvision on the same weights, float64 on both sides."""

import itertools

import jax
import peers
import pytest
import torch
import torchvision
from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf

from flaxmobile.weights import from_torch

pytestmark = pytest.mark.parity
LIMIT = 1e-9
EVEN, ODD = (128, 128), (97, 131)  # Multiples of every stride, and of none: a network's own side proves no more.
CASES = [(32, ODD), (32, EVEN), (16, ODD), (8, ODD)]  # The output stride and the images' height and width.
# Networks are calibrated on what they are compared on: other images are outliers, which a deep network blows up.
IMAGES = peers.images(4, (128, 131))
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


def timm_s(name, network, output_stride):
    """The network at that output stride, and timm's backbone of it: timm's V3 and V4 take none with their heads on."""
    backbone = peers.timm_twin(name, features_only=True, output_stride=output_stride).double().eval()
    assert not backbone.load_state_dict(network.state_dict(), strict=False).missing_keys
    network.blocks = backbone.blocks

    def maps(batch):
        return dict(zip(backbone.feature_info.reduction(), backbone(batch), strict=True))

    return network, maps


STRIDES_PAST_8 = {'large': 6, 'small': 3}  # torchvision's first block with a stride that comes to more than 8


def torchvision_s(name, network, output_stride):
    """The network at that output stride; torchvision has 16 (`dilated`), for 8 the same is said of one stage more."""
    size = name.split('_')[2]
    blocks, last = _mobilenet_v3_conf(f'mobilenet_v3_{size}', dilated=output_stride < 32)
    for block in blocks[STRIDES_PAST_8[size] :] if output_stride == 8 else ():
        block.dilation *= 2
    dilated = MobileNetV3(blocks, last).double().eval()
    dilated.load_state_dict(network.state_dict())
    return dilated, lambda batch: last_map_at_each_stride(dilated.features, batch)


def at_output_stride(name, network, output_stride):
    return (torchvision_s if name in peers.TORCHVISION else timm_s)(name, network, output_stride)


@torch.no_grad()
def run(network, maps, batch):
    """Logits and, from fine to coarse, strides and maps of the torch network."""
    batch = peers.to_torch(batch)
    found = maps(batch)
    return peers.from_torch(network(batch)), tuple(found), [peers.from_torch(values) for values in found.values()]


def every_name():
    """All cases of the first network of a generation, one case of the first of a kind; `make thorough` has the rest."""
    names = [name for name in peers.NETWORKS if name not in NO_TWIN]
    whole = {generation[0] for generation in peers.alike(names, by=peers.generation)}
    for first, *siblings in peers.alike(names):
        yield pytest.param(first, CASES if first in whole else CASES[:1], id=first)
        if first not in whole:
            yield pytest.param(first, CASES[1:], id=f'{first}, other cases', marks=pytest.mark.thorough)
        yield from (pytest.param(name, CASES, id=name, marks=pytest.mark.thorough) for name in siblings)


@pytest.mark.parametrize(('name', 'cases'), list(every_name()))
def test_logits_and_the_map_at_each_stride(name, cases):
    network = peers.calibrate(peers.twin(name), IMAGES)
    # timm has Keras's V1 with TensorFlow's padding alone; `test_keras.py` has Keras itself.
    fields = {'convention': 'tensorflow'} if name.startswith('tf_mobilenetv1') else {}
    variables = peers.variables_of(network, name, peers.create(name, **fields))
    for output_stride, size in cases:
        batch = IMAGES[:2, : size[0], : size[1]]
        wanted, strides, wanted_maps = run(*at_output_stride(name, network, output_stride), batch)
        model = peers.create(name, output_stride=output_stride, **fields)
        logits, maps = peers.logits_and_maps(model, variables, batch, optimized=size == EVEN)
        assert peers.see_the_images(wanted)
        assert logits.dtype == 'float64'
        assert peers.relative(logits, wanted) <= LIMIT
        assert model.feature_strides == strides == tuple(2**n for n in range(1, 6) if 2**n <= output_stride)
        for stride, values, wanted_map in zip(strides, maps, wanted_maps, strict=True):
            assert peers.relative(values, wanted_map) <= LIMIT, (output_stride, stride)


@pytest.mark.parametrize('width', [35, 50, 75, 100, 130, 140])
def test_logits_of_torchvision_mobilenetv2(width):
    torch.manual_seed(width)
    network = torchvision.models.mobilenet_v2(width_mult=width / 100)
    peers.calibrate(network, IMAGES)
    model = peers.create(f'mobilenetv2_{width:03d}')
    batch = IMAGES[:2, : ODD[0], : ODD[1]]
    wanted = run_logits(network, batch)
    logits = peers.apply(model, from_torch(network.state_dict(), model), batch, optimized=False)
    assert peers.see_the_images(wanted)
    assert peers.relative(logits, wanted) <= LIMIT


@torch.no_grad()
def run_logits(network, batch):
    return peers.from_torch(network(peers.to_torch(batch)))


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
