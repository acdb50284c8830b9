"""`gather` by constant places, as slices: what `x[:, 0, ::2]` is traced as where the batch is open."""

import dataclasses
from typing import Any

import numpy as np

from flaxmobile.export.graph import Graph, Operation, Value


@dataclasses.dataclass(frozen=True)
class Part:
    """What of an axis is taken.

    Attributes:
        places: numbers along the axis; None: all, of a length that may be open.
        made: the axis of the indices that the places lie along; None: one start for all.
        kept: whether the output has such an axis.
    """

    places: np.ndarray | None
    made: int | None
    kept: bool


def constant_gather(graph: Graph, operation: Operation) -> bool:
    """Places that are the same for all other axes: `slice`, and `take` where they have no common distance."""
    if operation.kind != 'gather' or operation.inputs[1].constant is None:
        return False
    numbers, values, output = operation.params['dimension_numbers'], operation.inputs[0], operation.output
    if numbers.operand_batching_dims or numbers.start_indices_batching_dims:
        return False
    indices = operation.inputs[1].full().astype(np.int64)
    parts = [_part(operation, axis, indices) for axis in range(len(values.shape))]
    if any(part is None for part in parts):
        return False
    known = [part for part in parts if part is not None]
    labels = _labels(known)
    sides = dict(zip(_wanted(numbers.offset_dims, len(output.shape)), output.shape, strict=True))
    # An axis of the indices that no place varies along is one of length 1.
    wanted = [label for label in sides if label in labels or label[0] == 0]
    if sorted(labels) != sorted(wanted) or any(side != 1 for label, side in sides.items() if label not in labels):
        return False
    values = _sliced(graph, operation, known)
    if labels != wanted:
        kept = tuple(side for side, part in zip(values.shape, known, strict=True) if part.kept)
        values = graph.insert(operation, 'reshape', [values], Value(kept, output.dtype))
        permutation = tuple(labels.index(label) for label in wanted)
        like = Value(tuple(kept[axis] for axis in permutation), output.dtype)
        values = graph.insert(operation, 'transpose', [values], like, permutation=permutation)
    if values.shape == output.shape:
        graph.bypass(operation, values)
    else:
        graph.replace(operation, 'reshape', [values])
    return True


def _part(operation: Operation, axis: int, indices: np.ndarray) -> Part | None:
    """What is taken of an axis; None where it is not the same for all others, or outside."""
    numbers, side = operation.params['dimension_numbers'], operation.inputs[0].shape[axis]
    size, kept = operation.params['slice_sizes'][axis], axis not in numbers.collapsed_slice_dims
    if axis not in numbers.start_index_map:
        if size == side:
            return Part(None, None, kept)
        return Part(np.arange(size), None, kept) if isinstance(side, int) and isinstance(size, int) else None
    if not isinstance(side, int) or not isinstance(size, int) or not indices.size:
        return None
    places = indices[..., numbers.start_index_map.index(axis)]
    if places.min() < 0 or places.max() > side - size:
        return None
    along = [each for each in range(places.ndim) if np.ptp(places, axis=each).any()]
    if not along:
        return Part(places.flat[0] + np.arange(size), None, kept)
    if len(along) > 1 or kept:
        return None
    line = places[tuple(slice(None) if each == along[0] else 0 for each in range(places.ndim))]
    return Part(line, along[0], True)


def _labels(parts: list[Part]) -> list[tuple[int, int]]:
    """Of the axes that are kept, in order: (1, the axis of the indices), or (0, which it is of the others)."""
    labels, others = [], 0
    for part in parts:
        if part.made is not None:
            labels.append((1, part.made))
        elif part.kept:
            labels.append((0, others))
            others += 1
    return labels


def _wanted(offset_dims: tuple[int, ...], rank: int) -> list[tuple[int, int]]:
    """The same of the output."""
    made = [axis for axis in range(rank) if axis not in offset_dims]
    return [(0, offset_dims.index(axis)) if axis in offset_dims else (1, made.index(axis)) for axis in range(rank)]


def _sliced(graph: Graph, operation: Operation, parts: list[Part]) -> Value:
    """Write a `slice` for all axes whose places have one distance, and a `take` for each of the others."""
    values = operation.inputs[0]
    starts: list[Any] = [0] * len(parts)
    limits, strides, shape = list(values.shape), [1] * len(parts), list(values.shape)
    others = []
    for axis, part in enumerate(parts):
        if part.places is None:
            continue
        steps = np.unique(np.diff(part.places)).tolist() or [1]
        if len(steps) > 1 or steps[0] < 1:
            others.append((axis, part.places))
            continue
        starts[axis], limits[axis], strides[axis] = int(part.places[0]), int(part.places[-1]) + 1, steps[0]
        shape[axis] = len(part.places)
    if tuple(shape) != values.shape:
        told = {'start_indices': tuple(starts), 'limit_indices': tuple(limits), 'strides': tuple(strides)}
        values = graph.insert(operation, 'slice', [values], Value(tuple(shape), values.dtype), **told)
    for axis, places in others:
        shape[axis] = len(places)
        values = graph.insert(operation, 'take', [values], Value(tuple(shape), values.dtype), axis=axis, indices=places)
    return values
