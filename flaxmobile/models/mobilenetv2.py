"""MobileNetV2 (Sandler et al. 2018, 1801.04381)."""

import math
from typing import NamedTuple

import flax.linen as nn

from flaxmobile.layers import ConvNorm, InvertedResidual, make_divisible
from flaxmobile.layers.fields import DepthMultiplier
from flaxmobile.models.network import ConvolutionHead
from flaxmobile.models.places import repeat


class Row(NamedTuple):
    """A row of Table 2: t, c, n and s; the stride is the first repeat's."""

    expansion_ratio: int
    features: int
    repeats: int
    strides: int


# fmt: off
STEM = 32
TABLE = (
    #   t    c  n  s
    Row(1,  16, 1, 1),
    Row(6,  24, 2, 2),
    Row(6,  32, 3, 2),
    Row(6,  64, 4, 2),
    Row(6,  96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)
HEAD = 1280
# fmt: on


class MobileNetV2(ConvolutionHead):
    """MobileNetV2: inverted residuals with linear bottlenecks, ReLU6.

    Table 2 of the paper; the head's 1280 channels grow with a width above 1 and never shrink. The deepest map is the
    last bottleneck's, before the head's convolution. Fields: see `MobileNet`.

    Attributes:
        depth_multiplier: scales the repeats, the first and last row's apart, rounded up (timm's `110d`, `120d`).
        fix_stem_and_head: keep both at 32 and 1280 channels whatever the width (timm's `110d`, `120d`).
    """

    depth_multiplier: DepthMultiplier = 1.0
    fix_stem_and_head: bool = False

    def stem_layer(self) -> ConvNorm:
        """A 3x3 convolution of 32 channels, ReLU6."""
        width = 1.0 if self.fix_stem_and_head else self.width_multiplier
        return ConvNorm(make_divisible(STEM * width), kernel_size=3, activation='relu6')

    def stages(self) -> list[list[nn.Module]]:
        """A stage for each row: its bottleneck, n times."""
        first, *rows, last = TABLE
        repeats = [1, *(math.ceil(row.repeats * self.depth_multiplier) for row in rows), 1]
        return [repeat(self._bottleneck(row), n) for row, n in zip((first, *rows, last), repeats, strict=True)]

    def _bottleneck(self, row: Row) -> InvertedResidual:
        features = make_divisible(row.features * self.width_multiplier)
        return InvertedResidual(features, row.expansion_ratio, strides=row.strides, activation='relu6')

    def head_layer(self) -> ConvNorm:
        """A pointwise convolution of 1280 channels or more, ReLU6."""
        width = 1.0 if self.fix_stem_and_head else max(1.0, self.width_multiplier)
        return ConvNorm(make_divisible(HEAD * width), kind='pointwise', activation='relu6')
