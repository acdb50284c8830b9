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
from flaxmobile.layers.folding import fold_batch_norm
from flaxmobile.layers.fusion import MultiScaleFusion
from flaxmobile.layers.regularization import LayerScale, StochasticDepth
from flaxmobile.layers.residual import Gate, Residual
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
    'Gate',
    'InvertedResidual',
    'LayerScale',
    'MultiQueryAttention',
    'MultiScaleFusion',
    'Residual',
    'ResidualBlock',
    'SqueezeExcite',
    'StochasticDepth',
    'UniversalInvertedBottleneck',
    'common_fields',
    'fold_batch_norm',
    'get_convention',
    'make_divisible',
]
