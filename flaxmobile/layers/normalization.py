"""Batch and root-mean-square normalisation."""

import warnings
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, jit, lax

from flaxmobile.layers.fields import CheckedModule, FloatType
from flaxmobile.rules import Positive, Rate


@partial(jit, inline=True)  # Outside of a program, as in `init`, one thing to compile instead of seven.
def _normalize(values: Array, mean: Array, variance: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    factor = scale * lax.rsqrt(variance + epsilon)
    return values * factor + (bias - mean * factor)


class SingleValues(UserWarning):
    """A BatchNorm in training sees one value per channel; `layer` is its path."""

    def __init__(self, layer: str):
        self.layer = layer
        super().__init__(
            f'{layer}: BatchNorm in training sees one value per channel (batch, height and width are 1), so that its '
            'output is its bias whatever the image, and nothing before it learns: take more images or larger ones'
        )


class BatchNorm(CheckedModule):
    """Batch normalisation over all axes but the channels (Ioffe and Szegedy 2015, 1502.03167, Algorithm 1).

    `[..., channels]`, of the same shape and type. As one multiplication and one addition of each value: its derivative
    is then two sums by channel and one pass over the values, where `(x - mean) * factor` costs a third sum. Statistics
    and arithmetic are in float32 or wider. Variables and running variance are those of Flax's `BatchNorm`. Where
    training gives it one value per channel it warns (`SingleValues`); torch raises.

    Attributes:
        use_running_average: normalise by the running statistics, and leave them alone.
        momentum: of the running statistics: `new = momentum * old + (1 - momentum) * batch`.
        epsilon: added to the variance.
        param_dtype: of scale and bias.
        axis_name: mapped axis that the statistics are shared over (`pmap`, `shard_map`, `vmap`).
    """

    use_running_average: bool
    momentum: Rate = 0.99
    epsilon: Positive = 1e-3
    param_dtype: FloatType = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Normalise, scale and shift."""
        shape, wide = images.shape[-1:], jnp.promote_types(images.dtype, jnp.float32)
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, shape, jnp.float32)
        running_variance = self.variable('batch_stats', 'var', jnp.ones, shape, jnp.float32)
        scale: Any = self.param('scale', nn.initializers.ones, shape, self.param_dtype)
        bias: Any = self.param('bias', nn.initializers.zeros, shape, self.param_dtype)
        values = images.astype(wide)
        if self.use_running_average:
            mean, variance = running_mean.value, running_variance.value
        else:
            mean, variance = self._moments(values)
            if not self.is_initializing():
                for running, batch in ((running_mean, mean), (running_variance, variance)):
                    running.value = self.momentum * running.value + (1 - self.momentum) * batch
        return _normalize(values, mean, variance, scale, bias, self.epsilon).astype(images.dtype)

    def _moments(self, values: Array) -> tuple[Array, Array]:
        axes = tuple(range(values.ndim - 1))
        self._warn_of_single_values(values)
        moments = jnp.stack([jnp.mean(values, axes), jnp.mean(jnp.square(values), axes)])
        if self.axis_name is not None and not self.is_initializing():
            moments = lax.pmean(moments, self.axis_name)
        mean, square = moments
        return mean, jnp.maximum(square - jnp.square(mean), 0)

    def _warn_of_single_values(self, values: Array) -> None:
        several = any(not isinstance(side, int) or side != 1 for side in values.shape[:-1])  # A side may be a symbol.
        if self.is_initializing() or several:
            return
        if self.axis_name is None or lax.axis_size(self.axis_name) == 1:
            warnings.warn(SingleValues('/'.join(self.path) or type(self).__name__), stacklevel=2)


class RMSNorm(CheckedModule):
    """Root-mean-square normalisation over the channels of each pixel (Zhang and Sennrich 2019, 1910.07467, section 4).

    `[..., channels]`, of the same shape and type: `x / sqrt(mean(x ** 2) + epsilon) * scale`, in float32 or wider.
    No bias, no statistics, the same in training and evaluation; timm's `RmsNorm2d`.

    Attributes:
        epsilon: added to the mean of the squares.
        param_dtype: of the scale.
    """

    epsilon: Positive = 1e-6
    param_dtype: FloatType = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Divide by the root of the mean square, and scale."""
        scale: Any = self.param('scale', nn.initializers.ones, images.shape[-1:], self.param_dtype)
        values = images.astype(jnp.promote_types(images.dtype, jnp.float32))
        square = jnp.mean(jnp.square(values), axis=-1, keepdims=True)
        return (values * lax.rsqrt(square + self.epsilon) * scale).astype(images.dtype)
