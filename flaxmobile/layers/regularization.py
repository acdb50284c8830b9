"""Stochastic depth and layer scale. (Dropout is Flax's own.)"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array

from flaxmobile.layers.fields import CheckedModule, FloatType
from flaxmobile.rules import NotNegative, Rate


class StochasticDepth(CheckedModule):
    """Zero a whole example's residual branch at `rate` and scale the others by `1 / (1 - rate)` when `train`.

    Huang et al. 2016 (1603.09382); timm calls it drop path. Draws from the 'dropout' key.

    Attributes:
        rate: share of the examples that lose their branch, from 0 to below 1.
    """

    rate: Rate

    @nn.compact
    def __call__(self, branch: Array, *, train: bool = False) -> Array:
        """`[batch, ...]` of the same shape, or unchanged when not `train`."""
        if not train or self.rate == 0:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng('dropout'), 1 - self.rate, shape)
        return branch * kept.astype(branch.dtype) / (1 - self.rate)


class LayerScale(CheckedModule):
    """A learnt factor, `gamma`, for each channel of a residual branch (Touvron et al. 2021, 2103.17239).

    Attributes:
        initial: value of every factor at the start.
        dtype: of the computation; None follows input and parameters.
        param_dtype: of the parameters.
    """

    initial: NotNegative = 1e-5
    dtype: FloatType | None = None
    param_dtype: FloatType = jnp.float32

    @nn.compact
    def __call__(self, branch: Array) -> Array:
        """`[..., channels]`, of the same shape."""
        gamma = self.param('gamma', nn.initializers.constant(self.initial), branch.shape[-1:], self.param_dtype)
        branch, gamma = promote_dtype(branch, gamma, dtype=self.dtype)
        return branch * gamma
