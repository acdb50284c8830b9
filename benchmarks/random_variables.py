"""Variables without the compile time of `init`, and the statistics that go with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxmobile.layers import get_convention


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


def calibrated(model: nn.Module, params: Any, images: jax.Array, *, method: str = '__call__') -> tuple[jax.Array, Any]:
    """What a network answers a batch in training, and its variables with that batch's mean and variance in each norm.

    Args:
        model: a network of this library.
        params: its parameters.
        images: normalised, `[batch, height, width, channels]`.
        method: of the network, as `apply` takes it.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0), images[:1])
    nothing = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.get('batch_stats', {}))
    quiet = model.clone(dropout_rate=0.0)

    @jax.jit
    def answer(params: Any, images: jax.Array) -> Any:
        return quiet.apply(
            {'params': params, 'batch_stats': nothing}, images, train=True, method=method, mutable=['batch_stats']
        )

    answers, updates = answer(params, images)
    share = 1 - get_convention(model.convention).momentum
    return answers, {'params': params, **jax.tree.map(lambda leaf: leaf / share, dict(updates))}
