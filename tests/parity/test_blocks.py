"""The blocks of the worked cases against torch on the same weights, float64, evaluation and training."""

from functools import partial

import jax
import peers
import pytest
import torch
from timm.layers.squeeze_excite import SEModule
from timm.models.resnet import BasicBlock
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.mobilenetv3 import InvertedResidual as InvertedResidualV3
from torchvision.models.mobilenetv3 import InvertedResidualConfig

from flaxmobile import layers

pytestmark = pytest.mark.parity


def depthwise_separable(channels, features):
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
        nn.Conv2d(channels, features, 1, bias=False),
        nn.BatchNorm2d(features),
        nn.ReLU6(),
    )


def v3_block(kernel_size, activation, strides, features=16):
    config = InvertedResidualConfig(16, kernel_size, 64, features, True, activation, strides, 1, 1.0)
    return InvertedResidualV3(config, partial(nn.BatchNorm2d, eps=1e-3))


def se_resnet(channels, features, strides):
    downsample = nn.Sequential(nn.Conv2d(channels, features, 1, strides, bias=False), nn.BatchNorm2d(features))
    return BasicBlock(
        channels,
        features,
        strides,
        downsample if strides != 1 else None,
        attn_layer=partial(SEModule, rd_divisor=1),
    )


V3 = {'expansion_ratio': 4, 'squeeze_excite': True, 'convention': 'torchvision_v3'}
CASES = {
    'depthwise separable': (
        (10, 15, 15, 20),
        lambda: depthwise_separable(20, 50),
        layers.DepthwiseSeparable(features=50, convention='torch'),
    ),
    'inverted residual': (
        (10, 64, 64, 16),
        lambda: InvertedResidual(16, 16, 1, 4),
        layers.InvertedResidual(features=16, expansion_ratio=4, convention='torch'),
    ),
    'inverted residual, stride 2': (
        (4, 13, 10, 16),
        lambda: InvertedResidual(16, 24, 2, 6),
        layers.InvertedResidual(features=24, expansion_ratio=6, strides=2, convention='torch'),
    ),
    'V3 block': (
        (10, 64, 64, 16),
        lambda: v3_block(3, 'RE', 1),
        layers.InvertedResidual(features=16, activation='relu', **V3),
    ),
    'V3 block, 5x5, hard-swish, stride 2': (
        (4, 13, 10, 16),
        lambda: v3_block(5, 'HS', 2, features=24),
        layers.InvertedResidual(features=24, kernel_size=5, strides=2, activation='hard_swish', **V3),
    ),
    'SE-ResNet block': (
        (4, 12, 9, 32),
        lambda: se_resnet(32, 32, 1),
        layers.ResidualBlock(features=32, convention='torch'),
    ),
    'SE-ResNet block, stride 2': (
        (4, 12, 9, 32),
        lambda: se_resnet(32, 64, 2),
        layers.ResidualBlock(features=64, strides=2, convention='torch'),
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_block(case):
    shape, make, block = CASES[case]
    torch.manual_seed(0)
    network = peers.calibrate(make(), peers.images(shape[0], shape[1:3], seed=1, channels=shape[3]))
    batch = peers.images(shape[0], shape[1:3], channels=shape[3])
    with jax.enable_x64(True):
        variables = peers.variables_like(block, peers.weights_of(network), channels=shape[3])
        evaluated = jax.jit(block.apply)(variables, batch)
        trained, _ = jax.jit(partial(block.apply, train=True, mutable=['batch_stats']))(variables, batch)
    with torch.no_grad():
        assert peers.relative(evaluated, peers.from_torch(network(peers.to_torch(batch)))) <= 1e-12
        assert peers.relative(trained, peers.from_torch(network.train()(peers.to_torch(batch)))) <= 1e-12
