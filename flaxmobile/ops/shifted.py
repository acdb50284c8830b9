"""Sums over shifted images, which XLA fuses into one vectorised loop over the channels on a CPU."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from flaxmobile.ops.padding import PaddingPairs, Pair, Size
from flaxmobile.ops.primitives import Window


def sum_over_taps(images: Array, features: int, window: Window, term: Callable[[Array, Pair], Array]) -> Array:
    """The sum of `term(shifted images, place in the kernel)` over the kernel's taps, in float32 or wider."""
    dtype = accumulator(images)
    total = jnp.zeros((images.shape[0], *window.output_size, features), dtype)
    if 0 in total.shape:
        return total.astype(images.dtype)
    padded = pad(images, window.padding)
    for row, column in window.taps:
        start = (row * window.dilation[0], column * window.dilation[1])
        view = crop(padded, start, window.output_size, window.strides)
        total = total + term(view.astype(dtype), (row, column))
    return total.astype(images.dtype)


def pad(images: Array, padding: PaddingPairs) -> Array:
    """Zeros around, or fewer pixels where a pair is negative."""
    return lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), (*padding[0], 0), (*padding[1], 0), (0, 0, 0)))


def crop(images: Array, start: Size, size: Size, strides: Pair = (1, 1)) -> Array:
    """`size` positions from `start`, `strides` apart, of the two spatial axes."""
    stop = [first + (count - 1) * stride + 1 for first, count, stride in zip(start, size, strides, strict=True)]
    return lax.slice(images, (0, *start, 0), (images.shape[0], *stop, images.shape[-1]), (1, *strides, 1))


def accumulator(images: Array) -> Any:
    """The type that sums are taken in."""
    return jnp.promote_types(images.dtype, jnp.float32)
