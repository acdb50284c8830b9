"""Each block against torch on the same weights, float64, evaluation and training."""

from functools import partial

import jax
import peers
import pytest
import torch
from timm.layers.squeeze_excite import SEModule
from timm.models._efficientnet_blocks import (
    EdgeResidual,
    MobileAttention,
    SqueezeExcite,
    UniversalInvertedResidual,
)
from timm.models._efficientnet_blocks import InvertedResidual as MnasNetBlock
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


def universal(start, middle, stride=1, features=16, aa_layer=None):
    return UniversalInvertedResidual(
        16, features, start, middle, stride=stride, exp_ratio=3, act_layer=nn.GELU, aa_layer=aa_layer
    )


def attention(key_strides):
    return MobileAttention(
        16, 16, num_heads=3, key_dim=8, value_dim=8, kv_stride=key_strides, use_multi_query=True, act_layer=nn.ReLU
    )


V4 = {'expansion_ratio': 3, 'activation': 'gelu', 'layer_scale': 1e-5, 'convention': 'torch'}
EDGE = {'expansion_ratio': 4, 'convention': 'torch'}
MQA = {'heads': 3, 'key_features': 8, 'convention': 'torch'}
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
    'SemNASNet block': (
        (4, 13, 10, 24),
        lambda: MnasNetBlock(
            24, 40, 5, stride=2, exp_ratio=3, se_layer=partial(SqueezeExcite, rd_ratio=0.25 / 3), act_layer=nn.ReLU
        ),
        layers.InvertedResidual(
            features=40,
            kernel_size=5,
            strides=2,
            expansion_ratio=3,
            activation='relu',
            squeeze_excite=True,
            squeeze_reduction=12,
            squeeze_divisor=1,
            squeeze_gate='sigmoid',
            convention='torch',
        ),
    ),
    'universal, inverted bottleneck': (
        (4, 13, 10, 16),
        lambda: universal(0, 3),
        layers.UniversalInvertedBottleneck(features=16, **V4),
    ),
    'universal, ConvNeXt, stride 2': (
        (4, 13, 10, 16),
        lambda: universal(5, 0, stride=2, features=24),
        layers.UniversalInvertedBottleneck(features=24, start_kernel_size=5, kernel_size=0, strides=2, **V4),
    ),
    'universal, extra depthwise, stride 2': (
        (4, 13, 10, 16),
        lambda: universal(3, 5, stride=2),
        layers.UniversalInvertedBottleneck(features=16, start_kernel_size=3, kernel_size=5, strides=2, **V4),
    ),
    'universal, feed-forward': (
        (4, 13, 10, 16),
        lambda: universal(0, 0),
        layers.UniversalInvertedBottleneck(features=16, kernel_size=0, **V4),
    ),
    'universal, average pool': (
        (4, 13, 10, 16),
        lambda: universal(3, 5, stride=2, aa_layer='avg'),
        layers.UniversalInvertedBottleneck(
            features=16, start_kernel_size=3, kernel_size=5, strides=2, anti_aliasing='average', **V4
        ),
    ),
    'universal, blur pool before the expansion': (
        (4, 13, 10, 16),
        lambda: universal(3, 0, stride=2, aa_layer='blurpc'),
        layers.UniversalInvertedBottleneck(
            features=16, start_kernel_size=3, kernel_size=0, strides=2, anti_aliasing='blur', **V4
        ),
    ),
    'fused, grouped': (
        (4, 13, 10, 16),
        lambda: EdgeResidual(16, 16, group_size=32, exp_ratio=4),
        layers.FusedInvertedBottleneck(features=16, group_size=32, **EDGE),
    ),
    'fused, blur pool': (
        (4, 13, 10, 16),
        lambda: EdgeResidual(16, 24, stride=2, exp_ratio=4, aa_layer='blurpc'),
        layers.FusedInvertedBottleneck(features=24, strides=2, anti_aliasing='blur', **EDGE),
    ),
    'multi-query attention': (
        (4, 13, 10, 16),
        lambda: attention(1),
        layers.MultiQueryAttention(**MQA),
    ),
    'multi-query attention, fewer keys': (
        (4, 13, 10, 16),
        lambda: attention(2),
        layers.MultiQueryAttention(key_strides=2, **MQA),
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
