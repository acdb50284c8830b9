"""Stochastic depth. (Dropout is Flax's own.)"""

import flax.linen as nn
import jax
from jax import Array


class StochasticDepth(nn.Module):
    """Zero a whole example's residual branch at `rate` and scale the others by `1 / (1 - rate)` when `train`.

    Huang et al. 2016 (1603.09382); timm calls it drop path. Draws from the 'dropout' key.

    Attributes:
        rate: share of the examples that lose their branch, from 0 to below 1.
    """

    rate: float

    @nn.compact
    def __call__(self, branch: Array, *, train: bool = False) -> Array:
        """`[batch, ...]` of the same shape, or unchanged when not `train`."""
        if not train or self.rate == 0:
            return branch
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        kept = jax.random.bernoulli(self.make_rng('dropout'), 1 - self.rate, shape)
        return branch * kept.astype(branch.dtype) / (1 - self.rate)
