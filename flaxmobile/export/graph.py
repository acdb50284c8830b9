"""A traced function as a flat graph of operations, with what does not depend on the images computed.

Exporters that write operation by operation start from it. `fusion.py` makes fewer and larger operations of it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from flaxmobile.export.constants import evaluate
from flaxmobile.export.program import for_any_number
from flaxmobile.export.quantizers import COMPOSITE, rounding_of
from flaxmobile.layers.basic import FOLDED
from flaxmobile.messages import listing, printable

CALLS = {
    'jit': 'jaxpr',
    'closed_call': 'call_jaxpr',
    'remat2': 'jaxpr',
    'checkpoint': 'jaxpr',
    'custom_jvp_call': 'call_jaxpr',
    'custom_vjp_call': 'call_jaxpr',
}
"""Primitives that only hold another program, and the parameter in which."""
SAME = {'stop_gradient', 'copy', 'optimization_barrier', 'reduce_precision'}
"""Primitives that change no value; `reduce_precision` only where the type keeps all of it."""
TYPES = {'float32', 'bool', 'int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64'}
UNTOLD: dict[str, tuple[Any, ...]] = {
    'out_sharding': (None,),
    'sharding': (None,),
    'accuracy': (None,),
    'dimensions': (None,),
    'out_dtype': (None,),
    'weak_type': (False, True),
}
"""Parameters that change no value, and with which values."""


# fmt: off
ELEMENTWISE = (
    'abs', 'add', 'and', 'ceil', 'clamp', 'cos', 'div', 'eq', 'erf', 'erfc', 'exp', 'floor', 'ge', 'gt',
    'is_finite', 'le', 'log', 'logistic', 'lt', 'max', 'min', 'mul', 'ne', 'neg', 'not', 'or', 'pow', 'rem',
    'rsqrt', 'select_n', 'sign', 'sin', 'sqrt', 'square', 'sub', 'tanh', 'xor',
)
# fmt: on
UNDERSTOOD: dict[str, set[str]] = {
    **{name: set() for name in ELEMENTWISE},
    'convert_element_type': {'new_dtype'},
    'integer_pow': {'y'},
    'round': {'rounding_method'},
    **{name: {'axes'} for name in ('reduce_sum', 'reduce_max', 'reduce_min', 'reduce_prod')},
    'broadcast_in_dim': {'shape', 'broadcast_dimensions'},
    'concatenate': {'dimension'},
    'pad': {'padding_config'},
    'reshape': {'new_sizes'},
    'rev': {'dimensions'},
    'stack': {'axis'},
    'slice': {'start_indices', 'limit_indices', 'strides'},
    'squeeze': {'dimensions'},
    'transpose': {'permutation'},
    'dot_general': {'dimension_numbers', 'precision', 'preferred_element_type'},
    'conv_general_dilated': {
        'window_strides',
        'padding',
        'lhs_dilation',
        'rhs_dilation',
        'dimension_numbers',
        'feature_group_count',
        'batch_group_count',
        'precision',
        'preferred_element_type',
    },
    'gather': {
        'dimension_numbers',
        'slice_sizes',
        'indices_are_sorted',
        'unique_indices',
        'mode',
        'fill_value',
    },
}
"""The primitives that exporters know, and the parameters that they go by."""


@dataclasses.dataclass(eq=False)
class Value:
    """What an operation makes.

    Attributes:
        shape: whole numbers, and the symbol of the batch.
        dtype: NumPy's.
        constant: what it is, where that is known; of its rank, and a side of 1 may stand for any (broadcasting).
        source: the operation that makes it; None for an input and a constant.
        users: the operations that take it, as often as they do; the graph itself where it is an output.
    """

    shape: tuple[Any, ...]
    dtype: np.dtype[Any]
    constant: np.ndarray | None = None
    source: 'Operation | None' = None
    users: list[Any] = dataclasses.field(default_factory=list)

    def full(self) -> np.ndarray:
        """The constant with every side as long as the shape says."""
        assert self.constant is not None
        return np.broadcast_to(self.constant, self.shape)


@dataclasses.dataclass(eq=False)
class Operation:
    """A step of the graph.

    Attributes:
        kind: the primitive's name, or what `fusion.py` made of several.
        inputs: values.
        outputs: values, one of most kinds.
        params: what else there is to say.
        layer: the path of the module that it belongs to, '' outside of all.
    """

    kind: str
    inputs: list[Value]
    outputs: list[Value]
    params: dict[str, Any]
    layer: str

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value


class Graph:
    """Operations in an order in which they can be computed.

    Attributes:
        inputs: values.
        outputs: values; one may be an input or a constant.
        operations: `Operation`s.
    """

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.operations: list[Operation] = []

    def append(
        self, kind: str, inputs: Sequence[Value], outputs: Sequence[Value], params: Mapping[str, Any], layer: str
    ) -> Operation:
        """Add a step at the end."""
        operation = Operation(kind, [], list(outputs), dict(params), layer)
        for value in outputs:
            value.source = operation
        self.operations.append(operation)
        self._take(operation, inputs)
        return operation

    def replace(self, operation: Operation, kind: str, inputs: Sequence[Value], **params: Any) -> None:
        """Make another operation of it, with the same output; what nobody takes any more goes."""
        before = operation.inputs
        for value in before:
            value.users.remove(operation)
        operation.kind, operation.params, operation.inputs = kind, params, []
        self._take(operation, inputs)
        self._drop(before)

    def bypass(self, operation: Operation, value: Value) -> None:
        """Let `value` stand for the operation's output; the operation goes."""
        output = operation.output
        for user in output.users:
            values = user.outputs if user is self else user.inputs
            values[next(i for i, each in enumerate(values) if each is output)] = value
            value.users.append(user)
        output.users.clear()
        self._drop([output])

    def insert(self, before: Operation, kind: str, inputs: Sequence[Value], like: Value, **params: Any) -> Value:
        """A new step in front of another, in the same layer; what it makes, of `like`'s shape and type."""
        value = Value(like.shape, like.dtype)
        operation = self.append(kind, inputs, [value], params, before.layer)
        self.operations.insert(self.operations.index(before), self.operations.pop())
        assert operation.output is value
        return value

    def _take(self, operation: Operation, inputs: Sequence[Value]) -> None:
        operation.inputs = list(inputs)
        for value in inputs:
            value.users.append(operation)

    def _drop(self, values: Iterable[Value]) -> None:
        for value in values:
            operation = value.source
            if operation is None or operation.kind == '' or any(each.users for each in operation.outputs):
                continue
            operation.kind = ''
            for each in operation.inputs:
                each.users.remove(operation)
            self._drop(operation.inputs)

    def tidy(self) -> None:
        """Remove the operations that nobody takes."""
        self._drop([value for operation in reversed(self.operations) for value in operation.outputs])
        self.operations = [operation for operation in self.operations if operation.kind]


