"""Operations on each number by itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxmobile.export.graph import Operation, Value, refuse
from flaxmobile.export.operators.handlers import handles
from flaxmobile.export.operators.writer import Order, Tensor, Writer, plain_order

UNARY = {
    'abs': 'Abs',
    'ceil': 'Ceil',
    'cos': 'Cos',
    'erf': 'Erf',
    'exp': 'Exp',
    'floor': 'Floor',
    'hard_swish': 'HardSwish',
    'log': 'Log',
    'logistic': 'Sigmoid',
    'neg': 'Neg',
    'relu': 'Relu',
    'sign': 'Sign',
    'sin': 'Sin',
    'sqrt': 'Sqrt',
    'tanh': 'Tanh',
}
BINARY = {
    'add': 'Add',
    'div': 'Div',
    'eq': 'Equal',
    'ge': 'GreaterOrEqual',
    'gt': 'Greater',
    'le': 'LessOrEqual',
    'lt': 'Less',
    'max': 'Max',
    'min': 'Min',
    'mul': 'Mul',
    'pow': 'Pow',
    'sub': 'Sub',
}
LOGICAL = {'and': 'And', 'not': 'Not', 'or': 'Or', 'xor': 'Xor'}


@handles(*UNARY)
def unary(writer: Writer, operation: Operation) -> Tensor:
    """One operator of one operand."""
    tensor = writer.lazy(operation.inputs[0])
    return renamed(tensor, writer.node(UNARY[operation.kind], [tensor.name]))


@handles(*BINARY)
def binary(writer: Writer, operation: Operation) -> Tensor:
    """One operator of two operands."""
    if operation.kind != 'eq' and operation.inputs[0].dtype == np.bool_:
        raise refuse(operation, 'is of truth values: of numbers alone it is known')
    return _broadcast(writer, operation, BINARY[operation.kind])


@handles(*LOGICAL)
def logical(writer: Writer, operation: Operation) -> Tensor:
    """Of truth values alone."""
    if any(value.dtype != np.bool_ for value in operation.inputs):
        raise refuse(
            operation, f'is one of bits, of {operation.inputs[0].dtype.name}: of truth values alone it is known'
        )
    return _broadcast(writer, operation, LOGICAL[operation.kind])


@handles('ne')
def not_equal(writer: Writer, operation: Operation) -> Tensor:
    """`Equal`, and `Not` of it."""
    tensor = _broadcast(writer, operation, 'Equal')
    return renamed(tensor, writer.node('Not', [tensor.name]))


@handles('rem')
def remainder(writer: Writer, operation: Operation) -> Tensor:
    """The remainder of the sign of the dividend."""
    return _broadcast(writer, operation, 'Mod', fmod=1)


@handles('select_n')
def select(writer: Writer, operation: Operation) -> Tensor:
    """The second case where the truth value holds, the first where it does not."""
    which, *cases = operation.inputs
    if len(cases) != 2 or which.dtype != np.bool_:
        raise refuse(operation, f'has {len(cases)} cases by {which.dtype.name}: two by a truth value are known')
    return _broadcast(writer, operation, 'Where', [which, cases[1], cases[0]])


@handles('clamp')
def clamp(writer: Writer, operation: Operation) -> Tensor:
    """`min(max(x, low), high)` of bounds that are no numbers."""
    low, value, high = operation.inputs
    order = _order(writer, operation.inputs, operation.output)
    lower, tensor, upper = (writer.lazy(each, order) for each in (low, value, high))
    raised = writer.node('Max', [tensor.name, lower.name])
    return _result([lower, tensor, upper], order, writer.node('Min', [raised, upper.name]), operation.output)


@handles('clip')
def clip(writer: Writer, operation: Operation) -> Tensor:
    """Between two numbers."""
    tensor = writer.lazy(operation.inputs[0])
    bounds = [writer.number(operation.params[name]) for name in ('low', 'high')]
    return renamed(tensor, writer.node('Clip', [tensor.name, *bounds]))


@handles('hard_sigmoid')
def hard_sigmoid(writer: Writer, operation: Operation) -> Tensor:
    """`relu6(x + 3) / 6`."""
    tensor = writer.lazy(operation.inputs[0])
    return renamed(tensor, writer.node('HardSigmoid', [tensor.name], alpha=1 / 6, beta=0.5))


@handles('gelu')
def gelu(writer: Writer, operation: Operation) -> Tensor:
    """An operator since opset 20."""
    tensor = writer.lazy(operation.inputs[0])
    approximate = 'tanh' if operation.params['approximate'] else 'none'
    return renamed(tensor, writer.node('Gelu', [tensor.name], approximate=approximate))


@handles('rsqrt')
def inverse_root(writer: Writer, operation: Operation) -> Tensor:
    """`1 / sqrt(x)`."""
    tensor = writer.lazy(operation.inputs[0])
    return renamed(tensor, writer.node('Reciprocal', [writer.node('Sqrt', [tensor.name])]))


@handles('erfc')
def complement(writer: Writer, operation: Operation) -> Tensor:
    """`1 - erf(x)`."""
    tensor = writer.lazy(operation.inputs[0])
    return renamed(tensor, writer.node('Sub', [writer.number(1), writer.node('Erf', [tensor.name])]))


@handles('is_finite')
def finite(writer: Writer, operation: Operation) -> Tensor:
    """Neither infinite nor not a number."""
    tensor = writer.lazy(operation.inputs[0])
    infinite, undefined = (writer.node(kind, [tensor.name]) for kind in ('IsInf', 'IsNaN'))
    return renamed(tensor, writer.node('Not', [writer.node('Or', [infinite, undefined])]))


@handles('square')
def square(writer: Writer, operation: Operation) -> Tensor:
    """A product with itself."""
    tensor = writer.lazy(operation.inputs[0])
    return renamed(tensor, writer.node('Mul', [tensor.name, tensor.name]))


@handles('integer_pow')
def integer_power(writer: Writer, operation: Operation) -> Tensor:
    """A power whose exponent is a whole number."""
    tensor, power = writer.lazy(operation.inputs[0]), operation.params['y']
    if operation.inputs[0].dtype != np.float32:
        raise refuse(operation, f'is a power of {operation.inputs[0].dtype.name}: of float32 alone it is known')
    return renamed(tensor, writer.node('Pow', [tensor.name, writer.number(power)]))


@handles('round')
def rounded(writer: Writer, operation: Operation) -> Tensor:
    """To the nearest whole number, halves to the even one."""
    if getattr(operation.params['rounding_method'], 'name', '') != 'TO_NEAREST_EVEN':
        raise refuse(operation, 'rounds halves away from zero: to the even number alone is known')
    tensor = writer.lazy(operation.inputs[0])
    return renamed(tensor, writer.node('Round', [tensor.name]))


@handles('convert_element_type')
def cast(writer: Writer, operation: Operation) -> Tensor:
    """To another type."""
    tensor = writer.lazy(operation.inputs[0])
    return renamed(tensor, writer.node('Cast', [tensor.name], to=operation.output.dtype))


def renamed(tensor: Tensor, name: str) -> Tensor:
    """A tensor that lies as another does."""
    return Tensor(name, tensor.order, tensor.sides)


def _order(writer: Writer, values: Sequence[Value], like: Value) -> Order:
    """That of the operand with the most sides that are not 1."""
    tensors = [writer.lazy(value) for value in values if value.constant is None and len(value.shape) == len(like.shape)]
    if not tensors:
        return plain_order(len(like.shape))
    return max(tensors, key=lambda tensor: sum(side != 1 for side in tensor.sides)).order


def _broadcast(
    writer: Writer, operation: Operation, kind: str, values: Sequence[Value] | None = None, **attributes: Any
) -> Tensor:
    values = operation.inputs if values is None else values
    order = _order(writer, values, operation.output)
    tensors = [writer.lazy(value, order) for value in values]
    name = writer.node(kind, [tensor.name for tensor in tensors], **attributes)
    return _result(tensors, order, name, operation.output)


def _result(tensors: Sequence[Tensor], order: Order, name: str, like: Value) -> Tensor:
    """The tensor of what operands of the same rank, or single numbers, make."""
    ranked = [tensor.sides for tensor in tensors if len(tensor.sides) == len(like.shape)]
    sides = tuple(next((side for side in own if side != 1), 1) for own in zip(*ranked, strict=True))
    return Tensor(name, order, sides)
