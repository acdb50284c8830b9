"""MobileNetV2 (Sandler et al. 2018, 1801.04381)."""

import math
from typing import Any, NamedTuple

from flaxmobile.layers import InvertedResidual, make_divisible
from flaxmobile.layers.fields import DepthMultiplier
from flaxmobile.models.network import BlockSpec, ConvolutionHead


class Row(NamedTuple):
    """A row of Table 2: t, c, n and s; the stride is the first repeat's."""

    expansion_ratio: int
    features: int
    repeats: int
    strides: int


STEM = 32
TABLE = (
    Row(1, 16, 1, 1),
    Row(6, 24, 2, 2),
    Row(6, 32, 3, 2),
    Row(6, 64, 4, 2),
    Row(6, 96, 3, 1),
    Row(6, 160, 3, 2),
    Row(6, 320, 1, 1),
)
HEAD = 1280


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

    def stem_fields(self) -> dict[str, Any]:
        """32 channels, ReLU6."""
        width = 1.0 if self.fix_stem_and_head else self.width_multiplier
        return {'features': make_divisible(STEM * width), 'activation': 'relu6'}

    def block_specs(self) -> list[BlockSpec]:
        """One inverted residual for each repeat of each row."""
        return [
            BlockSpec(
                InvertedResidual,
                row.strides if repeat == 0 else 1,
                {
                    'features': make_divisible(row.features * self.width_multiplier),
                    'expansion_ratio': row.expansion_ratio,
                },
                stage,
            )
            for stage, row in enumerate(TABLE)
            for repeat in range(self._repeats(row))
        ]

    def _repeats(self, row: Row) -> int:
        return row.repeats if row in (TABLE[0], TABLE[-1]) else math.ceil(row.repeats * self.depth_multiplier)

    def head_fields(self) -> dict[str, Any]:
        """1280 channels or more, ReLU6."""
        width = 1.0 if self.fix_stem_and_head else max(1.0, self.width_multiplier)
        return {'features': make_divisible(HEAD * width), 'activation': 'relu6'}
