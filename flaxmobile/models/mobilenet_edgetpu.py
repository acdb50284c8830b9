"""MobileNet-EdgeTPU, the first (Howard and Gupta 2019) and the second (Akin et al. 2022, 2204.14007)."""

from typing import ClassVar, NamedTuple

import flax.linen as nn

from flaxmobile.layers import ConvNorm, FusedInvertedBottleneck, InvertedResidual, make_divisible
from flaxmobile.models.network import ConvolutionHead


class Fused(NamedTuple):
    """A fused inverted bottleneck: expansion e, stride s, and whether its expansion is a grouped convolution."""

    expansion_ratio: int
    strides: int = 1
    grouped: bool = False


class Inverted(NamedTuple):
    """An inverted residual: expansion e, stride s, kernel k."""

    expansion_ratio: int
    strides: int = 1
    kernel_size: int = 3


Table = tuple[tuple[Fused | Inverted, ...], ...]
GROUPED = Fused(4, grouped=True)

# The blocks of each stage behind the first pointwise convolution; a stage's channels are the network's.
V1: Table = (
    (Fused(8, 2), *3 * [Fused(4)]),
    (Fused(8, 2), *3 * [Fused(4)]),
    (Inverted(8, 2), *3 * [Inverted(4)]),
    (Inverted(8), *3 * [Inverted(4)]),
    (Inverted(8, 2, 5), *3 * [Inverted(4, 1, 5)]),
    (Inverted(8),),
)
V2: Table = (
    (Fused(8, 2), GROUPED),
    (Fused(8, 2), GROUPED, Fused(4), GROUPED),
    (Fused(8, 2), *3 * [Inverted(4)]),
    (Inverted(8), *3 * [Inverted(4)]),
    (Inverted(8, 2), *3 * [Inverted(4)]),
    (Inverted(8),),
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

    def stem_layer(self) -> ConvNorm:
        """A convolution of 32 or 64 channels, ReLU."""
        features = make_divisible(self.stem_features * self.width_multiplier)
        return ConvNorm(features, self.stem_kernel_size, activation='relu')

    def stages(self) -> list[list[nn.Module]]:
        """A pointwise convolution, then the table's stages."""
        first, *others = (make_divisible(features * self.width_multiplier) for features in self.stage_features)
        stages = [self._stage(rows, features) for rows, features in zip(self.table, others, strict=True)]
        return [[ConvNorm(first, kind='pointwise', activation='relu')], *stages]

    def _stage(self, rows: tuple[Fused | Inverted, ...], features: int) -> list[nn.Module]:
        return [self._block(row, features, first=index == 0) for index, row in enumerate(rows)]

    def _block(self, row: Fused | Inverted, features: int, *, first: bool) -> nn.Module:
        if isinstance(row, Fused):
            return FusedInvertedBottleneck(
                features=features,
                expansion_ratio=row.expansion_ratio,
                strides=row.strides,
                group_size=self.group_size if row.grouped else 0,
                activation='relu',
            )
        return InvertedResidual(
            features=features,
            expansion_ratio=row.expansion_ratio,
            kernel_size=row.kernel_size,
            strides=row.strides,
            activation='relu',
            residual=not first,
        )

    def head_layer(self) -> ConvNorm:
        """A pointwise convolution of 1280 channels or more, ReLU."""
        return ConvNorm(self.head_features, kind='pointwise', activation='relu')


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
