"""How a weight's origin pads, normalises, initialises and dilates."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from flaxmobile.messages import unknown
from flaxmobile.ops.padding import NamedPadding
from flaxmobile.rules import Positive, Rate, check_fields

Initializer = Callable[..., Array]


@dataclasses.dataclass(frozen=True)
class Convention:
    """Padding, BatchNorm constants, initialisation and dilation of one origin of weights.

    Attributes:
        padding: 'same' (TensorFlow's SAME), 'symmetric' (`dilation * (kernel - 1) // 2` on both sides) or
            'bottom_right' (Keras's MobileNetV1: a depthwise convolution of stride 2 by one pixel below and at the
            right, whatever the size; all else by SAME): see `ops.padding_pairs`.
        epsilon: what BatchNorm adds to the variance.
        momentum: of BatchNorm's running statistics as Flax has it: `new = momentum * old + (1 - momentum) * batch`.
        initialization: 'truncated_normal' (TensorFlow slim: 0.09 everywhere), 'fan_out' (timm: normal of variance
            `2 / (k * k * features / groups)`, the classifier uniform in `+-1 / sqrt(features)`) or 'kaiming_fan_out'
            (torchvision: groups not counted, the classifier normal of 0.01). Biases start at zero in all.
        dilate_strided: where an `output_stride` takes a block's stride away, that block is dilated too (torchvision's
            rule), not only those after it (timm's rule, and DeepLab's in TensorFlow).
    """

    padding: NamedPadding = 'same'
    epsilon: Positive = 1e-3
    momentum: Rate = 0.99
    initialization: Literal['truncated_normal', 'fan_out', 'kaiming_fan_out'] = 'truncated_normal'
    dilate_strided: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    def conv_padding(self, kind: str) -> NamedPadding:
        """Padding of a convolution of that kind, 'standard', 'depthwise' or 'pointwise'."""
        return 'same' if self.padding == 'bottom_right' and kind != 'depthwise' else self.padding

    def conv_initializer(self, groups: int = 1) -> Initializer:
        """Initialiser of a kernel `[height, width, channels / groups, features]`."""
        if self.initialization == 'truncated_normal':
            return jax.nn.initializers.truncated_normal(0.09)

        def fan_out(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
            outputs = shape[0] * shape[1] * shape[3] // (groups if self.initialization == 'fan_out' else 1)
            return math.sqrt(2 / outputs) * jax.random.normal(key, shape, dtype)

        return fan_out

    def dense_initializer(self) -> Initializer:
        """Initialiser of a kernel `[channels, features]`."""
        if self.initialization == 'truncated_normal':
            return jax.nn.initializers.truncated_normal(0.09)
        if self.initialization == 'kaiming_fan_out':
            return jax.nn.initializers.normal(0.01)

        def uniform(key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> Array:
            limit = 1 / math.sqrt(shape[1])
            return jax.random.uniform(key, shape, dtype, -limit, limit)

        return uniform

    def head_initializer(self) -> Initializer:
        """Initialiser of V3's layer behind the pooling, `[1, 1, channels, features]`: a dense layer in torchvision."""
        return self.dense_initializer() if self.initialization == 'kaiming_fan_out' else self.conv_initializer()

    def attention_initializer(self) -> Initializer:
        """Initialiser of every kernel in an attention: uniform by fan in and out (Glorot) in timm."""
        return jax.nn.initializers.glorot_uniform() if self.initialization == 'fan_out' else self.conv_initializer()


TENSORFLOW = Convention()
KERAS_V1 = Convention('bottom_right')
TORCH = Convention('symmetric', 1e-5, 0.9, 'fan_out')
TORCHVISION_V3 = Convention('symmetric', 1e-3, 0.99, 'kaiming_fan_out', dilate_strided=True)

CONVENTIONS = {'tensorflow': TENSORFLOW, 'keras_v1': KERAS_V1, 'torch': TORCH, 'torchvision_v3': TORCHVISION_V3}


def get_convention(convention: Convention | str) -> Convention:
    """The convention itself, or the one of that name: 'tensorflow', 'keras_v1', 'torch' or 'torchvision_v3'.

    Raises:
        ValueError: there is none of that name.
    """
    if isinstance(convention, Convention):
        return convention
    if not isinstance(convention, str) or convention not in CONVENTIONS:
        raise ValueError(unknown('convention', str(convention), CONVENTIONS))
    return CONVENTIONS[convention]
