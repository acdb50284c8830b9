"""The same things said in one way: shapes, slices, reductions."""

import math

import numpy as np

from flaxmobile.export.gathers import constant_gather
from flaxmobile.export.graph import Graph, Operation, Value
from flaxmobile.export.matching import Rule, either, is_number, made_by, only


def simpler_shape(graph: Graph, operation: Operation) -> bool:
    """`squeeze` and `broadcast_in_dim` as `reshape`, and `broadcast` where sides become longer."""
    kind, params, shape = operation.kind, operation.params, operation.output.shape
    if kind not in ('reshape', 'squeeze', 'broadcast_in_dim') or len(operation.inputs) != 1:
        return False
    known = {'reshape': {'new_sizes'}, 'squeeze': {'dimensions'}}
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
