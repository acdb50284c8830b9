"""MobileNetV4 (Qin et al. 2024, 2404.10518)."""

from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
from jax import Array

from flaxmobile.layers import (
    AntiAliasing,
    ConvNorm,
    FusedInvertedBottleneck,
    MultiQueryAttention,
    UniversalInvertedBottleneck,
    make_divisible,
)
from flaxmobile.models.network import BlockSpec, MobileNet, pool


class Plain(NamedTuple):
    """A convolution: kernel, #out and stride."""

    kernel_size: int
    features: int
    strides: int = 1


class Fused(NamedTuple):
    """A fused inverted bottleneck: kernel, expansion, #out and stride."""

    kernel_size: int
    expansion_ratio: int
    features: int
    strides: int


class Uib(NamedTuple):
    """A universal inverted bottleneck: kernels of both depthwise convolutions (0: none), expansion, #out and stride."""

    start_kernel_size: int
    kernel_size: int
    expansion_ratio: int
    features: int
    strides: int = 1


class Mqa(NamedTuple):
    """Multi-query attention: heads, channels of each, stride of keys and values."""

    heads: int
    key_features: int
    key_strides: int


Row = Plain | Fused | Uib | Mqa
Table = tuple[Row, ...]


def repeat(times: int, *rows: Row) -> Table:
    """`rows` one after the other, `times` over."""
    return rows * times


CONV_SMALL: Table = (
    Plain(3, 32, 2),
    Plain(1, 32),
    Plain(3, 96, 2),
    Plain(1, 64),
    Uib(5, 5, 3, 96, 2),
    *repeat(4, Uib(0, 3, 2, 96)),
    Uib(3, 0, 4, 96),
    Uib(3, 3, 6, 128, 2),
    Uib(5, 5, 4, 128),
    Uib(0, 5, 4, 128),
    Uib(0, 5, 3, 128),
    *repeat(2, Uib(0, 3, 4, 128)),
)
CONV_MEDIUM: Table = (
    Fused(3, 4, 48, 2),
    Uib(3, 5, 4, 80, 2),
    Uib(3, 3, 2, 80),
    Uib(3, 5, 6, 160, 2),
    *repeat(2, Uib(3, 3, 4, 160)),
    Uib(3, 5, 4, 160),
    Uib(3, 3, 4, 160),
    Uib(3, 0, 4, 160),
    Uib(0, 0, 2, 160),
    Uib(3, 0, 4, 160),
    Uib(5, 5, 6, 256, 2),
    Uib(5, 5, 4, 256),
    *repeat(2, Uib(3, 5, 4, 256)),
    Uib(0, 0, 4, 256),
    Uib(3, 0, 4, 256),
    Uib(3, 5, 2, 256),
    Uib(5, 5, 4, 256),
    *repeat(2, Uib(0, 0, 4, 256)),
    Uib(5, 0, 2, 256),
)
CONV_LARGE: Table = (
    Fused(3, 4, 48, 2),
    Uib(3, 5, 4, 96, 2),
    Uib(3, 3, 4, 96),
    Uib(3, 5, 4, 192, 2),
    *repeat(3, Uib(3, 3, 4, 192)),
    Uib(3, 5, 4, 192),
    *repeat(5, Uib(5, 3, 4, 192)),
    Uib(3, 0, 4, 192),
    Uib(5, 5, 4, 512, 2),
    *repeat(3, Uib(5, 5, 4, 512)),
    Uib(5, 0, 4, 512),
    Uib(5, 3, 4, 512),
    *repeat(2, Uib(5, 0, 4, 512)),
    Uib(5, 3, 4, 512),
    Uib(5, 5, 4, 512),
    *repeat(3, Uib(5, 0, 4, 512)),
)
HYBRID_MEDIUM: Table = (
    Fused(3, 4, 48, 2),
    Uib(3, 5, 4, 80, 2),
    Uib(3, 3, 2, 80),
    Uib(3, 5, 6, 160, 2),
    Uib(0, 0, 2, 160),
    Uib(3, 3, 4, 160),
    Uib(3, 5, 4, 160),
    *repeat(2, Mqa(4, 64, 2), Uib(3, 3, 4, 160), Mqa(4, 64, 2), Uib(3, 0, 4, 160)),
    Uib(5, 5, 6, 256, 2),
    Uib(5, 5, 4, 256),
    *repeat(2, Uib(3, 5, 4, 256)),
    Uib(0, 0, 2, 256),
    Uib(3, 5, 2, 256),
    Uib(0, 0, 2, 256),
    Uib(0, 0, 4, 256),
    Mqa(4, 64, 1),
    Uib(3, 0, 4, 256),
    Mqa(4, 64, 1),
    Uib(5, 5, 4, 256),
    *repeat(2, Mqa(4, 64, 1), Uib(5, 0, 4, 256)),
)
HYBRID_LARGE: Table = (
    Fused(3, 4, 48, 2),
    Uib(3, 5, 4, 96, 2),
    Uib(3, 3, 4, 96),
    Uib(3, 5, 4, 192, 2),
    *repeat(3, Uib(3, 3, 4, 192)),
    Uib(3, 5, 4, 192),
    *repeat(2, Uib(5, 3, 4, 192)),
    *repeat(3, Mqa(8, 48, 2), Uib(5, 3, 4, 192)),
    Mqa(8, 48, 2),
    Uib(3, 0, 4, 192),
    Uib(5, 5, 4, 512, 2),
    *repeat(3, Uib(5, 5, 4, 512)),
    Uib(5, 0, 4, 512),
    Uib(5, 3, 4, 512),
    *repeat(2, Uib(5, 0, 4, 512)),
    Uib(5, 3, 4, 512),
    Uib(5, 5, 4, 512),
    *repeat(4, Mqa(8, 64, 1), Uib(5, 0, 4, 512)),
)
LAST, HEAD = 960, 1280


