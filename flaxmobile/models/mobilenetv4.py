"""MobileNetV4 (Qin et al. 2024, 2404.10518)."""

from typing import Any, ClassVar

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
from flaxmobile.models.network import MobileNet, pool

Table = tuple[tuple[nn.Module, ...], ...]
"""Blocks by stage; width, activation and what else a network has for all of them are the network's to set."""

# The paper's names of blocks. k: kernel size, start_k: of the depthwise convolution before the expansion, e: expansion,
# c: #out, s: stride. No block here belongs to a network, wherever this file is first imported: parent=None.


def conv(k: int, c: int, s: int = 1) -> ConvNorm:
    """An ordinary convolution, its norm and activation."""
    return ConvNorm(c, k, s, kind='pointwise' if k == 1 else 'standard', parent=None)


def fused(k: int, e: int, c: int, s: int = 1) -> FusedInvertedBottleneck:
    """The fused inverted bottleneck: an ordinary convolution expands."""
    return FusedInvertedBottleneck(c, e, kernel_size=k, strides=s, parent=None)


def inverted_bottleneck(k: int, e: int, c: int, s: int = 1) -> UniversalInvertedBottleneck:
    """A depthwise convolution between expansion and projection."""
    return extra_dw(0, k, e, c, s)


def convnext(start_k: int, e: int, c: int, s: int = 1) -> UniversalInvertedBottleneck:
    """A depthwise convolution before the expansion."""
    return extra_dw(start_k, 0, e, c, s)


def extra_dw(start_k: int, k: int, e: int, c: int, s: int = 1) -> UniversalInvertedBottleneck:
    """Both depthwise convolutions."""
    return UniversalInvertedBottleneck(c, e, start_kernel_size=start_k, kernel_size=k, strides=s, parent=None)


def ffn(e: int, c: int) -> UniversalInvertedBottleneck:
    """Expansion and projection alone."""
    return extra_dw(0, 0, e, c)


def attention(heads: int, key_features: int, key_strides: int = 1) -> MultiQueryAttention:
    """Mobile multi-query attention, and the stride of its keys and values."""
    return MultiQueryAttention(heads, key_features, key_strides, parent=None)


def at_width(block: Any, width_multiplier: float, **fields: Any) -> nn.Module:
    """A block of a table with its features scaled, and with such of the fields as it has."""
    own = {name: value for name, value in fields.items() if name in block.__dataclass_fields__}
    if 'features' in block.__dataclass_fields__:
        own['features'] = make_divisible(block.features * width_multiplier)
    return block.clone(**own)


