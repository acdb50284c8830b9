"""The family's blocks, each usable alone: `InvertedResidual(features=16, expansion_ratio=4)`."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from flaxmobile import ops
from flaxmobile.layers.basic import Conv, ConvNorm, common_fields
from flaxmobile.layers.convention import TENSORFLOW
from flaxmobile.layers.fields import (
    Activation,
    CheckedModule,
    ConventionOrName,
    FloatType,
    KernelSize,
    Multiplier,
    Norm,
)
from flaxmobile.layers.regularization import StochasticDepth
from flaxmobile.layers.residual import Gate, Residual
from flaxmobile.rules import Count, Rate


def make_divisible(value: float, divisor: int = 8) -> int:
    """The multiple of `divisor` nearest to `value`, at least `divisor`, and never below 0.9 of `value`.

    The rule of the MobileNet code (TensorFlow slim, torchvision, Keras and timm agree on it).
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


class Expansion(NamedTuple):
    """What a block's `expand` returns: channels, and pixels of the block's input to one of it."""

    channels: int
    strides: int = 1


class Block(CheckedModule, kw_only=True):
    """What the blocks share.

    Attributes:
        norm: after each convolution: 'batch', 'rms' or None, see `ConvNorm`.
        convention: padding, BatchNorm and initialisation, an object or a name.
        dtype: of the computation; None follows input and parameters.
        param_dtype: of the parameters.
        batch_norm_axis_name: mapped axis over which BatchNorm's statistics are shared.
    """

    norm: Norm | None = 'batch'
    convention: ConventionOrName = TENSORFLOW
    dtype: FloatType | None = None
    param_dtype: FloatType = jnp.float32
    batch_norm_axis_name: str | None = None

    def conv_norm(self, name: str, **fields: Any) -> ConvNorm:
        """A `ConvNorm` of that name with the block's own convention and types."""
        return ConvNorm(**common_fields(self), name=name, **fields)

    def expansion(self, channels: int) -> Expansion | None:
        """What `expand` returns for an input of that many channels; None for a block without."""
        return None


class SqueezeExcite(CheckedModule):
    """Squeeze-and-excitation: each channel scaled by a gate made of all channels' means.

    Hu et al. 2018 (1709.01507), Figure 2; with the hard-sigmoid gate of MobileNetV3 (1905.02244, section 5.3).

    Attributes:
        reduction_ratio: channels of the input to channels of the squeeze.
        squeeze_features: channels of the squeeze; None is `make_divisible(channels / reduction_ratio)`.
        activation: of the squeeze, by name.
        gate: activation of the gate, 'hard_sigmoid' or 'sigmoid'.
        convention: initialisation, an object or a name.
        dtype: of the computation; None follows input and parameters.
        param_dtype: of the parameters.
    """

    reduction_ratio: Multiplier = 4
    squeeze_features: Count | None = None
    activation: Activation = 'relu'
    gate: Activation = 'hard_sigmoid'
    convention: ConventionOrName = TENSORFLOW
    dtype: FloatType | None = None
    param_dtype: FloatType = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """`[batch, height, width, channels]`, of the same shape."""
        channels = images.shape[-1]
        squeezed = self.squeeze_features or make_divisible(channels / self.reduction_ratio)
        gates = jnp.mean(images, axis=(1, 2), keepdims=True)
        for name, features, activation in (('reduce', squeezed, self.activation), ('expand', channels, self.gate)):
            gates = Conv(
                features=features,
                kind='pointwise',
                use_bias=True,
                activation=activation,
                convention=self.convention,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )(gates)
        return Gate(name='gate')(images, gates)


