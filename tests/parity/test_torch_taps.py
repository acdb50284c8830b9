"""Maps inside networks against torchvision's feature extractors and timm's modules, float64 on both sides."""

import functools

import jax
import peers
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.ssdlite import _mobilenet_extractor
from torchvision.models.feature_extraction import create_feature_extractor

pytestmark = pytest.mark.parity
LIMIT = 1e-9
SIZE = (97, 131)
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})  # Compiled in less time.


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def calibrated(name, **fields):
    """A network with random weights, its variables in our model, and the model."""
    network = peers.calibrate(peers.twin(name), peers.images(8, (96, 96), seed=1))
    model = peers.create(name, **fields)
    return network, peers.variables_of(network, name, peers.create(name)), model


def assert_taps(model, variables, batch, wanted):
    """`wanted` has torch's map for each of our names."""
    names = tuple(wanted)
    run = jit(lambda variables, batch: model.apply(variables, batch, names, method='taps'))
    for name, values in zip(names, run(variables, batch), strict=True):
        assert peers.relative(values, peers.from_torch(wanted[name])) <= LIMIT, name
    assert model.tap_channels(names) == tuple(values.shape[1] for values in wanted.values())


@pytest.mark.parametrize(
    ('name', 'modules'),
    [
        (
            'tv_mobilenetv3_large_100',
            {'block_12/expand': 'features.13.block.0', 'block_03': 'features.4', 'stem': 'features.0'},
        ),
        ('mobilenetv2_050', {'block_03': 'blocks.2.0', 'block_13/expand': 'blocks.5.0.bn1'}),
        (
            'mobilenetv4_hybrid_medium_075',
            {
                'block_00/expand': 'blocks.0.0.bn1',  # a fused block, which expands at its own stride
                'block_03/expand': 'blocks.2.0.pw_exp',
                'block_07': 'blocks.2.4',  # attention
            },
        ),
    ],
)
@torch.no_grad()
def test_taps_are_what_torch_s_modules_return(name, modules):
    network, variables, model = calibrated(name)
    batch, found = peers.images(2, SIZE), {}
    for own, theirs in modules.items():
        network.get_submodule(theirs).register_forward_hook(
            lambda module, given, output, own=own: found.update({own: output.clone()})
        )
    network(peers.to_torch(batch))
    assert_taps(model, variables, batch, {own: found[own] for own in modules})


@torch.no_grad()
def test_maps_of_torchvision_s_segmentation():
    """LR-ASPP's 'low' is the first block at stride 8, not the last, 'high' the last convolution, dilated to 16."""
    network, variables, model = calibrated('tv_mobilenetv3_large_100', output_stride=16)
    segmentation = torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)
    backbone = segmentation.backbone.double().eval()
    features = {name: values for name, values in network.state_dict().items() if name.startswith('features.')}
    backbone.load_state_dict({name.removeprefix('features.'): values for name, values in features.items()})
    batch = peers.images(2, SIZE)
    maps = backbone(peers.to_torch(batch))
    assert_taps(model, variables, batch, {'block_03': maps['low'], 'block_15': maps['high']})
    assert model.tap_strides(('block_03', 'block_15')) == (8, 16)


@torch.no_grad()
def test_maps_of_torchvision_s_detector():
    """SSDLite's C4 is the expansion of the 13th block, C5 the last convolution."""
    network, variables, model = calibrated('tv_mobilenetv3_large_100')
    extractor = _mobilenet_extractor(network, 6, nn.BatchNorm2d).double().eval()
    batch = peers.images(2, SIZE)
    c4 = extractor.features[0](peers.to_torch(batch))
    c5 = extractor.features[1](c4)
    assert_taps(model, variables, batch, {'block_12/expand': c4, 'block_15': c5})


@torch.no_grad()
def test_embed_is_what_torch_s_classifier_is_given():
    for name, theirs in (('tv_mobilenetv3_large_100', 'classifier.2'), ('mobilenetv2_050', 'global_pool')):
        network, variables, model = calibrated(name)
        batch = peers.images(2, SIZE)
        wanted = create_feature_extractor(network, [theirs])(peers.to_torch(batch))[theirs]
        found = jit(lambda variables, batch, model=model: model.apply(variables, batch, method='embed'))
        assert peers.relative(found(variables, batch), wanted.numpy()) <= LIMIT
