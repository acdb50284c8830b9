"""Int8 numbers: those that cover a range, and floats rounded to them."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

LEAST, GREATEST = -128, 127
"""Int8."""
LEVELS = GREATEST - LEAST
"""The steps between the least and the greatest int8."""
LEAST_SCALE = 1e-9
"""Of numbers that are all 0."""


def affine(low: Any, high: Any, numpy: Any = np) -> tuple[Any, Any]:
    """Scale and zero point of the int8 numbers that cover a range, in which 0 is exact.

    A number n stands for `scale * (n - zero_point)`; n is from -128 to 127.

    Args:
        low: least value.
        high: greatest value.
        numpy: `numpy`, or `jax.numpy` in a program that is traced.
    """
    low, high = numpy.minimum(low, 0.0), numpy.maximum(high, 0.0)
    scale = numpy.maximum((high - low) / LEVELS, LEAST_SCALE)
    return scale, numpy.clip(numpy.round(LEAST - low / scale), LEAST, GREATEST)


def fake_quantize(values: Array, scale: Array, zero_point: Array) -> Array:
    """The float32 values that the nearest int8 numbers stand for.

    The gradient is that of clipping: 1 for a value within the range, 0 beyond it. That of the scale is what rounding
    adds to a value in steps within the range, and the last number beyond it (Esser et al. 2020, 1902.08153, section
    2.1).
    """
    numbers = _rounded(values / scale + zero_point)
    inside = (numbers >= LEAST) & (numbers <= GREATEST)
    return (jnp.where(inside, numbers, jnp.clip(lax.stop_gradient(numbers), LEAST, GREATEST)) - zero_point) * scale


def weight_scale(kernel: Any, numpy: Any = np) -> Any:
    """The scale of each output channel, `[features]`: its largest weight is 127 or -127.

    Args:
        kernel: `[..., features]`.
        numpy: `numpy`, or `jax.numpy` in a program that is traced.
    """
    largest = numpy.max(numpy.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
    return numpy.maximum(largest / GREATEST, LEAST_SCALE)


def fake_quantize_kernel(kernel: Array) -> Array:
    """The kernel that int8 numbers from -127 to 127 stand for, in steps of `weight_scale`; its gradient is 1."""
    scale = lax.stop_gradient(weight_scale(kernel, jnp))
    return _rounded(kernel / scale) * scale


def _rounded(values: Array) -> Array:
    """Rounded to the nearest even number, with a gradient of 1 (straight-through)."""
    return values + lax.stop_gradient(jnp.round(values) - values)
