"""The sum of a residual block and the product of a gate: modules, so that what looks for them finds them by name."""

import flax.linen as nn
from jax import Array


class Residual(nn.Module):
    """The sum of a block's input and its branch; the blocks name it `residual`."""

    def __call__(self, images: Array, branch: Array) -> Array:
        """`[batch, height, width, channels]` both, of the same shape."""
        return images + branch


class Gate(nn.Module):
    """A map scaled by its gates; squeeze-excite names it `gate`."""

    def __call__(self, images: Array, gates: Array) -> Array:
        """`[batch, height, width, channels]` by `[batch, 1, 1, channels]`, of the shape of the first."""
        return images * gates
