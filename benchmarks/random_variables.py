"""Variables without the compile time of `init`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def random_variables(
    model: nn.Module, shape: tuple[int, ...], *, seed: int = 0, dtype: Any = np.float32, gain: float = 2.0
) -> Any:
    """Variables of `model` for images of `shape`: kernels of variance gain / fan in, all factors away from 0 and 1."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        name = path[-1].key
        if name == 'kernel':
            values = rng.normal(size=leaf.shape) * np.sqrt(gain / np.prod(leaf.shape[:-1]))
        elif name in ('scale', 'var', 'gamma'):
            values = rng.uniform(0.5, 1.5, size=leaf.shape)
        else:
            values = 0.2 * rng.normal(size=leaf.shape)
        return jnp.asarray(values, dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))
    return jax.tree.map_with_path(draw, shapes)
