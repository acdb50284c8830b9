"""MobileNetV5, the vision encoder of Gemma 3n, of MobileNetV4's blocks (Qin et al. 2024, 2404.10518).

It has no paper of its own: table, norms and fusion are those of timm's `mobilenetv5.py` (timm 1.0.31).
"""

from typing import Annotated, ClassVar

import flax.linen as nn
from jax import Array

from flaxmobile.layers import ConvNorm, MultiScaleFusion, make_divisible
from flaxmobile.models.mobilenetv4 import Table, at_width, attention, convnext, extra_dw, ffn, fused
from flaxmobile.models.network import MobileNet, pool
from flaxmobile.rules import Rule

STEM = 64
TABLE: Table = (
    (fused(3, 4, 128, s=2), *2 * [fused(3, 4, 128)]),
    (
        extra_dw(3, 5, 6, 256, s=2),
        *2 * [convnext(5, 4, 256), convnext(3, 4, 256)],
    ),
    (
        extra_dw(5, 5, 6, 640, s=2),
        *7 * [convnext(5, 4, 640)],
        ffn(1, 640),
        *14 * [attention(12, 64, 2), ffn(2, 640)],
    ),
    (
        extra_dw(5, 5, 6, 1280, s=2),
        *19 * [attention(16, 96), ffn(2, 1280)],
    ),
)
FUSED = 2048


class MobileNetV5(MobileNet):
    """MobileNetV5-300M: RMS norms, a stem with a bias, GELU by tanh, and a head that fuses the last two stages' maps.

    The head's 2048 channels never scale, nor does a stem below a width of 1, nor heads and channels of attention.
    Fields: see `MobileNet`.
    """

    table: ClassVar[Table] = TABLE
    norm = 'rms'

    def stem_layer(self) -> ConvNorm:
        """A 3x3 convolution of 64 channels with a bias."""
        features = make_divisible(STEM * max(1.0, self.width_multiplier))
        return ConvNorm(features, kernel_size=3, activation='gelu_tanh', use_bias=True)

    def stages(self) -> list[list[nn.Module]]:
        """The table's stages."""
        own = {'activation': 'gelu_tanh', 'layer_scale': 1e-5}
        return [[at_width(block, self.width_multiplier, **own) for block in stage] for stage in self.table]

    def head_layer(self) -> MultiScaleFusion:
        """The fusion to 16x16 pixels."""
        return MultiScaleFusion(FUSED, expansion_ratio=2, activation='gelu_tanh', size=16)

    def fused(self, images: Array, *, train: bool = False) -> Array:
        """The last maps of the last two stages as one, `[batch, 16, 16, 2048]`, whatever the size of the images."""
        last = {block.stage: block.name for block in self.plan.blocks}
        return self.head_conv(self.taps(images, tuple(last.values())[-2:], train=train), train=train)

    def embed(self, images: Array, *, train: bool = False) -> Array:
        """What the classifier is given, `[batch, 2048]`: the fused map's mean, whatever `num_classes` is."""
        return self.dropout(pool(self.fused(images, train=train)), deterministic=not train)


class MobileNetV5Encoder(MobileNetV5):
    """MobileNetV5-300M as Gemma 3n has it: the fused map itself, `[batch, 16, 16, 2048]`, and no classifier.

    Fields: see `MobileNet`; `num_classes` is 0, and `dropout_rate` has nothing to drop.
    """

    num_classes: Annotated[int, Rule(', 0: an encoder has no classifier', lambda value: value == 0)] = 0

    def embed(self, images: Array, *, train: bool = False) -> Array:
        """The fused map, `[batch, 16, 16, 2048]`."""
        return self.fused(images, train=train)
