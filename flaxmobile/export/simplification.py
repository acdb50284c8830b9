"""The same things said in one way: shapes, slices, reductions."""

import math

import numpy as np

from flaxmobile.export.graph import Graph, Operation, Value
from flaxmobile.export.matching import Rule, either, is_number, made_by, only


def simpler_shape(graph: Graph, operation: Operation) -> bool:
    """`squeeze`, `expand_dims` and `broadcast_in_dim` as `reshape`, and `broadcast` where sides become longer."""
    kind, params, shape = operation.kind, operation.params, operation.output.shape
    if kind not in ('reshape', 'squeeze', 'expand_dims', 'broadcast_in_dim') or len(operation.inputs) != 1:
        return False
    known = {'reshape': {'new_sizes'}, 'squeeze': {'dimensions'}, 'expand_dims': {'dimensions'}}
    if not params.keys() <= known.get(kind, {'shape', 'broadcast_dimensions'}):
        return False
    value = operation.inputs[0]
    sides = shape
    if kind == 'broadcast_in_dim':
        own = dict(zip(params['broadcast_dimensions'], value.shape, strict=True))
        sides = tuple(own.get(axis, 1) for axis in range(len(shape)))
    if sides != shape:
        if sides != value.shape:
            value = graph.insert(operation, 'reshape', [value], Value(sides, value.dtype))
        graph.replace(operation, 'broadcast', [value])
    elif sides == value.shape:
        graph.bypass(operation, value)
    else:
        graph.replace(operation, 'reshape', [value])
    return True


def nothing_done(graph: Graph, operation: Operation) -> bool:
    """A type that is the same, a maximum with the least of all numbers, a slice of all."""
    value = operation.inputs[0] if operation.inputs else None
    if operation.kind == 'max':
        value = next((other for each, other in either(operation) if is_number(each, -math.inf)), None)
    elif operation.kind == 'slice':
        steps = operation.params.get('strides') or [1]
        value = value if value and value.shape == operation.output.shape and set(steps) == {1} else None
    elif operation.kind != 'convert_element_type':
        return False
    if value is None or value.dtype != operation.output.dtype or value.shape != operation.output.shape:
        return False
    graph.bypass(operation, value)
    return True


def constant_gather(graph: Graph, operation: Operation) -> bool:
    """Constant indices: of one place a `slice`; of several along one axis `take`, or `slice` by their distance."""
    if operation.kind != 'gather' or operation.inputs[1].constant is None:
        return False
    numbers, indices = operation.params['dimension_numbers'], operation.inputs[1].full().astype(np.int64)
    if numbers.operand_batching_dims or numbers.start_indices_batching_dims:
        return False
    if indices.ndim == 1:
        return _gather_one(graph, operation, indices)
    axes, shape, values = numbers.start_index_map, operation.output.shape, operation.inputs[0]
    if len(axes) != 1 or indices.ndim != 2 or not indices.size:
        return False
    others = tuple(each for each in range(len(shape)) if each != axes[0])
    kept = tuple(1 if each == axes[0] else side for each, side in enumerate(values.shape))
    if numbers.collapsed_slice_dims != axes or operation.params['slice_sizes'] != kept or numbers.offset_dims != others:
        return False
    return _gather_along(graph, operation, axes[0], indices[:, 0])


def _gather_one(graph: Graph, operation: Operation, indices: np.ndarray) -> bool:
    """One place of some axes, as `x[:, 0, 0]` has."""
    numbers, sizes = operation.params['dimension_numbers'], operation.params['slice_sizes']
    values, output = operation.inputs[0], operation.output
    starts = [0] * len(values.shape)
    for axis, start in zip(numbers.start_index_map, indices.tolist(), strict=True):
        if not isinstance(values.shape[axis], int) or not 0 <= start <= values.shape[axis] - sizes[axis]:
            return False
        starts[axis] = start
    if numbers.offset_dims != tuple(range(len(output.shape))):
        return False
    if sizes != values.shape:
        limits = tuple(start + size for start, size in zip(starts, sizes, strict=True))
        told = {'start_indices': tuple(starts), 'limit_indices': limits, 'strides': (1,) * len(starts)}
        values = graph.insert(operation, 'slice', [values], Value(tuple(sizes), values.dtype), **told)
    if values.shape == output.shape:
        graph.bypass(operation, values)
    else:
        graph.replace(operation, 'reshape', [values])
    return True


def _gather_along(graph: Graph, operation: Operation, axis: int, indices: np.ndarray) -> bool:
    values = operation.inputs[0]
    if not isinstance(values.shape[axis], int) or indices.min() < 0 or indices.max() >= values.shape[axis]:
        return False
    steps = np.unique(np.diff(indices)).tolist() or [1]
    if len(steps) > 1 or steps[0] < 1:
        graph.replace(operation, 'take', [values], axis=axis, indices=indices)
        return True
    starts, limits, strides = [0] * len(values.shape), list(values.shape), [1] * len(values.shape)
    starts[axis], limits[axis], strides[axis] = int(indices[0]), int(indices[-1]) + 1, steps[0]
    told = {'start_indices': tuple(starts), 'limit_indices': tuple(limits), 'strides': tuple(strides)}
    graph.replace(operation, 'slice', [values], **told)
    nothing_done(graph, operation)
    return True


def divided(graph: Graph, operation: Operation) -> bool:
    """`x rsqrt(y)` as `x / sqrt(y)`."""
    if operation.kind != 'mul':
        return False
    for value, other in either(operation):
        if inverse := made_by(other, 'rsqrt'):
            root = graph.insert(operation, 'sqrt', inverse.inputs, other)
            graph.replace(operation, 'div', [value, root])
            return True
    return False


def reduction(graph: Graph, operation: Operation) -> bool:
    """Reductions say whether they keep the sides that they reduce."""
    kinds = ('reduce_sum', 'reduce_max', 'reduce_min', 'reduce_prod')
    if operation.kind in kinds and operation.params.keys() == {'axes'}:
        operation.params = {'axes': tuple(operation.params['axes']), 'keepdims': False}
    return False


def keepdims(graph: Graph, operation: Operation) -> bool:
    """A reduction with its axes put back as sides of 1."""
    if operation.kind != 'reshape':
        return False
    source = operation.inputs[0].source
    if source is None or source.params.get('keepdims') is not False or not only(operation.inputs[0]):
        return False
    (value,), axes = source.inputs, source.params['axes']
    if operation.output.shape != tuple(1 if axis in axes else side for axis, side in enumerate(value.shape)):
        return False
    graph.replace(operation, source.kind, [value], axes=axes, keepdims=True)
    return True


def mean(graph: Graph, operation: Operation) -> bool:
    """A sum divided by the number of terms."""
    if operation.kind not in ('div', 'mul') or operation.output.dtype != np.float32:
        return False
    for total, count in [tuple(operation.inputs)] if operation.kind == 'div' else either(operation):
        source = made_by(total, 'reduce_sum')
        if source is None or total.shape != operation.output.shape:
            continue
        sides = [source.inputs[0].shape[axis] for axis in source.params['axes']]
        terms = math.prod(side for side in sides if isinstance(side, int))
        exact = all(isinstance(side, int) for side in sides) and terms > 0
        if exact and is_number(count, terms if operation.kind == 'div' else 1 / terms):
            graph.replace(operation, 'reduce_mean', source.inputs, **source.params)
            return True
    return False


SIMPLER: tuple[Rule, ...] = (simpler_shape, nothing_done, constant_gather, reduction)
REDUCTIONS: tuple[Rule, ...] = (keepdims, mean, divided)
