"""The networks as a straightforward Flax user writes them: `nn.Conv` and `nn.BatchNorm`, with our variables."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from flaxmobile.layers import (
    Convention,
    ConvNorm,
    DepthwiseSeparable,
    FusedInvertedBottleneck,
    get_convention,
    make_divisible,
)
from flaxmobile.models.mobilenetv1 import MobileNetV1
from flaxmobile.models.mobilenetv2 import MobileNetV2
from flaxmobile.models.mobilenetv3 import MobileNetV3
from flaxmobile.models.network import MobileNet

ACTIVATIONS = {
    'linear': lambda values: values,
    'relu': nn.relu,
    'relu6': nn.relu6,
    'hard_swish': nn.hard_swish,
}


class PlainConvNorm(nn.Module):
    """`nn.Conv`, `nn.BatchNorm`, activation."""

    convention: Convention
    features: int
    kernel_size: int = 1
    strides: int = 1
    depthwise: bool = False
    activation: str = 'linear'
    dtype: Any = None

    @nn.compact
    def __call__(self, values: Array, train: bool) -> Array:
        """Convolve, normalise, activate."""
        margin = (self.kernel_size - 1) // 2
        paddings: dict[str, Any] = {'same': 'SAME', 'symmetric': ((margin, margin), (margin, margin))}
        values = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            self.strides,
            padding=paddings[self.convention.padding],
            feature_group_count=self.features if self.depthwise else 1,
            use_bias=False,
            dtype=self.dtype,
            name='conv',
        )(values)
        constants: dict[str, Any] = {'momentum': self.convention.momentum, 'epsilon': self.convention.epsilon}
        norm = nn.BatchNorm(not train, **constants, dtype=self.dtype, name='norm')
        return ACTIVATIONS[self.activation](norm(values))


class PlainSqueezeExcite(nn.Module):
    """Two 1x1 convolutions on the means, and the gate."""

    squeezed: int
    dtype: Any = None

    @nn.compact
    def __call__(self, values: Array) -> Array:
        """Scale each channel by its gate."""
        gates = jnp.mean(values, axis=(1, 2), keepdims=True)
        gates = nn.relu(nn.Conv(self.squeezed, (1, 1), dtype=self.dtype, name='reduce')(gates))
        return values * nn.hard_sigmoid(nn.Conv(values.shape[-1], (1, 1), dtype=self.dtype, name='expand')(gates))


class PlainSeparable(nn.Module):
    """V1's block."""

    convention: Convention
    strides: int
    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, values: Array, train: bool) -> Array:
        """Depthwise, then pointwise."""
        layer = partial(PlainConvNorm, self.convention, activation='relu6', dtype=self.dtype)
        values = layer(values.shape[-1], 3, self.strides, True, name='depthwise')(values, train)
        return layer(self.features, name='pointwise')(values, train)


class PlainBottleneck(nn.Module):
    """The bottlenecks of V2, V3 and V4: what `block` asks for, and the residual where the shapes allow."""

    convention: Convention
    block: Any
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        """Filter where there is a first depthwise convolution, expand, filter, gate, project, add."""
        block = self.block
        activation, size, strides = block.activation, block.kernel_size, block.strides
        start, fused = getattr(block, 'start_kernel_size', 0), isinstance(block, FusedInvertedBottleneck)
        expanded = make_divisible(inputs.shape[-1] * block.expansion_ratio)

        def layer(name: str, values: Array, features: int, activation: str, *shape: Any) -> Array:
            kernel_size, strides, depthwise = shape or (1, 1, False)
            fields = (features, kernel_size, strides, depthwise, activation, self.dtype)
            return PlainConvNorm(self.convention, *fields, name=name)(values, train)

        values = inputs
        if fused:
            values = layer('expand', values, expanded, activation, size, strides, False)
        if start:
            last = 1 if size else strides
            values = layer('depthwise_start', values, inputs.shape[-1], 'linear', start, last, True)
        if block.expansion_ratio != 1 and not fused:
            values = layer('expand', values, expanded, activation)
        if size and not fused:
            values = layer('depthwise', values, expanded, activation, size, strides, True)
        if getattr(block, 'squeeze_excite', False):
            values = PlainSqueezeExcite(make_divisible(expanded / 4), self.dtype, name='squeeze_excite')(values)
        values = layer('project', values, block.features, 'linear')
        return inputs + values if strides == 1 and inputs.shape == values.shape else values


class PlainNetwork(nn.Module):
    """The plain twin of `network`, without dropout: the same variables, the same logits `[batch, classes]`.

    For the networks that are benchmarked: V1 to V4 without attention, dilation and anti-aliasing.
    """

    network: MobileNet
    dtype: Any = None

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Stem, blocks, head, classifier."""
        convention = get_convention(self.network.convention)
        plan = self.network.plan
        values = self._convolution(plan.stem, convention, 'stem')(images, train)
        for block in plan.blocks:
            values = self._block(block.module, convention, block.name)(values, train)
        values = self._head(values, convention, train)
        return nn.Dense(self.network.num_classes, dtype=self.dtype, name='classifier')(values[:, 0, 0, :])

    def _block(self, block: Any, convention: Convention, name: str) -> nn.Module:
        if isinstance(block, DepthwiseSeparable):
            return PlainSeparable(convention, block.strides, block.features, self.dtype, name=name)
        if isinstance(block, ConvNorm):
            return self._convolution(block, convention, name)
        return PlainBottleneck(convention, block, self.dtype, name=name)

    def _convolution(self, layer: Any, convention: Convention, name: str) -> PlainConvNorm:
        fields = (layer.features, layer.kernel_size, layer.strides, False, layer.activation, self.dtype)
        return PlainConvNorm(convention, *fields, name=name)

    def _head(self, values: Array, convention: Convention, train: bool) -> Array:
        network = self.network
        if isinstance(network, MobileNetV2):
            head = self._convolution(network.plan.head, convention, 'head_conv')
            return jnp.mean(head(values, train), axis=(1, 2), keepdims=True)
        values = jnp.mean(values, axis=(1, 2), keepdims=True)
        if isinstance(network, MobileNetV1):
            return values
        if isinstance(network, MobileNetV3):
            return nn.hard_swish(nn.Conv(network.head_features, (1, 1), dtype=self.dtype, name='head_conv')(values))
        return PlainConvNorm(convention, 1280, activation='relu', dtype=self.dtype, name='head_conv')(values, train)
