"""MobileNetV1 (Howard et al. 2017, 1704.04861)."""

from typing import Any, NamedTuple

from jax import Array

from flaxmobile.layers import DepthwiseSeparable, make_divisible
from flaxmobile.models.network import BlockSpec, MobileNet, pool
from flaxmobile.rules import Count, Rate


class Row(NamedTuple):
    """A row of Table 1: a depthwise and a pointwise convolution, repeated; the stride is the first one's."""

    features: int
    strides: int
    repeats: int


STEM = 32
TABLE = (
    Row(64, 1, 1),
    Row(128, 2, 2),
    Row(256, 2, 2),
    Row(512, 2, 6),
    Row(1024, 2, 2),
)


class MobileNetV1(MobileNet):
    """MobileNetV1: depthwise separable convolutions with ReLU6 after each of the two, no residuals.

    Table 1 of the paper (its last depthwise stride is a misprint: 1 in the authors' code). Fields: see `MobileNet`.

    Attributes:
        head_features: channels of a pointwise convolution before the pooling (timm's `100h`); None for none.
    """

    dropout_rate: Rate = 0.001
    head_features: Count | None = None

    def stem_fields(self) -> dict[str, Any]:
        """32 channels, ReLU6."""
        return {'features': make_divisible(STEM * self.width_multiplier), 'activation': 'relu6'}

    def block_specs(self) -> list[BlockSpec]:
        """One depthwise separable block for each repeat of each row."""
        return [
            BlockSpec(
                DepthwiseSeparable,
                row.strides if repeat == 0 else 1,
                {'features': make_divisible(row.features * self.width_multiplier)},
                stage,
            )
            for stage, row in enumerate(TABLE)
            for repeat in range(row.repeats)
        ]

    def setup_head(self) -> None:
        """The pointwise convolution of `100h`."""
        if self.head_features:
            self.head_conv = self.conv_norm(features=self.head_features, kind='pointwise', activation='relu6')

    def head(self, maps: Array, *, train: bool) -> Array:
        """Pool, after the pointwise convolution where there is one."""
        return pool(self.head_conv(maps, train=train) if self.head_features else maps)
