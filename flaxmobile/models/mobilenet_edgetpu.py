"""MobileNet-EdgeTPU, the first (Howard and Gupta 2019) and the second (Akin et al. 2022, 2204.14007)."""

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn

from flaxmobile.layers import ConvNorm, FusedInvertedBottleneck, InvertedResidual, make_divisible
from flaxmobile.models.network import BlockSpec, ConvolutionHead


class Row(NamedTuple):
    """A block: expansion, stride, kernel, and whether a fused one's expansion is grouped."""

    module: type[nn.Module]
    expansion_ratio: int
    strides: int = 1
    kernel_size: int = 3
    grouped: bool = False


Table = tuple[tuple[Row, ...], ...]
FUSED, INVERTED = FusedInvertedBottleneck, InvertedResidual
GROUPED = Row(FUSED, 4, grouped=True)

# The blocks of each stage behind the first pointwise convolution.
V1: Table = (
    (Row(FUSED, 8, 2), *[Row(FUSED, 4)] * 3),
    (Row(FUSED, 8, 2), *[Row(FUSED, 4)] * 3),
    (Row(INVERTED, 8, 2), *[Row(INVERTED, 4)] * 3),
    (Row(INVERTED, 8), *[Row(INVERTED, 4)] * 3),
    (Row(INVERTED, 8, 2, 5), *[Row(INVERTED, 4, 1, 5)] * 3),
    (Row(INVERTED, 8),),
)
V2: Table = (
    (Row(FUSED, 8, 2), GROUPED),
    (Row(FUSED, 8, 2), GROUPED, Row(FUSED, 4), GROUPED),
    (Row(FUSED, 8, 2), *[Row(INVERTED, 4)] * 3),
    (Row(INVERTED, 8), *[Row(INVERTED, 4)] * 3),
    (Row(INVERTED, 8, 2), *[Row(INVERTED, 4)] * 3),
    (Row(INVERTED, 8),),
)


class MobileNetEdgeTPU(ConvolutionHead):
    """What the networks share: fused bottlenecks first, inverted residuals after them, ReLU.

    The first block of a stage has no residual; the head never scales with the width; the deepest map is the last
    block's. Fields: see `MobileNet`.
    """

    table: ClassVar[Table]
    stem_features: ClassVar[int] = 32
    stem_kernel_size: ClassVar[int] = 3
    stage_features: ClassVar[tuple[int, ...]]
    group_size: ClassVar[int] = 64
    head_features: ClassVar[int] = 1280

    def stem_fields(self) -> dict[str, Any]:
        """32 or 64 channels, ReLU."""
        return {
            'features': make_divisible(self.stem_features * self.width_multiplier),
            'kernel_size': self.stem_kernel_size,
            'activation': 'relu',
        }

    def block_specs(self) -> list[BlockSpec]:
        """A pointwise convolution, then a block for each row."""
        first, *others = (make_divisible(features * self.width_multiplier) for features in self.stage_features)
        plain = {'features': first, 'kind': 'pointwise', 'activation': 'relu'}
        return [BlockSpec(ConvNorm, 1, plain, 0)] + [
            BlockSpec(row.module, row.strides, self._fields(row, features, first=index == 0), stage)
            for stage, (rows, features) in enumerate(zip(self.table, others, strict=True), 1)
            for index, row in enumerate(rows)
        ]

    def _fields(self, row: Row, features: int, *, first: bool) -> dict[str, Any]:
        fields = {
            'features': features,
            'expansion_ratio': row.expansion_ratio,
            'kernel_size': row.kernel_size,
            'activation': 'relu',
        }
        if row.module is FUSED:
            return {**fields, 'group_size': self.group_size if row.grouped else 0}
        return {**fields, 'residual': not first}

    def head_fields(self) -> dict[str, Any]:
        """1280 channels or more, ReLU."""
        return {'features': self.head_features, 'activation': 'relu'}


class MobileNetEdgeTPUV1(MobileNetEdgeTPU):
    """MobileNet-EdgeTPU of 2019. Fields: see `MobileNet`."""

    table = V1
    stage_features = (16, 32, 48, 96, 96, 160, 192)


class MobileNetEdgeTPUV2XS(MobileNetEdgeTPU):
    """MobileNet-EdgeTPU-V2, extra small. Fields: see `MobileNet`."""

    table = V2
    stage_features = (16, 32, 48, 96, 144, 160, 192)


class MobileNetEdgeTPUV2S(MobileNetEdgeTPU):
    """MobileNet-EdgeTPU-V2, small. Fields: see `MobileNet`."""

    table = V2
    stem_features, stem_kernel_size = 64, 5
    stage_features = (24, 48, 64, 128, 160, 192, 256)


class MobileNetEdgeTPUV2M(MobileNetEdgeTPU):
    """MobileNet-EdgeTPU-V2, medium. Fields: see `MobileNet`."""

    table = V2
    stem_features, stem_kernel_size, head_features = 64, 5, 1344
    stage_features = (32, 64, 80, 160, 192, 240, 320)


class MobileNetEdgeTPUV2L(MobileNetEdgeTPU):
    """MobileNet-EdgeTPU-V2, large. Fields: see `MobileNet`."""

    table = V2
    stem_features, stem_kernel_size, head_features = 64, 7, 1408
    stage_features = (32, 64, 96, 192, 240, 256, 384)
    group_size = 128
