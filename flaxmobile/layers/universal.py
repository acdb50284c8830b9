"""MobileNetV4's bottlenecks (2404.10518, Figure 3): the universal one and the fused one."""

from typing import Annotated

import flax.linen as nn
from jax import Array

from flaxmobile.layers.blocks import Block, Expansion, make_divisible
from flaxmobile.layers.fields import Activation, AntiAliasing, KernelSize, Multiplier, OptionalKernelSize
from flaxmobile.layers.regularization import LayerScale, StochasticDepth
from flaxmobile.layers.residual import Residual
from flaxmobile.rules import Count, NotNegative, Rate, at_least


class UniversalInvertedBottleneck(Block):
    """Two optional depthwise convolutions around the expansion, the linear projection, and the residual.

    `start_kernel_size` and `kernel_size` make the four shapes: the second alone an inverted bottleneck, the first alone
    ConvNeXt's block, both "extra depthwise", neither a feed-forward network. `[batch, height, width, channels]` to
    `[batch, height', width', features]`; the input is added when `strides` is 1 and the channels match.

    Attributes:
        features: output channels.
        expansion_ratio: expanded channels are `make_divisible(channels * expansion_ratio)`.
        start_kernel_size: of the depthwise convolution before the expansion, without activation; 0 for none.
        kernel_size: of the depthwise convolution between expansion and projection; 0 for none.
        strides: of the last depthwise convolution.
        dilation: of both depthwise convolutions.
        activation: after expansion and second depthwise convolution, by name; the projection is linear.
        anti_aliasing: see `ConvNorm`.
        layer_scale: initial factor of each channel of the branch; None for no factors.
        stochastic_depth_rate: share of examples whose residual branch is dropped in training.

    Raises:
        ValueError: strides without a depthwise convolution that could take them.
    """

    features: Count
    expansion_ratio: Multiplier = 4
    start_kernel_size: OptionalKernelSize = 0
    kernel_size: OptionalKernelSize = 3
    strides: Count = 1
    dilation: Count = 1
    activation: Activation = 'relu'
    anti_aliasing: AntiAliasing | None = None
    layer_scale: NotNegative | None = None
    stochastic_depth_rate: Rate = 0.0

    def expansion(self, channels: int) -> Expansion:
        """What `expand` returns for an input of that many channels: at its stride, or after the first depthwise one."""
        strides = 1 if self.kernel_size else self.strides
        return Expansion(make_divisible(channels * self.expansion_ratio), strides)

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Filter, expand, filter, project, scale and add."""
        if self.strides != 1 and not (self.start_kernel_size or self.kernel_size):
            raise ValueError(f'{type(self).__name__}: strides={self.strides} take a depthwise convolution, it has none')
        channels, values = images.shape[-1], images
        if self.start_kernel_size:
            strides = 1 if self.kernel_size else self.strides
            values = self._depthwise('depthwise_start', self.start_kernel_size, strides, 'linear', values, train)
        expanded = make_divisible(channels * self.expansion_ratio)
        values = self.conv_norm('expand', features=expanded, kind='pointwise', activation=self.activation)(
            values, train=train
        )
        if self.kernel_size:
            values = self._depthwise('depthwise', self.kernel_size, self.strides, self.activation, values, train)
        values = self.conv_norm('project', features=self.features, kind='pointwise', activation='linear')(
            values, train=train
        )
        if self.layer_scale is not None:
            values = LayerScale(self.layer_scale, self.dtype, self.param_dtype, name='layer_scale')(values)
        if self.strides != 1 or channels != self.features:
            return values
        values = StochasticDepth(self.stochastic_depth_rate, name='stochastic_depth')(values, train=train)
        return Residual(name='residual')(images, values)

    def _depthwise(
        self, name: str, kernel_size: int, strides: int, activation: str, values: Array, train: bool
    ) -> Array:
        return self.conv_norm(
            name,
            kernel_size=kernel_size,
            strides=strides,
            dilation=self.dilation,
            kind='depthwise',
            activation=activation,
            anti_aliasing=self.anti_aliasing,
        )(values, train=train)


class FusedInvertedBottleneck(Block):
    """Expansion by an ordinary convolution, the linear projection, and the residual.

    MobileNet-EdgeTPU and EfficientNet-EdgeTPU, where it is FusedMBConv (2003.02838); `[batch, height, width, channels]`
    to `[batch, height', width', features]`; the input is added when `strides` is 1 and the channels match.

    Attributes:
        features: output channels.
        expansion_ratio: expanded channels are `make_divisible(channels * expansion_ratio)`.
        kernel_size: of the expansion.
        strides: of the expansion.
        dilation: of the expansion.
        group_size: expanded channels in a group of the expansion; 0 for one group of all.
        activation: after the expansion, by name; the projection is linear.
        anti_aliasing: see `ConvNorm`.
        stochastic_depth_rate: share of examples whose residual branch is dropped in training.

    Raises:
        ValueError: the expanded channels are no multiple of `group_size`.
    """

    features: Count
    expansion_ratio: Multiplier = 4
    kernel_size: KernelSize = 3
    strides: Count = 1
    dilation: Count = 1
    group_size: Annotated[int, at_least(0)] = 0
    activation: Activation = 'relu'
    anti_aliasing: AntiAliasing | None = None
    stochastic_depth_rate: Rate = 0.0

    def expansion(self, channels: int) -> Expansion:
        """What `expand` returns for an input of that many channels; it has the block's stride."""
        return Expansion(make_divisible(channels * self.expansion_ratio), self.strides)

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Expand, project and add."""
        channels = images.shape[-1]
        expanded = make_divisible(channels * self.expansion_ratio)
        if self.group_size and expanded % self.group_size:
            raise ValueError(
                f'{type(self).__name__}: {expanded} channels are no multiple of group_size={self.group_size}'
            )
        values = self.conv_norm(
            'expand',
            features=expanded,
            kernel_size=self.kernel_size,
            strides=self.strides,
            dilation=self.dilation,
            groups=expanded // (self.group_size or expanded),
            activation=self.activation,
            anti_aliasing=self.anti_aliasing,
        )(images, train=train)
        values = self.conv_norm('project', features=self.features, kind='pointwise', activation='linear')(
            values, train=train
        )
        if self.strides != 1 or channels != self.features:
            return values
        values = StochasticDepth(self.stochastic_depth_rate, name='stochastic_depth')(values, train=train)
        return Residual(name='residual')(images, values)
