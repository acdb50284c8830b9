"""Activations and softmax out of their terms."""

import math

import numpy as np

from flaxmobile.export.graph import Graph, Operation, Value
from flaxmobile.export.matching import Rule, either, is_number, made_by, number, product_of, with_number


def softmax(graph: Graph, operation: Operation) -> bool:
    """`exp(x - max(x)) / sum(exp(x - max(x)))` along one axis."""
    if operation.kind != 'div':
        return False
    top, total = operation.inputs
    power, added = top.source, made_by(total, 'reduce_sum')
    if power is None or power.kind != 'exp' or power.params or len(top.users) != 2 or added is None:
        return False
    difference = made_by(power.inputs[0], 'sub')
    if difference is None or added.inputs[0] is not top or added.params['keepdims'] is not True:
        return False
    values, greatest = difference.inputs
    largest = made_by(greatest, 'reduce_max')
    if largest is None or largest.inputs[0] is not values or largest.params != added.params:
        return False
    if len(added.params['axes']) != 1 or values.shape != operation.output.shape:
        return False
    graph.replace(operation, 'softmax', [values], axis=added.params['axes'][0])
    return True


def relu(graph: Graph, operation: Operation) -> bool:
    """`max(x, 0)`."""
    if operation.kind != 'max' or operation.output.dtype != np.float32:
        return False
    value = with_number(operation, 0)
    if value is None or value.constant is not None or value.shape != operation.output.shape:
        return False
    graph.replace(operation, 'relu', [value])
    return True


def clip(graph: Graph, operation: Operation) -> bool:
    """`min(max(x, low), high)`, and JAX's `clamp` by numbers."""
    if operation.kind not in ('min', 'clamp') or operation.output.dtype != np.float32:
        return False
    value, low, high = _clamped(operation) if operation.kind == 'clamp' else _limited(operation)
    if value is None or low is None or high is None or not low <= high or value.shape != operation.output.shape:
        return False
    graph.replace(operation, 'clip', [value], low=float(low), high=float(high))
    return True


Bound = np.ndarray | None


def _clamped(operation: Operation) -> tuple[Value, Bound, Bound]:
    low, value, high = operation.inputs
    return value, number(low), number(high)


def _limited(operation: Operation) -> tuple[Value | None, Bound, Bound]:
    inner, high = _with_some_number(operation)
    if inner is not None and (rectified := made_by(inner, 'relu')):
        return rectified.inputs[0], np.zeros((), np.float32), high
    raised = made_by(inner, 'max') if inner is not None else None
    value, low = _with_some_number(raised) if raised else (None, None)
    return value, low, high


def _with_some_number(operation: Operation) -> tuple[Value | None, Bound]:
    """The operand that is no number, and the one that is."""
    return next(((other, number(each)) for each, other in either(operation) if number(each) is not None), (None, None))


def hard_sigmoid(graph: Graph, operation: Operation) -> bool:
    """`relu6(x + 3) / 6`."""
    clipped = with_number(operation, 1 / 6) if operation.kind == 'mul' else None
    if operation.kind == 'div' and is_number(operation.inputs[1], 6):
        clipped = operation.inputs[0]
    limited = made_by(clipped, 'clip') if clipped is not None else None
    if limited is None or limited.params != {'low': 0.0, 'high': 6.0}:
        return False
    shifted = made_by(limited.inputs[0], 'add')
    value = with_number(shifted, 3) if shifted else None
    if value is None or value.shape != operation.output.shape:
        return False
    graph.replace(operation, 'hard_sigmoid', [value])
    return True


def hard_swish(graph: Graph, operation: Operation) -> bool:
    """`x hard_sigmoid(x)`."""
    if operation.kind != 'mul':
        return False
    for value, gates in either(operation):
        gate = made_by(gates, 'hard_sigmoid')
        if gate is not None and gate.inputs[0] is value:
            graph.replace(operation, 'hard_swish', [value])
            return True
    return False


def gelu(graph: Graph, operation: Operation) -> bool:
    """`x erfc(-x / sqrt(2)) / 2`, and `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x ** 3))) / 2`."""
    if operation.kind != 'mul' or operation.output.dtype != np.float32:
        return False
    found = product_of(operation.output, 0.5)
    if len(found) != 2:
        return False
    for value, gate in (found, found[::-1]):
        if (tail := made_by(gate, 'erfc')) and _same(product_of(tail.inputs[0], -math.sqrt(0.5), False), value):
            graph.replace(operation, 'gelu', [value], approximate=False)
            return True
        inner = (one := made_by(gate, 'add')) and with_number(one, 1)
        curve = inner and made_by(inner, 'tanh')
        if curve and _is_cubic(product_of(curve.inputs[0], math.sqrt(2 / math.pi), False), value):
            graph.replace(operation, 'gelu', [value], approximate=True)
            return True
    return False


def _same(found: list[Value], value: Value) -> bool:
    return len(found) == 1 and found[0] is value


def _is_cubic(found: list[Value], value: Value) -> bool:
    total = made_by(found[0], 'add') if len(found) == 1 else None
    for first, second in either(total) if total else ():
        cubes = product_of(second, 0.044715, False)
        power = made_by(cubes[0], 'integer_pow') if len(cubes) == 1 else None
        if first is value and power and power.params == {'y': 3} and power.inputs[0] is value:
            return True
    return False


ACTIVATIONS: tuple[Rule, ...] = (softmax, relu, clip, hard_sigmoid, hard_swish, gelu)
