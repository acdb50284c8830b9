"""The nodes and constants of a graph of operators as they are written, and how its tensors lie.

A value of the traced program has one order of axes, `[batch, height, width, channels]` for images. The tensor that
holds it may have another, which it brings along: convolutions make `[batch, channels, height, width]`, and what follows
takes over the order, so that nothing is transposed between them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxmobile.export.graph import Operation, Value, refuse

Order = tuple[int, ...]
NCHW: Order = (0, 3, 1, 2)
"""Of a tensor `[batch, channels, height, width]`."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the graph that holds a value.

    Attributes:
        name: in the graph.
        order: for each axis of the tensor, that of the value.
        sides: for each axis of the value, how long the tensor is; a side of 1 may stand for any (broadcasting).
    """

    name: str
    order: Order
    sides: tuple[Any, ...]

    def axis(self, axis: int) -> int:
        """The tensor's axis that holds that one of the value."""
        return self.order.index(axis)

    @property
    def stored(self) -> tuple[Any, ...]:
        """How long the tensor is, axis by axis."""
        return tuple(self.sides[axis] for axis in self.order)


def plain_order(rank: int) -> Order:
    """The value's own order."""
    return tuple(range(rank))


@dataclasses.dataclass(eq=False)
class Node:
    """One of ONNX's operators, with one output.

    Attributes:
        kind: the operator's name.
        name: the layer's path and what it is.
        inputs: the names of tensors and constants; '' where an optional one is left out.
        output: the name of the tensor that it makes.
        attributes: by name; a type is NumPy's.
        operation: of the graph, which it is written for; None where it is written for an output alone.
    """

    kind: str
    name: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any]
    operation: Operation | None = None


class Writer:
    """Nodes in order, constants by name, and the tensor of each value.

    Attributes:
        nodes: `Node`s.
        constants: name to array.
        opset: of the operators.
        images: name of the graph's input, whose first side is the batch.
        batch: that side.
    """

    def __init__(self, opset: int, images: str, batch: Any, outputs: Sequence[str]) -> None:
        self.opset, self.images, self.batch = opset, images, batch
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self._tensors: dict[Value, Tensor] = {}
        self._transposed: dict[tuple[Value, Order], Tensor] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._names: set[str] = {images, *outputs}
        self._operation: Operation | None = None

    def begin(self, operation: Operation) -> None:
        """What is written from here on belongs to that operation."""
        self._operation = operation

    def end(self) -> None:
        """What is written from here on belongs to no layer."""
        self._operation = None

    def answer(self, outputs: Mapping[str, str]) -> None:
        """Give tensors the names of the graph's outputs: by their own node, or by an `Identity` where it has none.

        Args:
            outputs: the output's name to the tensor's.
        """
        made = {node.output for node in self.nodes}
        new: dict[str, str] = {}
        for output, tensor in outputs.items():
            if tensor in made and tensor not in new:
                new[tensor] = output
        for node in self.nodes:
            node.inputs = [new.get(name, name) for name in node.inputs]
            node.output = new.get(node.output, node.output)
        for output, tensor in outputs.items():
            if new.get(tensor) != output:
                self.nodes.append(Node('Identity', output, [new.get(tensor, tensor)], output, {}))

    def set(self, value: Value, tensor: Tensor) -> None:
        """Say which tensor holds a value."""
        self._tensors[value] = tensor

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Write a node of one output; the output's name."""
        name = self.name(kind)
        self.nodes.append(Node(kind, name, list(inputs), name, attributes, self._operation))
        return name

    def name(self, kind: str) -> str:
        """A new name: the layer's path and what it is."""
        layer = self._operation.layer if self._operation else ''
        base = '/'.join(filter(None, (layer, kind)))
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f'{base}_{count}'
        self._names.add(name)
        return name

    def constant(self, array: np.ndarray, kind: str = 'constant') -> str:
        """The name of a constant; small ones that are equal share one."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
        if key is not None and key in self._known:
            return self._known[key]
        name = self.name(kind)
        self.constants[name] = array
        if key is not None:
            self._known[key] = name
        return name

    def number(self, number: float) -> str:
        """A constant number, float32."""
        return self.constant(np.array(number, np.float32))

    def numbers(self, *numbers: int) -> str:
        """A constant list of whole numbers, as shapes and axes are."""
        return self.constant(np.array(numbers, np.int64), 'numbers')

    def lazy(self, value: Value, order: Order | None = None) -> Tensor:
        """The tensor of a value, in that order where one is given; sides of 1 may stand for longer ones."""
        if value.constant is not None:
            order = (
                order if order is not None and len(order) == value.constant.ndim else plain_order(value.constant.ndim)
            )
            array = value.constant.transpose(order)
            return Tensor(self.constant(array), order, value.constant.shape)
        tensor = self._tensors[value]
        if order is None or tensor.order == order or len(tensor.order) != len(order):
            return tensor
        if (value, order) not in self._transposed:
            permutation = [tensor.axis(axis) for axis in order]
            name = self.node('Transpose', [tensor.name], perm=permutation)
            self._transposed[value, order] = Tensor(name, order, tensor.sides)
        return self._transposed[value, order]

    def full(self, value: Value, order: Order | None = None) -> Tensor:
        """The tensor of a value, in that order where one is given, every side as long as the value's."""
        tensor = self.lazy(value, order)
        if tensor.sides == value.shape:
            return tensor
        if value.constant is not None and all(isinstance(side, int) for side in value.shape):
            return Tensor(self.constant(value.full().transpose(tensor.order)), tensor.order, value.shape)
        wanted = [value.shape[axis] for axis in tensor.order]
        shape = self._shape([1 if own == side else side for own, side in zip(tensor.stored, wanted, strict=True)])
        return Tensor(self.node('Expand', [tensor.name, shape]), tensor.order, value.shape)

    def _shape(self, sides: Sequence[Any]) -> str:
        """A shape, in which the batch is as large as the images' own."""
        if all(isinstance(side, int) for side in sides):
            return self.numbers(*sides)
        if other := [side for side in sides if not isinstance(side, int) and side != self.batch]:
            why = f'has a side of {other[0]}: numbers alone and the number of images itself are known'
            raise refuse(self._operation, why) if self._operation else ValueError(f'export: an output {why}')
        batch = self.node('Shape', [self.images], start=0, end=1)
        return self.node('Concat', [self.numbers(side) if isinstance(side, int) else batch for side in sides], axis=0)

    def reshape(self, operation: Operation, tensor: Tensor, stored: Sequence[Any]) -> str:
        """Write a `Reshape` to a shape of at most one side that is neither a number nor the same as before."""
        sides = []
        for axis, side in enumerate(stored):
            same = axis < len(tensor.stored) and tensor.stored[axis] == side
            sides.append(side if isinstance(side, int) else 0 if same else -1)
        if sides.count(-1) > 1 or (-1 in sides and 0 in stored):
            raise refuse(operation, f'makes a shape of several open sides, {list(map(str, stored))}')
        return self.node('Reshape', [tensor.name, self.numbers(*sides)])