def trace(function: Callable[..., Sequence[Any]], image: jax.ShapeDtypeStruct) -> Graph:
    """The graph of a function of images, for any number of them.

    Args:
        function: from images to a tuple of arrays.
        image: shape and type of one image as a batch; the first side is left open, as the symbol 'batch'.

    Raises:
        ValueError: it computes in a type that exported files do not hold, or has a primitive or a parameter of one that
            exporters do not know, or goes by how many images there are.
    """
    closed = for_any_number(jax.make_jaxpr(function), image)
    graph = Graph()
    graph.inputs = [Value(tuple(aval.shape), np.dtype(aval.dtype)) for aval in closed.in_avals]
    graph.outputs = _flatten(closed, graph.inputs, graph, '')
    for value in graph.outputs:
        value.users.append(graph)
    graph.tidy()
    return graph


def _flatten(closed: ClosedJaxpr | Jaxpr, inputs: Sequence[Value], graph: Graph, scope: str) -> list[Value]:
    program, constants = (closed.jaxpr, closed.consts) if isinstance(closed, ClosedJaxpr) else (closed, ())
    values: dict[Any, Value] = dict(zip(program.invars, inputs, strict=True))
    values.update(zip(program.constvars, map(constant, map(np.asarray, constants)), strict=True))

    def read(atom: Any) -> Value:
        return constant(np.asarray(atom.val, _aval(atom).dtype)) if isinstance(atom, Literal) else values[atom]

    for equation in program.eqns:
        given = [read(atom) for atom in equation.invars]
        layer = '/'.join(filter(None, (scope, str(equation.source_info.name_stack))))
        results = _step(equation, given, graph, layer)
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in program.outvars]


