"""Flax Linen modules over `flaxmobile.ops`: convolution + norm + activation, squeeze-excite and the blocks."""

from flax.linen import Dropout

from flaxmobile.layers.attention import MultiQueryAttention
from flaxmobile.layers.basic import Conv, ConvNorm, Dense, common_fields
from flaxmobile.layers.blocks import (
    Block,
    DepthwiseSeparable,
    Expansion,
    InvertedResidual,
    ResidualBlock,
    SqueezeExcite,
    make_divisible,
)
from flaxmobile.layers.convention import KERAS_V1, TENSORFLOW, TORCH, TORCHVISION_V3, Convention, get_convention
from flaxmobile.layers.fields import AntiAliasing
from flaxmobile.layers.regularization import LayerScale, StochasticDepth
from flaxmobile.layers.universal import FusedInvertedBottleneck, UniversalInvertedBottleneck

__all__ = [
    'KERAS_V1',
    'TENSORFLOW',
    'TORCH',
    'TORCHVISION_V3',
    'AntiAliasing',
    'Block',
    'Conv',
    'ConvNorm',
    'Convention',
    'Dense',
    'DepthwiseSeparable',
    'Dropout',
    'Expansion',
    'FusedInvertedBottleneck',
    'InvertedResidual',
    'LayerScale',
    'MultiQueryAttention',
    'ResidualBlock',
    'SqueezeExcite',
    'StochasticDepth',
    'UniversalInvertedBottleneck',
    'common_fields',
    'get_convention',
    'make_divisible',
]
