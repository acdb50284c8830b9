"""What the rules of fusion ask of a graph."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from flaxmobile.export.graph import Graph, Operation, Value

Rule = Callable[[Graph, Operation], bool]
"""Replaces an operation, and what leads to it, where it can; whether it did."""


def only(value: Value) -> bool:
    """Whether one operation alone takes it, once."""
    return len(value.users) == 1


def made_by(value: Value, kind: str) -> Operation | None:
    """The operation of that kind which makes a value that nobody else takes."""
    source = value.source
    return source if source is not None and source.kind == kind and only(value) else None


def number(value: Value) -> np.ndarray | None:
    """The constant where it is one number, of any rank."""
    return value.constant.reshape(()) if value.constant is not None and value.constant.size == 1 else None


def is_number(value: Value, wanted: float) -> bool:
    """Whether it is that number, to the last bit of its type."""
    found = number(value)
    return found is not None and float(found) == (float(np.float32(wanted)) if value.dtype.kind == 'f' else wanted)


def either(operation: Operation) -> Iterator[tuple[Value, Value]]:
    """Both orders of the two operands."""
    first, second = operation.inputs
    yield first, second
    yield second, first


def with_number(operation: Operation, wanted: float) -> Value | None:
    """The other operand of a sum or product with that number."""
    return next((other for each, other in either(operation) if is_number(each, wanted)), None)


def factors(value: Value, found: list[Value], root: bool = True) -> float:
    """The product of the constants in a product of others, which go into `found`; nothing of it has another user."""
    source = value.source
    if value.constant is not None and (one := number(value)) is not None:
        return float(one)
    if source is not None and (root or only(value)):
        if source.kind == 'mul':
            return math.prod(factors(each, found, False) for each in source.inputs)
        if source.kind == 'neg':
            return -factors(source.inputs[0], found, False)
    found.append(value)
    return 1.0


def product_of(value: Value, wanted: float, root: bool = True) -> list[Value]:
    """What is multiplied, beside constants whose product is that number in float32; empty where it is another."""
    found: list[Value] = []
    share = factors(value, found, root)
    return found if np.float32(share) == np.float32(wanted) else []
