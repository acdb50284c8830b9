"""MobileNetV5's fusion of two maps into one."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from flaxmobile import ops
from flaxmobile.layers.basic import norm
from flaxmobile.layers.blocks import Block, make_divisible
from flaxmobile.layers.fields import Activation, Multiplier
from flaxmobile.rules import Count


class MultiScaleFusion(Block):
    """Maps of several sizes joined, mixed by a feed-forward network, brought to one size and normalised.

    The multi-scale fusion adapter of MobileNetV5 (timm's `mobilenetv5.py`; there is no paper). Maps
    `[batch, height, width, channels]`, the largest first, to `[batch, size, size, features]`: the others are enlarged
    to the first by nearest neighbour; all are joined along the channels, expanded and projected pixel by pixel, without
    a residual. The result is averaged where `size` divides height and width, and resized bilinearly where it does not.

    Attributes:
        features: output channels.
        expansion_ratio: expanded channels are `make_divisible(channels * expansion_ratio)`.
        activation: after the expansion, by name; the projection is linear.
        size: height and width of the output.
    """

    features: Count
    expansion_ratio: Multiplier = 2
    activation: Activation = 'gelu_tanh'
    size: Count = 16

    @nn.compact
    def __call__(self, maps: Sequence[Array], *, train: bool = False) -> Array:
        """Enlarge, join, expand, project, resize and normalise."""
        height, width = maps[0].shape[1:3]
        values = jnp.concatenate([ops.resize_nearest(each, height, width) for each in maps], axis=-1)
        expanded = make_divisible(values.shape[-1] * self.expansion_ratio)
        values = self.conv_norm('expand', features=expanded, kind='pointwise', activation=self.activation)(
            values, train=train
        )
        values = self.conv_norm('project', features=self.features, kind='pointwise', activation='linear')(
            values, train=train
        )
        if height % self.size or width % self.size:
            values = ops.resize_bilinear(values, self.size, self.size)
        else:
            tiles = self.size, height // self.size, self.size, width // self.size
            values = values.reshape(-1, *tiles, self.features).mean(axis=(2, 4))
        return norm(self, train=train)(values)
