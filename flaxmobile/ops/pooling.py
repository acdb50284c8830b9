"""Pooling by 2 in both directions, over `[batch, height, width, channels]`."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from flaxmobile.messages import unknown


def average_pool(images: Array) -> Array:
    """The mean of every 2x2 pixels, `[batch, height // 2, width // 2, channels]`; an odd last row or column is lost.

    Raises:
        ValueError: the images are less than 2 pixels high or wide.
    """
    batch, height, width, channels = images.shape
    if min(height, width) < 2:
        raise ValueError(f'average_pool: needs 2x2 pixels or more, was given {height}x{width}: use larger images')
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def blur_pool(images: Array) -> Array:
    """Every second pixel of the images blurred by (1, 2, 1) / 4 along both axes, zeros around them.

    Zhang 2019 (1904.11486). Output `[batch, ceil(height / 2), ceil(width / 2), channels]`.
    """
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    # Quartered first: a sum of float16 could be infinite.
    rows = padded[:, :-2:2] / 4 + padded[:, 1:-1:2] / 2 + padded[:, 2::2] / 4
    return rows[:, :, :-2:2] / 4 + rows[:, :, 1:-1:2] / 2 + rows[:, :, 2::2] / 4


POOLS: dict[str, Callable[[Array], Array]] = {'average': average_pool, 'blur': blur_pool}


def pool(name: str) -> Callable[[Array], Array]:
    """`average_pool` or `blur_pool`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in POOLS:
        raise ValueError(unknown('pooling', name, POOLS))
    return POOLS[name]
