"""MnasNet (Tan et al. 2018, 1807.11626)."""

from typing import Any, ClassVar, NamedTuple

from flaxmobile.layers import InvertedResidual, make_divisible
from flaxmobile.models.network import BlockSpec, ConvolutionHead


class Row(NamedTuple):
    """A row of Figure 7: kernel, expansion, #out, repeats, stride of the first, and squeeze-excite."""

    kernel_size: int
    expansion_ratio: int
    features: int
    repeats: int
    strides: int
    squeeze_excite: bool = False


B1 = (
    Row(3, 1, 16, 1, 1),
    Row(3, 3, 24, 3, 2),
    Row(5, 3, 40, 3, 2),
    Row(5, 6, 80, 3, 2),
    Row(3, 6, 96, 2, 1),
    Row(5, 6, 192, 4, 2),
    Row(3, 6, 320, 1, 1),
)
A1 = (
    Row(3, 1, 16, 1, 1),
    Row(3, 6, 24, 2, 2),
    Row(5, 3, 40, 3, 2, True),
    Row(3, 6, 80, 4, 2),
    Row(3, 6, 112, 2, 1, True),
    Row(5, 6, 160, 3, 2, True),
    Row(3, 6, 320, 1, 1),
)
SMALL = (
    Row(3, 1, 8, 1, 1),
    Row(3, 3, 16, 1, 2),
    Row(3, 6, 16, 2, 2),
    Row(5, 6, 32, 4, 2, True),
    Row(3, 6, 32, 3, 1, True),
    Row(5, 6, 88, 3, 2, True),
    Row(3, 6, 144, 1, 1),
)
HEAD = 1280


class MnasNetBase(ConvolutionHead):
    """What the forms share: inverted residuals with ReLU, a squeeze of a quarter of the block's input, 1280 at the end.

    The head's 1280 channels never scale; the deepest map is the last block's. Fields: see `MobileNet`.
    """

    table: ClassVar[tuple[Row, ...]]
    stem_features: ClassVar[int] = 32
    first_residual: ClassVar[bool] = False

    def stem_fields(self) -> dict[str, Any]:
        """32 channels, or 8; ReLU."""
        return {'features': make_divisible(self.stem_features * self.width_multiplier), 'activation': 'relu'}

    def block_specs(self) -> list[BlockSpec]:
        """One inverted residual for each repeat of each row."""
        return [
            BlockSpec(InvertedResidual, row.strides if repeat == 0 else 1, self._fields(row), stage)
            for stage, row in enumerate(self.table)
            for repeat in range(row.repeats)
        ]

    def _fields(self, row: Row) -> dict[str, Any]:
        return {
            'features': make_divisible(row.features * self.width_multiplier),
            'expansion_ratio': row.expansion_ratio,
            'kernel_size': row.kernel_size,
            'activation': 'relu',
            'squeeze_excite': row.squeeze_excite,
            'squeeze_reduction': 4 * row.expansion_ratio,
            'squeeze_divisor': 1,
            'squeeze_gate': 'sigmoid',
            'residual': self.first_residual or row is not self.table[0],
        }

    def head_fields(self) -> dict[str, Any]:
        """1280 channels, ReLU."""
        return {'features': HEAD, 'activation': 'relu'}


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
