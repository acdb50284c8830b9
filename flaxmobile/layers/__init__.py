"""Flax Linen modules over `flaxmobile.ops`: convolution + norm + activation, squeeze-excite and the blocks."""

from flax.linen import Dropout

from flaxmobile.layers.basic import Conv, ConvNorm, Dense
from flaxmobile.layers.blocks import (
    Block,
    DepthwiseSeparable,
    InvertedResidual,
    ResidualBlock,
    SqueezeExcite,
    make_divisible,
)
from flaxmobile.layers.convention import TENSORFLOW, TORCH, TORCHVISION_V3, Convention, get_convention
from flaxmobile.layers.regularization import StochasticDepth

__all__ = [
    'TENSORFLOW',
    'TORCH',
    'TORCHVISION_V3',
    'Block',
    'Conv',
    'ConvNorm',
    'Convention',
    'Dense',
    'DepthwiseSeparable',
    'Dropout',
    'InvertedResidual',
    'ResidualBlock',
    'SqueezeExcite',
    'StochasticDepth',
    'get_convention',
    'make_divisible',
]
