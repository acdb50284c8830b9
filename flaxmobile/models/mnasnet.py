"""MnasNet (Tan et al. 2018, 1807.11626)."""

from typing import ClassVar, NamedTuple

import flax.linen as nn

from flaxmobile.layers import ConvNorm, InvertedResidual, make_divisible
from flaxmobile.models.network import ConvolutionHead
from flaxmobile.models.places import repeat


class Row(NamedTuple):
    """A row of Figure 7: kernel k, expansion e, channels c, repeats n, stride s of the first, and squeeze-excite SE."""

    kernel_size: int
    expansion_ratio: int
    features: int
    repeats: int
    strides: int
    squeeze_excite: bool


Table = tuple[Row, ...]
SE, NO = True, False

# fmt: off
B1: Table = (
    #   k  e    c  n  s  SE
    Row(3, 1,  16, 1, 1, NO),
    Row(3, 3,  24, 3, 2, NO),
    Row(5, 3,  40, 3, 2, NO),
    Row(5, 6,  80, 3, 2, NO),
    Row(3, 6,  96, 2, 1, NO),
    Row(5, 6, 192, 4, 2, NO),
    Row(3, 6, 320, 1, 1, NO),
)
A1: Table = (
    Row(3, 1,  16, 1, 1, NO),
    Row(3, 6,  24, 2, 2, NO),
    Row(5, 3,  40, 3, 2, SE),
    Row(3, 6,  80, 4, 2, NO),
    Row(3, 6, 112, 2, 1, SE),
    Row(5, 6, 160, 3, 2, SE),
    Row(3, 6, 320, 1, 1, NO),
)
SMALL: Table = (
    Row(3, 1,   8, 1, 1, NO),
    Row(3, 3,  16, 1, 2, NO),
    Row(3, 6,  16, 2, 2, NO),
    Row(5, 6,  32, 4, 2, SE),
    Row(3, 6,  32, 3, 1, SE),
    Row(5, 6,  88, 3, 2, SE),
    Row(3, 6, 144, 1, 1, NO),
)
HEAD = 1280
# fmt: on


class MnasNetBase(ConvolutionHead):
    """What the forms share: inverted residuals with ReLU, a squeeze of a quarter of the block's input, 1280 at the end.

    The head's 1280 channels never scale; the deepest map is the last block's. Fields: see `MobileNet`.
    """

    table: ClassVar[Table]
    stem_features: ClassVar[int] = 32
    first_residual: ClassVar[bool] = False

    def stem_layer(self) -> ConvNorm:
        """A 3x3 convolution of 32 channels, or 8; ReLU."""
        return ConvNorm(make_divisible(self.stem_features * self.width_multiplier), kernel_size=3, activation='relu')

    def stages(self) -> list[list[nn.Module]]:
        """A stage for each row: its bottleneck, n times."""
        return [repeat(self._bottleneck(row), row.repeats) for row in self.table]

    def _bottleneck(self, row: Row) -> InvertedResidual:
        return InvertedResidual(
            features=make_divisible(row.features * self.width_multiplier),
            expansion_ratio=row.expansion_ratio,
            kernel_size=row.kernel_size,
            strides=row.strides,
            activation='relu',
            squeeze_excite=row.squeeze_excite,
            squeeze_reduction=4 * row.expansion_ratio,
            squeeze_divisor=1,
            squeeze_gate='sigmoid',
            residual=self.first_residual or row is not self.table[0],
        )

    def head_layer(self) -> ConvNorm:
        """A pointwise convolution of 1280 channels, ReLU."""
        return ConvNorm(HEAD, kind='pointwise', activation='relu')


class MnasNet(MnasNetBase):
    """MnasNet-B1, without squeeze-excite. Fields: see `MobileNet`."""

    table = B1


class SemNASNet(MnasNetBase):
    """MnasNet-A1, with squeeze-excite; timm's name. Fields: see `MobileNet`."""

    table = A1


class MnasNetSmall(MnasNetBase):
    """MnasNet-Small, the search at low latency. Fields: see `MobileNet`."""

    table = SMALL
    stem_features = 8
    first_residual = True
