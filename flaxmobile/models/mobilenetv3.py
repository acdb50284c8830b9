"""MobileNetV3 large and small (Howard et al. 2019, 1905.02244)."""

import math
from typing import Any, ClassVar, NamedTuple

from jax import Array

from flaxmobile import ops
from flaxmobile.layers import Conv, ConvNorm, InvertedResidual, get_convention, make_divisible
from flaxmobile.layers.fields import Activation, DepthMultiplier
from flaxmobile.models.network import BlockSpec, MobileNet, pool, stages
from flaxmobile.rules import Count


class Row(NamedTuple):
    """A row of Tables 1 and 2: the channels of Input, kernel, exp size, #out, SE, NL and s."""

    channels: int
    kernel_size: int
    expanded: int
    features: int
    squeeze_excite: bool
    activation: str
    strides: int


RE, HS = 'relu', 'hard_swish'
STEM = 16
LARGE = (
    Row(16, 3, 16, 16, False, RE, 1),
    Row(16, 3, 64, 24, False, RE, 2),
    Row(24, 3, 72, 24, False, RE, 1),
    Row(24, 5, 72, 40, True, RE, 2),
    Row(40, 5, 120, 40, True, RE, 1),
    Row(40, 5, 120, 40, True, RE, 1),
    Row(40, 3, 240, 80, False, HS, 2),
    Row(80, 3, 200, 80, False, HS, 1),
    Row(80, 3, 184, 80, False, HS, 1),
    Row(80, 3, 184, 80, False, HS, 1),
    Row(80, 3, 480, 112, True, HS, 1),
    Row(112, 3, 672, 112, True, HS, 1),
    Row(112, 5, 672, 160, True, HS, 2),
    Row(160, 5, 960, 160, True, HS, 1),
    Row(160, 5, 960, 160, True, HS, 1),
)
SMALL = (
    Row(16, 3, 16, 16, True, RE, 2),
    Row(16, 3, 72, 24, False, RE, 2),
    Row(24, 3, 88, 24, False, RE, 1),
    Row(24, 5, 96, 40, True, HS, 2),
    Row(40, 5, 240, 40, True, HS, 1),
    Row(40, 5, 240, 40, True, HS, 1),
    Row(40, 5, 120, 48, True, HS, 1),
    Row(48, 5, 144, 48, True, HS, 1),
    Row(48, 5, 288, 96, True, HS, 2),
    Row(96, 5, 576, 96, True, HS, 1),
    Row(96, 5, 576, 96, True, HS, 1),
)


class MobileNetV3(MobileNet):
    """What large and small share; their tables and last widths differ.

    Expanded channels keep the table's ratio to the block's own (scaled) input; the last pointwise convolution scales
    with the width and is the deepest map; the head behind the pooling never scales; below a width of 0.75 the stem
    keeps its 16 channels. Fields: see `MobileNet`.

    Attributes:
        minimalistic: the form without squeeze-excite, hard-swish and 5x5 kernels.
        depth_multiplier: scales the repeats of each stage, rounded up (timm's `150d`).
        squeeze_divisor: squeeze-excite's width is rounded to a multiple of this (1 in timm's `rw`).
        squeeze_activation: of its squeeze, by name; None is the block's own (in timm's `rw`).
        first_residual: the first block adds its input where it can (not in timm's `rw`).
        head_bias: bias in the head behind the pooling (none in timm's `rw`).
    """

    minimalistic: bool = False
    depth_multiplier: DepthMultiplier = 1.0
    squeeze_divisor: Count = 8
    squeeze_activation: Activation | None = 'relu'
    first_residual: bool = True
    head_bias: bool = True

    table: ClassVar[tuple[Row, ...]]
    last_features: ClassVar[int]
    head_features: ClassVar[int]

    def stem_fields(self) -> dict[str, Any]:
        """16 channels, hard-swish."""
        features = STEM if self.width_multiplier < 0.75 else make_divisible(STEM * self.width_multiplier)
        return {'features': features, 'activation': self._activation(HS)}

    def block_specs(self) -> list[BlockSpec]:
        """One inverted residual for each row, then the last pointwise convolution."""
        specs = [
            BlockSpec(InvertedResidual, row.strides if repeat == 0 else 1, self._fields(row), stage)
            for row, repeat, stage in stages(self.table, self.depth_multiplier)
        ]
        last = {
            'features': make_divisible(self.last_features * self.width_multiplier),
            'kind': 'pointwise',
            'activation': self._activation(HS),
        }
        return specs + [BlockSpec(ConvNorm, 1, last, specs[-1].stage + 1)] * math.ceil(self.depth_multiplier)

    def _fields(self, row: Row) -> dict[str, Any]:
        return {
            'features': make_divisible(row.features * self.width_multiplier),
            'expansion_ratio': row.expanded / row.channels,
            'kernel_size': 3 if self.minimalistic else row.kernel_size,
            'activation': self._activation(row.activation),
            'squeeze_excite': row.squeeze_excite and not self.minimalistic,
            'squeeze_divisor': self.squeeze_divisor,
            'squeeze_activation': self.squeeze_activation,
            'residual': self.first_residual or row is not self.table[0],
        }

    def _activation(self, name: str) -> str:
        return RE if self.minimalistic else name

    def setup_head(self) -> None:
        """A dense layer, as a pointwise convolution behind the pooling."""
        self.head_conv = Conv(
            features=self.head_features,
            kind='pointwise',
            use_bias=self.head_bias,
            kernel_init=get_convention(self.convention).head_initializer(),
            convention=self.convention,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def head(self, maps: Array, *, train: bool) -> Array:
        """Pool, then the dense layer and its activation."""
        values = self.head_conv(pool(maps)[:, None, None, :])[:, 0, 0, :]
        return ops.activation(self._activation(HS))(values)


class MobileNetV3Large(MobileNetV3):
    """MobileNetV3-Large (Table 1 of the paper). Fields: see `MobileNetV3`."""

    table = LARGE
    last_features = 960
    head_features = 1280


class MobileNetV3Small(MobileNetV3):
    """MobileNetV3-Small (Table 2 of the paper; without the SE it prints at the last convolution, which no code has)."""

    table = SMALL
    last_features = 576
    head_features = 1024
