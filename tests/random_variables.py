"""Variables without the compile time of `init`."""

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(model, shape, *, seed=0, dtype=np.float32):
    """Variables of `model` for images of `shape`: kernels of variance 2 / fan in, all factors away from 0 and 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == 'kernel':
            values = rng.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif name in ('scale', 'var', 'gamma'):
            values = rng.uniform(0.5, 1.5, size=leaf.shape)
        else:
            values = 0.2 * rng.normal(size=leaf.shape)
        return jnp.asarray(values, dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))
    return jax.tree.map_with_path(draw, shapes)
