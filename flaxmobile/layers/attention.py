"""MobileNetV4's multi-query attention (2404.10518, section 4)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from flaxmobile.layers.basic import Conv, common_fields, norm
from flaxmobile.layers.blocks import Block
from flaxmobile.layers.convention import get_convention
from flaxmobile.layers.regularization import LayerScale, StochasticDepth
from flaxmobile.layers.residual import Residual
from flaxmobile.rules import Count, NotNegative, Rate


class Projection(Block):
    """A pointwise convolution, after a strided 3x3 depthwise one with a norm where `strides` is above 1.

    Attributes:
        features: output channels.
        strides: of the depthwise convolution.
        dilation: of the depthwise convolution.
    """

    features: Count
    strides: Count = 1
    dilation: Count = 1

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """`[batch, height, width, channels]` to `[batch, height', width', features]`."""
        initializer = get_convention(self.convention).attention_initializer()
        if self.strides > 1:
            images = self.conv_norm(
                'depthwise',
                kernel_size=3,
                strides=self.strides,
                dilation=self.dilation,
                kind='depthwise',
                kernel_init=initializer,
                activation='linear',
            )(images, train=train)
        return Conv(
            features=self.features,
            kind='pointwise',
            kernel_init=initializer,
            convention=self.convention,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name='project',
        )(images)


class Attention(Block):
    """Every pixel asks every pixel: `softmax(query key^T / sqrt(d)) value`, keys and values the same for all heads.

    Shazeer 2019 (1911.02150). Attributes: see `MultiQueryAttention`.
    """

    heads: Count
    key_features: Count
    key_strides: Count = 1
    dilation: Count = 1

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """`[batch, height, width, channels]`, of the same shape."""
        batch, height, width, channels = images.shape
        query = self._projection('query', self.heads * self.key_features)(images)
        key, value = (
            self._projection(name, self.key_features, strides=self.key_strides, dilation=self.dilation)(
                images, train=train
            ).reshape(batch, -1, self.key_features)
            for name in ('key', 'value')
        )
        query = query.reshape(batch, height * width, self.heads, self.key_features)
        wide = jnp.promote_types(query.dtype, jnp.float32)
        scores = jnp.einsum('bqhd,bkd->bqhk', query, key, preferred_element_type=wide)
        shares = jax.nn.softmax(scores / math.sqrt(self.key_features)).astype(value.dtype)
        mixed = jnp.einsum('bqhk,bkd->bqhd', shares, value).reshape(batch, height, width, -1)
        return self._projection('output', channels)(mixed)

    def _projection(self, name: str, features: int, **fields: Any) -> Projection:
        return Projection(features=features, **common_fields(self), name=name, **fields)


class MultiQueryAttention(Block):
    """Norm, attention, layer scale and the residual; `[batch, height, width, channels]`, of the same shape.

    Attributes:
        heads: sets of queries.
        key_features: channels of a query, a key and a value.
        key_strides: of the depthwise convolution before keys and values; 1 for none.
        dilation: of that convolution.
        layer_scale: initial factor of each channel of the branch; None for no factors.
        stochastic_depth_rate: share of examples whose residual branch is dropped in training.
    """

    heads: Count
    key_features: Count
    key_strides: Count = 1
    dilation: Count = 1
    layer_scale: NotNegative | None = 1e-5
    stochastic_depth_rate: Rate = 0.0

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Normalise, attend, scale and add."""
        values = Attention(
            heads=self.heads,
            key_features=self.key_features,
            key_strides=self.key_strides,
            dilation=self.dilation,
            **common_fields(self),
            name='attention',
        )(norm(self, train=train)(images), train=train)
        if self.layer_scale is not None:
            values = LayerScale(self.layer_scale, self.dtype, self.param_dtype, name='layer_scale')(values)
        values = StochasticDepth(self.stochastic_depth_rate, name='stochastic_depth')(values, train=train)
        return Residual(name='residual')(images, values)
