"""MobileNetV3 large and small (Howard et al. 2019, 1905.02244)."""

import math
from typing import ClassVar, NamedTuple

import flax.linen as nn
from jax import Array

from flaxmobile.layers import Conv, ConvNorm, InvertedResidual, get_convention, make_divisible
from flaxmobile.layers.fields import DepthMultiplier
from flaxmobile.models.network import MobileNet, pool
from flaxmobile.models.places import deepen, repeat


class Row(NamedTuple):
    """A row of Tables 1 and 2: the channels of Input, kernel of bneck, exp size, #out, SE, NL and s."""

    channels: int
    kernel_size: int
    expanded: int
    features: int
    squeeze_excite: bool
    activation: str
    strides: int


Table = tuple[tuple[Row, ...], ...]
RE, HS = 'relu', 'hard_swish'
SE, NO = True, False

# The tables of the paper, rows of equal #out as a stage.
# fmt: off
STEM = 16
LARGE: Table = (
    #   Input  bneck  exp  #out  SE  NL  s
    (Row(  16,     3,  16,   16, NO, RE, 1),),
    (Row(  16,     3,  64,   24, NO, RE, 2),
     Row(  24,     3,  72,   24, NO, RE, 1)),
    (Row(  24,     5,  72,   40, SE, RE, 2),
     Row(  40,     5, 120,   40, SE, RE, 1),
     Row(  40,     5, 120,   40, SE, RE, 1)),
    (Row(  40,     3, 240,   80, NO, HS, 2),
     Row(  80,     3, 200,   80, NO, HS, 1),
     Row(  80,     3, 184,   80, NO, HS, 1),
     Row(  80,     3, 184,   80, NO, HS, 1)),
    (Row(  80,     3, 480,  112, SE, HS, 1),
     Row( 112,     3, 672,  112, SE, HS, 1)),
    (Row( 112,     5, 672,  160, SE, HS, 2),
     Row( 160,     5, 960,  160, SE, HS, 1),
     Row( 160,     5, 960,  160, SE, HS, 1)),
)
SMALL: Table = (
    #   Input  bneck  exp  #out  SE  NL  s
    (Row(  16,     3,  16,   16, SE, RE, 2),),
    (Row(  16,     3,  72,   24, NO, RE, 2),
     Row(  24,     3,  88,   24, NO, RE, 1)),
    (Row(  24,     5,  96,   40, SE, HS, 2),
     Row(  40,     5, 240,   40, SE, HS, 1),
     Row(  40,     5, 240,   40, SE, HS, 1)),
    (Row(  40,     5, 120,   48, SE, HS, 1),
     Row(  48,     5, 144,   48, SE, HS, 1)),
    (Row(  48,     5, 288,   96, SE, HS, 2),
     Row(  96,     5, 576,   96, SE, HS, 1),
     Row(  96,     5, 576,   96, SE, HS, 1)),
)
# fmt: on


class MobileNetV3(MobileNet):
    """What large and small share; their tables and last widths differ.

    Expanded channels keep the table's ratio to the block's own (scaled) input; the last pointwise convolution scales
    with the width and is the deepest map; the head behind the pooling never scales; below a width of 0.75 the stem
    keeps its 16 channels. Fields: see `MobileNet`.

    Attributes:
        minimalistic: the form without squeeze-excite, hard-swish and 5x5 kernels.
        depth_multiplier: scales the repeats of each stage, rounded up (timm's `150d`).
    """

    minimalistic: bool = False
    depth_multiplier: DepthMultiplier = 1.0

    table: ClassVar[Table]
    last_features: ClassVar[int]
    head_features: ClassVar[int]

    def stem_layer(self) -> ConvNorm:
        """A 3x3 convolution of 16 channels, hard-swish."""
        features = STEM if self.width_multiplier < 0.75 else make_divisible(STEM * self.width_multiplier)
        return ConvNorm(features, kernel_size=3, activation=self._activation(HS))

    def stages(self) -> list[list[nn.Module]]:
        """The table's stages of bottlenecks, then the last pointwise convolution."""
        stages: list[list[nn.Module]] = []
        for rows in self.table:
            deepened = deepen(rows, self.depth_multiplier)
            stages.append([block for row, n in deepened for block in repeat(self.bottleneck(row), n)])
        features = make_divisible(self.last_features * self.width_multiplier)
        last = ConvNorm(features, kind='pointwise', activation=self._activation(HS))
        return [*stages, [last] * math.ceil(self.depth_multiplier)]

    def bottleneck(self, row: Row) -> InvertedResidual:
        """The block of a row at this width."""
        return InvertedResidual(
            features=make_divisible(row.features * self.width_multiplier),
            expansion_ratio=row.expanded / row.channels,
            kernel_size=3 if self.minimalistic else row.kernel_size,
            strides=row.strides,
            activation=self._activation(row.activation),
            squeeze_excite=row.squeeze_excite and not self.minimalistic,
        )

    def _activation(self, name: str) -> str:
        return RE if self.minimalistic else name

    def head_layer(self) -> Conv:
        """A dense layer with bias and hard-swish, as a pointwise convolution behind the pooling."""
        initializer, activation = get_convention(self.convention).head_initializer(), self._activation(HS)
        return Conv(self.head_features, kind='pointwise', use_bias=True, activation=activation, kernel_init=initializer)

    def head(self, maps: tuple[Array, ...], *, train: bool) -> Array:
        """Pool, then the dense layer."""
        return self.flatten(self.head_conv(pool(maps[-1])[:, None, None, :]))


class MobileNetV3Large(MobileNetV3):
    """MobileNetV3-Large (Table 1 of the paper). Fields: see `MobileNetV3`."""

    table = LARGE
    last_features = 960
    head_features = 1280


class MobileNetV3Small(MobileNetV3):
    """MobileNetV3-Small (Table 2 of the paper; without the SE it prints at the last convolution, which no code has)."""

    table = SMALL
    last_features = 576
    head_features = 1024


class MobileNetV3RW(MobileNetV3):
    """MobileNetV3-Large as timm's `mobilenetv3_rw` of 2019 has it, for that one checkpoint. Fields: see `MobileNetV3`.

    Squeeze-excite's width is not rounded and its squeeze has the block's own activation, the first block has no
    residual, the head behind the pooling no bias.
    """

    table = LARGE
    last_features = 960
    head_features = 1280

    def bottleneck(self, row: Row) -> InvertedResidual:
        """The block of a row at this width."""
        residual = row is not self.table[0][0]
        return super().bottleneck(row).clone(squeeze_divisor=1, squeeze_activation=None, residual=residual)

    def head_layer(self) -> Conv:
        """A dense layer without bias."""
        return super().head_layer().clone(use_bias=False)
