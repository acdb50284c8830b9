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
from flaxmobile.models.network import BlockSpec, MobileNet

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
    """The bottlenecks of V2, V3 and V4: what `spec` asks for, and the residual where the shapes allow."""

    convention: Convention
    spec: BlockSpec
    dtype: Any = None

    @nn.compact
    def __call__(self, inputs: Array, train: bool) -> Array:
        """Filter where there is a first depthwise convolution, expand, filter, gate, project, add."""
        fields, strides = self.spec.fields, self.spec.strides
        activation, size = fields.get('activation', 'relu6'), fields.get('kernel_size', 3)
        start, fused = fields.get('start_kernel_size', 0), self.spec.module is FusedInvertedBottleneck
        expanded = make_divisible(inputs.shape[-1] * fields['expansion_ratio'])

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
        if fields['expansion_ratio'] != 1 and not fused:
            values = layer('expand', values, expanded, activation)
        if size and not fused:
            values = layer('depthwise', values, expanded, activation, size, strides, True)
        if fields.get('squeeze_excite'):
            values = PlainSqueezeExcite(make_divisible(expanded / 4), self.dtype, name='squeeze_excite')(values)
        values = layer('project', values, fields['features'], 'linear')
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
        stem = {'kernel_size': 3, 'strides': self.network.stem_stride, **self.network.stem_fields()}
        values = PlainConvNorm(convention, **stem, dtype=self.dtype, name='stem')(images, train)
        for index, spec in enumerate(self.network.block_specs()):
            values = self._block(spec, convention, f'block_{index:02d}')(values, train)
        values = self._head(values, convention, train)
        return nn.Dense(self.network.num_classes, dtype=self.dtype, name='classifier')(values[:, 0, 0, :])

    def _block(self, spec: BlockSpec, convention: Convention, name: str) -> nn.Module:
        if spec.module is DepthwiseSeparable:
            return PlainSeparable(convention, spec.strides, spec.fields['features'], self.dtype, name=name)
        if spec.module is ConvNorm:
            size, activation = spec.fields.get('kernel_size', 1), spec.fields['activation']
            fields = (spec.fields['features'], size, spec.strides, False, activation, self.dtype)
            return PlainConvNorm(convention, *fields, name=name)
        return PlainBottleneck(convention, spec, self.dtype, name=name)

    def _head(self, values: Array, convention: Convention, train: bool) -> Array:
        network = self.network
        if isinstance(network, MobileNetV2):
            head = PlainConvNorm(convention, **network.head_fields(), dtype=self.dtype, name='head_conv')
            return jnp.mean(head(values, train), axis=(1, 2), keepdims=True)
        values = jnp.mean(values, axis=(1, 2), keepdims=True)
        if isinstance(network, MobileNetV1):
            return values
        if isinstance(network, MobileNetV3):
            return nn.hard_swish(nn.Conv(network.head_features, (1, 1), dtype=self.dtype, name='head_conv')(values))
        return PlainConvNorm(convention, 1280, activation='relu', dtype=self.dtype, name='head_conv')(values, train)