class MobileNetV4(MobileNet):
    """What the variants share; their tables, stems and activations differ.

    The last pointwise convolution scales with the width and is the deepest map; the head behind the pooling never
    scales, nor does a stem below a width of 1, nor heads and channels of attention. Fields: see `MobileNet`.

    Attributes:
        anti_aliasing: 'average' or 'blur' pools after the blocks' strided convolutions, which then move by one pixel
            (timm's `aa` and `blur`); None for neither.
    """

    anti_aliasing: AntiAliasing | None = None

    table: ClassVar[Table]
    stem_features: ClassVar[int] = 32
    activation: ClassVar[str] = 'relu'
    layer_scale: ClassVar[float | None] = None

    def stem_fields(self) -> dict[str, Any]:
        """32 channels, or 24."""
        return {
            'features': make_divisible(self.stem_features * max(1.0, self.width_multiplier)),
            'activation': self.activation,
        }

    def block_specs(self) -> list[BlockSpec]:
        """A block for each row, then the last pointwise convolution; a stage begins with a stride."""
        specs: list[BlockSpec] = []
        stage = -1
        for row in self.table:
            module, fields = self._block(row)
            strides = fields.pop('strides', 1)
            stage += strides > 1
            specs.append(BlockSpec(module, strides, fields, stage))
        module, fields = self._block(Plain(1, LAST))
        return [*specs, BlockSpec(module, fields.pop('strides'), fields, stage + 1)]

    def _block(self, row: Row) -> tuple[type[nn.Module], dict[str, Any]]:
        if isinstance(row, Mqa):
            return MultiQueryAttention, {**row._asdict(), 'layer_scale': self.layer_scale}
        fields = {
            **row._asdict(),
            'features': make_divisible(row.features * self.width_multiplier),
            'activation': self.activation,
            'anti_aliasing': self.anti_aliasing,
        }
        if isinstance(row, Plain):
            return ConvNorm, {**fields, 'kind': 'pointwise' if row.kernel_size == 1 else 'standard'}
        if isinstance(row, Fused):
            return FusedInvertedBottleneck, fields
        return UniversalInvertedBottleneck, {**fields, 'layer_scale': self.layer_scale}

    def setup_head(self) -> None:
        """A pointwise convolution behind the pooling."""
        self.head_conv = self.conv_norm(features=HEAD, kind='pointwise', activation=self.activation)

    def head(self, maps: Array, *, train: bool) -> Array:
        """Pool, then the pointwise convolution."""
        return self.head_conv(pool(maps)[:, None, None, :], train=train)[:, 0, 0, :]


class MobileNetV4ConvSmall(MobileNetV4):
    """MobileNetV4-Conv-Small. Fields: see `MobileNetV4`."""

    table = CONV_SMALL


class MobileNetV4ConvMedium(MobileNetV4):
    """MobileNetV4-Conv-Medium. Fields: see `MobileNetV4`."""

    table = CONV_MEDIUM


class MobileNetV4ConvLarge(MobileNetV4):
    """MobileNetV4-Conv-Large. Fields: see `MobileNetV4`."""

    table = CONV_LARGE
    stem_features = 24


class MobileNetV4HybridMedium(MobileNetV4):
    """MobileNetV4-Hybrid-Medium: with multi-query attention. Fields: see `MobileNetV4`."""

    table = HYBRID_MEDIUM
    layer_scale = 1e-5


class MobileNetV4HybridLarge(MobileNetV4):
    """MobileNetV4-Hybrid-Large: with multi-query attention and GELU. Fields: see `MobileNetV4`."""

    table = HYBRID_LARGE
    stem_features = 24
    activation = 'gelu'
    layer_scale = 1e-5
