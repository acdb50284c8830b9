"""A program in operations that XNNPACK has.

Rows and columns that are taken by number are slices and joins, without gathers and strides. `erfc`, of the exact GELU,
is 1 - `erf`: LiteRT writes `erf` as a polynomial, and `erfc` in cases.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import JaxprEqn

from flaxmobile.ops.standard import bound, evaluate

JOINED = 5
"""Arrays that XNNPACK joins at once."""
MOST_RUNS = 64
"""Slices that a gather becomes at most; with more it stays."""


def for_xnnpack(function: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """The same function: slices without strides, gathers of rows or columns by constants as slices, `erf` for `erfc`.

    Args:
        function: of arrays, without calls in calls, as `ops.standard` gives it; it returns a tuple of arrays.
    """

    @functools.wraps(function)
    def rewritten(*operands: Any) -> tuple[Any, ...]:
        return tuple(evaluate(jax.make_jaxpr(function)(*operands), operands, _apply))

    return rewritten


def _apply(equation: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    primitive = equation.primitive
    shapes: list[Any] = [variable.aval for variable in equation.outvars]
    whole = all(not jnp.issubdtype(each.dtype, jnp.inexact) for each in shapes)
    if whole and operands and not any(isinstance(operand, jax.core.Tracer) for operand in operands):
        with jax.ensure_compile_time_eval():  # The numbers of rows are computed, negative ones from the end.
            return bound(equation, operands, equation.params)
    if primitive is lax.erfc_p:
        return [1 - lax.erf(operands[0])]
    if primitive is lax.slice_p:
        return [_sliced(operands[0], equation.params)]
    if primitive is lax.gather_p and not isinstance(operands[1], jax.core.Tracer):
        images, numbers = operands[0], np.asarray(operands[1])
        axis = _axis(images.shape, numbers, equation.params)
        if axis is not None and (lines := _lines(images, numbers[:, 0], axis)) is not None:
            return [lines]
    return bound(equation, operands, equation.params)


def _sliced(images: Array, params: dict[str, Any]) -> Array:
    """A slice: of strided lines the whole stretch as a table, of which the first column is taken."""
    starts, limits = params['start_indices'], params['limit_indices']
    for axis, stride in enumerate(params['strides'] or [1] * images.ndim):
        count = -(-(limits[axis] - starts[axis]) // stride)
        if stride > 1 and count > 1:
            missing = max(0, starts[axis] + count * stride - images.shape[axis])
            stretch = jnp.pad(images, [(0, missing if one == axis else 0) for one in range(images.ndim)])
            stretch = lax.slice_in_dim(stretch, starts[axis], starts[axis] + count * stride, axis=axis)
            before, after = images.shape[:axis], images.shape[axis + 1 :]
            columns = lax.slice_in_dim(stretch.reshape(*before, count, stride, *after), 0, 1, axis=axis + 1)
            images = columns.reshape(*before, count, *after)
        else:
            images = lax.slice_in_dim(images, starts[axis], limits[axis], stride, axis)
    return images


def _axis(shape: tuple[int, ...], numbers: np.ndarray, params: dict[str, Any]) -> int | None:
    """The axis, not the first, that whole lines are taken along; None of another gather, and of lines outside."""
    told = params['dimension_numbers']
    axis = told.start_index_map[0] if len(told.start_index_map) == 1 else 0
    others = tuple(one for one in range(len(shape)) if one != axis)
    wanted = lax.GatherDimensionNumbers(offset_dims=others, collapsed_slice_dims=(axis,), start_index_map=(axis,))
    whole = tuple(1 if one == axis else side for one, side in enumerate(shape))
    if not axis or told != wanted or tuple(params['slice_sizes']) != whole or numbers.ndim != 2 or not numbers.size:
        return None
    return axis if 0 <= numbers.min() <= numbers.max() < shape[axis] else None


def _lines(images: Array, numbers: np.ndarray, axis: int) -> Array | None:
    """The lines of those numbers along an axis; None where they would be too many slices."""
    times = -(-len(numbers) // images.shape[axis])
    if np.array_equal(numbers, np.arange(len(numbers)) // times):
        return lax.slice_in_dim(_repeated(images, times, axis), 0, len(numbers), axis=axis)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    if len(runs) > MOST_RUNS:
        return None
    return _joined([lax.slice_in_dim(images, run[0], run[-1] + 1, axis=axis) for run in runs], axis)


def _repeated(images: Array, times: int, axis: int) -> Array:
    """Each line so often, one after the other."""
    before, after = images.shape[:axis], images.shape[axis + 1 :]
    flat = images.reshape(*before, images.shape[axis], math.prod(after))
    return _joined([flat] * times, axis + 1).reshape(*before, images.shape[axis] * times, *after)


def _joined(parts: Sequence[Array], axis: int) -> Array:
    """Along an axis, a few at once; the groups are joined flat, since the converter would make one of joined joins."""
    if len(parts) <= JOINED:
        return jnp.concatenate(parts, axis)
    groups = [jnp.concatenate(parts[start : start + JOINED], axis) for start in range(0, len(parts), JOINED)]
    flat = [group.reshape(*group.shape[:axis], math.prod(group.shape[axis:])) for group in groups]
    shape = list(groups[0].shape)
    shape[axis] = sum(group.shape[axis] for group in groups)
    return _joined(flat, axis).reshape(shape)
