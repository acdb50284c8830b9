"""MobileNetV1 (Howard et al. 2017, 1704.04861)."""

from typing import NamedTuple

import flax.linen as nn
from jax import Array

from flaxmobile.layers import ConvNorm, DepthwiseSeparable, make_divisible
from flaxmobile.models.network import MobileNet, pool
from flaxmobile.models.places import repeat
from flaxmobile.rules import Count, Rate


class Row(NamedTuple):
    """Rows of Table 1: a depthwise and a pointwise convolution of c channels, n times; s is the first one's stride."""

    features: int
    repeats: int
    strides: int


# fmt: off
STEM = 32
TABLE = (
    #      c  n  s
    Row(  64, 1, 1),
    Row( 128, 2, 2),
    Row( 256, 2, 2),
    Row( 512, 6, 2),
    Row(1024, 2, 2),
)
# fmt: on


class MobileNetV1(MobileNet):
    """MobileNetV1: depthwise separable convolutions with ReLU6 after each of the two, no residuals.

    Table 1 of the paper (its last depthwise stride is a misprint: 1 in the authors' code). Fields: see `MobileNet`.

    Attributes:
        head_features: channels of a pointwise convolution before the pooling (timm's `100h`); None for none.
    """

    dropout_rate: Rate = 0.001
    head_features: Count | None = None

    def stem_layer(self) -> ConvNorm:
        """A 3x3 convolution of 32 channels, ReLU6."""
        return ConvNorm(make_divisible(STEM * self.width_multiplier), kernel_size=3)

    def stages(self) -> list[list[nn.Module]]:
        """A stage for each row."""
        return [
            repeat(
                DepthwiseSeparable(make_divisible(row.features * self.width_multiplier), strides=row.strides),
                row.repeats,
            )
            for row in TABLE
        ]

    def head_layer(self) -> ConvNorm | None:
        """The pointwise convolution of `100h`, ReLU6."""
        return ConvNorm(self.head_features, kind='pointwise') if self.head_features else None

    def head(self, maps: tuple[Array, ...], *, train: bool) -> Array:
        """Pool, after the pointwise convolution where there is one."""
        return pool(self.head_conv(maps[-1], train=train) if self.head_features else maps[-1])
