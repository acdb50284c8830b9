"""Resizing of `[batch, height, width, channels]`, as torch's `interpolate` does it."""

import jax.numpy as jnp
import numpy as np
from jax import Array


def resize_nearest(images: Array, height: int, width: int) -> Array:
    """The pixel whose number is `floor(number * old / new)`, `[batch, height, width, channels]` (torch's 'nearest')."""
    for axis, size in ((1, height), (2, width)):
        if (old := images.shape[axis]) != size:
            images = jnp.take(images, np.arange(size) * old // size, axis=axis)
    return images


def resize_bilinear(images: Array, height: int, width: int) -> Array:
    """The two nearest pixels along either axis, by their distance, `[batch, height, width, channels]`.

    Pixels have their centres at halves and the border goes on outside (torch's 'bilinear' without `align_corners`); a
    smaller size is not smoothed first.
    """
    for axis, size in ((1, height), (2, width)):
        old = images.shape[axis]
        places = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        before = np.floor(places).astype(np.int32)
        after = np.minimum(before + 1, old - 1)
        shape = [size if one == axis else 1 for one in range(4)]
        share = jnp.asarray(places - before, images.dtype).reshape(shape)
        images = jnp.take(images, before, axis=axis) * (1 - share) + jnp.take(images, after, axis=axis) * share
    return images