CONV_SMALL: Table = (
    (conv(3, 32, s=2), conv(1, 32)),
    (conv(3, 96, s=2), conv(1, 64)),
    (
        extra_dw(5, 5, 3, 96, s=2),
        *4 * [inverted_bottleneck(3, 2, 96)],
        convnext(3, 4, 96),
    ),
    (
        extra_dw(3, 3, 6, 128, s=2),
        extra_dw(5, 5, 4, 128),
        inverted_bottleneck(5, 4, 128),
        inverted_bottleneck(5, 3, 128),
        *2 * [inverted_bottleneck(3, 4, 128)],
    ),
)
CONV_MEDIUM: Table = (
    (fused(3, 4, 48, s=2),),
    (extra_dw(3, 5, 4, 80, s=2), extra_dw(3, 3, 2, 80)),
    (
        extra_dw(3, 5, 6, 160, s=2),
        *2 * [extra_dw(3, 3, 4, 160)],
        extra_dw(3, 5, 4, 160),
        extra_dw(3, 3, 4, 160),
        convnext(3, 4, 160),
        ffn(2, 160),
        convnext(3, 4, 160),
    ),
    (
        extra_dw(5, 5, 6, 256, s=2),
        extra_dw(5, 5, 4, 256),
        *2 * [extra_dw(3, 5, 4, 256)],
        ffn(4, 256),
        convnext(3, 4, 256),
        extra_dw(3, 5, 2, 256),
        extra_dw(5, 5, 4, 256),
        *2 * [ffn(4, 256)],
        convnext(5, 2, 256),
    ),
)
CONV_LARGE: Table = (
    (fused(3, 4, 48, s=2),),
    (extra_dw(3, 5, 4, 96, s=2), extra_dw(3, 3, 4, 96)),
    (
        extra_dw(3, 5, 4, 192, s=2),
        *3 * [extra_dw(3, 3, 4, 192)],
        extra_dw(3, 5, 4, 192),
        *5 * [extra_dw(5, 3, 4, 192)],
        convnext(3, 4, 192),
    ),
    (
        extra_dw(5, 5, 4, 512, s=2),
        *3 * [extra_dw(5, 5, 4, 512)],
        convnext(5, 4, 512),
        extra_dw(5, 3, 4, 512),
        *2 * [convnext(5, 4, 512)],
        extra_dw(5, 3, 4, 512),
        extra_dw(5, 5, 4, 512),
        *3 * [convnext(5, 4, 512)],
    ),
)
HYBRID_MEDIUM: Table = (
    (fused(3, 4, 48, s=2),),
    (extra_dw(3, 5, 4, 80, s=2), extra_dw(3, 3, 2, 80)),
    (
        extra_dw(3, 5, 6, 160, s=2),
        ffn(2, 160),
        extra_dw(3, 3, 4, 160),
        extra_dw(3, 5, 4, 160),
        *2 * [attention(4, 64, 2), extra_dw(3, 3, 4, 160), attention(4, 64, 2), convnext(3, 4, 160)],
    ),
    (
        extra_dw(5, 5, 6, 256, s=2),
        extra_dw(5, 5, 4, 256),
        *2 * [extra_dw(3, 5, 4, 256)],
        ffn(2, 256),
        extra_dw(3, 5, 2, 256),
        ffn(2, 256),
        ffn(4, 256),
        attention(4, 64),
        convnext(3, 4, 256),
        attention(4, 64),
        extra_dw(5, 5, 4, 256),
        *2 * [attention(4, 64), convnext(5, 4, 256)],
    ),
)
HYBRID_LARGE: Table = (
    (fused(3, 4, 48, s=2),),
    (extra_dw(3, 5, 4, 96, s=2), extra_dw(3, 3, 4, 96)),
    (
        extra_dw(3, 5, 4, 192, s=2),
        *3 * [extra_dw(3, 3, 4, 192)],
        extra_dw(3, 5, 4, 192),
        *2 * [extra_dw(5, 3, 4, 192)],
        *3 * [attention(8, 48, 2), extra_dw(5, 3, 4, 192)],
        attention(8, 48, 2),
        convnext(3, 4, 192),
    ),
    (
        extra_dw(5, 5, 4, 512, s=2),
        *3 * [extra_dw(5, 5, 4, 512)],
        convnext(5, 4, 512),
        extra_dw(5, 3, 4, 512),
        *2 * [convnext(5, 4, 512)],
        extra_dw(5, 3, 4, 512),
        extra_dw(5, 5, 4, 512),
        *4 * [attention(8, 64), convnext(5, 4, 512)],
    ),
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

    def stem_layer(self) -> ConvNorm:
        """A 3x3 convolution of 32 channels, or 24."""
        features = make_divisible(self.stem_features * max(1.0, self.width_multiplier))
        return ConvNorm(features, kernel_size=3, activation=self.activation)

    def stages(self) -> list[list[nn.Module]]:
        """The table's stages, then the last pointwise convolution."""
        own = {'activation': self.activation, 'anti_aliasing': self.anti_aliasing, 'layer_scale': self.layer_scale}
        table = *self.table, (conv(1, LAST),)
        return [[at_width(block, self.width_multiplier, **own) for block in stage] for stage in table]

    def head_layer(self) -> ConvNorm:
        """A pointwise convolution of 1280 channels behind the pooling."""
        return ConvNorm(HEAD, kind='pointwise', activation=self.activation)

    def head(self, maps: tuple[Array, ...], *, train: bool) -> Array:
        """Pool, then the pointwise convolution."""
        return self.flatten(self.head_conv(pool(maps[-1])[:, None, None, :], train=train))


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