def _step(equation: JaxprEqn, given: list[Value], graph: Graph, scope: str) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    if name in CALLS:
        return _flatten(params[CALLS[name]], given, graph, scope)
    layer = layer_of(scope)
    if name == 'composite' and params['name'] == COMPOSITE:
        return [_quantized(given[0], rounding_of(params), graph, layer)]
    outputs = [Value(tuple(_aval(each).shape), np.dtype(_aval(each).dtype)) for each in equation.outvars]
    if wrong := [value.dtype.name for value in (*given, *outputs) if value.dtype.name not in TYPES]:
        raise ValueError(f'export: {title(name, layer)} computes in {wrong[0]}, and files are written for float32')
    if name in SAME and (name != 'reduce_precision' or (params['exponent_bits'], params['mantissa_bits']) == (8, 23)):
        return given
    constants = [value.constant for value in given if value.constant is not None]
    if len(constants) == len(given):
        shapes = [value.shape for value in given], [value.shape for value in outputs]
        results = evaluate(equation.primitive, constants, params, *shapes)
        if results is not None:
            for value, result in zip(outputs, results, strict=True):
                value.constant = np.asarray(result, value.dtype)
            return outputs
    told = {key: value for key, value in params.items() if not any(value is each for each in UNTOLD.get(key, ()))}
    _check_understood(graph.append(name, given, outputs, told, layer))
    return outputs


def _quantized(value: Value, rounding: tuple[np.ndarray, np.ndarray], graph: Graph, layer: str) -> Value:
    """A value rounded to int8: a kernel in NumPy, an activation by an operation `fake_quantize`."""
    (scale, zero_point), made = rounding, Value(value.shape, value.dtype)
    if value.constant is not None:
        made.constant = np.round(value.constant / scale) * scale
    else:
        graph.append('fake_quantize', [value], [made], {'scale': scale[0], 'zero_point': int(zero_point[0])}, layer)
    return made


def _aval(atom: Any) -> Any:
    """Shape and type of an operand."""
    return atom.aval


def _check_understood(operation: Operation) -> None:
    if operation.kind == 'dim_as_value':
        raise refuse(operation, 'computes with the number of images, which a file leaves open')
    if operation.kind not in UNDERSTOOD:
        raise refuse(operation, 'is none that exporters know')
    if unknown := sorted(operation.params.keys() - UNDERSTOOD[operation.kind]):
        told = [f'{name}={operation.params[name]!r}' for name in unknown]
        raise refuse(operation, f'has what exporters do not know: {listing(told, 3)}')


def constant(array: np.ndarray) -> Value:
    """A value that is known."""
    return Value(array.shape, array.dtype, constant=array)


def layer_of(scope: str) -> str:
    """The path of a layer in the parameters: JAX's scopes without the network's class and names of methods."""
    first, *rest = scope.split('/')
    own_class = first[:1].isupper() and not first.rpartition('_')[2].isdigit()
    parts = rest if own_class else [first, *rest]
    return '/'.join(part for part in parts if part != FOLDED and '.' not in part)


def title(kind: str, layer: str) -> str:
    """How a message names an operation."""
    return f"the operation '{kind}' {f'of the layer {printable(layer)}' if layer else 'outside of any layer'}"


def refuse(operation: Operation, why: str) -> ValueError:
    """The error for an operation that a format cannot hold, or that its exporter does not know."""
    return ValueError(f'export: {title(operation.kind, operation.layer)} {why}')