class DepthwiseSeparable(Block):
    """Depthwise convolution, then pointwise convolution (MobileNetV1, 1704.04861, Figure 3).

    `[batch, height, width, channels]` to `[batch, height', width', features]`.

    Attributes:
        features: output channels.
        kernel_size: of the depthwise convolution.
        strides: of the depthwise convolution.
        dilation: of the depthwise convolution.
        depth_multiplier: depthwise features per channel.
        activation: after both convolutions, by name.
    """

    features: Count
    kernel_size: KernelSize = 3
    strides: Count = 1
    dilation: Count = 1
    depth_multiplier: Count = 1
    activation: Activation = 'relu6'

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Filter each channel, then combine them."""
        values = self.conv_norm(
            'depthwise',
            features=images.shape[-1] * self.depth_multiplier,
            kernel_size=self.kernel_size,
            strides=self.strides,
            dilation=self.dilation,
            kind='depthwise',
            activation=self.activation,
        )(images, train=train)
        return self.conv_norm('pointwise', features=self.features, kind='pointwise', activation=self.activation)(
            values, train=train
        )


class InvertedResidual(Block):
    """Expansion, depthwise convolution, squeeze-excite where asked, linear projection, and the residual.

    MobileNetV2 (1801.04381, Figure 3 and Table 1) and, with squeeze-excite, MobileNetV3 (1905.02244, Figure 4).
    `[batch, height, width, channels]` to `[batch, height', width', features]`; the input is added when `strides` is 1
    and the channels match. With an expansion ratio of 1 there is no expansion convolution.

    Attributes:
        features: output channels.
        expansion_ratio: expanded channels are `make_divisible(channels * expansion_ratio)`.
        kernel_size: of the depthwise convolution.
        strides: of the depthwise convolution.
        dilation: of the depthwise convolution.
        activation: after expansion and depthwise convolution, by name; the projection is linear.
        squeeze_excite: put squeeze-excite after the depthwise activation.
        squeeze_reduction: expanded channels to squeeze-excite's own.
        squeeze_divisor: squeeze-excite's width is rounded to a multiple of this.
        squeeze_activation: of its squeeze, by name; None is the block's own (timm's `rw`).
        squeeze_gate: 'hard_sigmoid' or 'sigmoid'.
        residual: add the input where stride and channels allow.
        stochastic_depth_rate: share of examples whose residual branch is dropped in training.
    """

    features: Count
    expansion_ratio: Multiplier = 6
    kernel_size: KernelSize = 3
    strides: Count = 1
    dilation: Count = 1
    activation: Activation = 'relu6'
    squeeze_excite: bool = False
    squeeze_reduction: Multiplier = 4
    squeeze_divisor: Count = 8
    squeeze_activation: Activation | None = 'relu'
    squeeze_gate: Activation = 'hard_sigmoid'
    residual: bool = True
    stochastic_depth_rate: Rate = 0.0

    def expansion(self, channels: int) -> Expansion | None:
        """What `expand` returns for an input of that many channels; None with an expansion ratio of 1."""
        return None if self.expansion_ratio == 1 else Expansion(make_divisible(channels * self.expansion_ratio))

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Expand, filter, project and add."""
        channels = images.shape[-1]
        expanded = make_divisible(channels * self.expansion_ratio)
        values = images
        if self.expansion_ratio != 1:
            values = self.conv_norm('expand', features=expanded, kind='pointwise', activation=self.activation)(
                values, train=train
            )
        values = self.conv_norm(
            'depthwise',
            kernel_size=self.kernel_size,
            strides=self.strides,
            dilation=self.dilation,
            kind='depthwise',
            activation=self.activation,
        )(values, train=train)
        if self.squeeze_excite:
            values = SqueezeExcite(
                squeeze_features=make_divisible(values.shape[-1] / self.squeeze_reduction, self.squeeze_divisor),
                activation=self.squeeze_activation or self.activation,
                gate=self.squeeze_gate,
                convention=self.convention,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name='squeeze_excite',
            )(values)
        values = self.conv_norm('project', features=self.features, kind='pointwise', activation='linear')(
            values, train=train
        )
        if not self.residual or self.strides != 1 or channels != self.features:
            return values
        values = StochasticDepth(self.stochastic_depth_rate, name='stochastic_depth')(values, train=train)
        return Residual(name='residual')(images, values)


class ResidualBlock(Block):
    """An ordinary residual block of two 3x3 convolutions, with squeeze-excite before the sum where asked.

    He et al. 2016 (1512.03385, Figure 2) and SE-ResNet (1709.01507, Figure 3): ReLU, a sigmoid gate, squeeze of a
    sixteenth, and a 1x1 convolution on the shortcut where stride or channels change.
    `[batch, height, width, channels]` to `[batch, height', width', features]`.

    Attributes:
        features: output channels.
        strides: of the first convolution.
        squeeze_excite: put squeeze-excite after the second BatchNorm.
    """

    features: Count
    strides: Count = 1
    squeeze_excite: bool = True

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Two convolutions, the gate, the sum, ReLU."""
        values = self.conv_norm(
            'conv_1', features=self.features, kernel_size=3, strides=self.strides, activation='relu'
        )(images, train=train)
        values = self.conv_norm('conv_2', features=self.features, kernel_size=3, activation='linear')(
            values, train=train
        )
        if self.squeeze_excite:
            values = SqueezeExcite(
                squeeze_features=max(1, self.features // 16),
                gate='sigmoid',
                convention=self.convention,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name='squeeze_excite',
            )(values)
        if self.strides != 1 or images.shape[-1] != self.features:
            images = self.conv_norm(
                'shortcut', features=self.features, strides=self.strides, kind='pointwise', activation='linear'
            )(images, train=train)
        return ops.relu(Residual(name='residual')(images, values))
