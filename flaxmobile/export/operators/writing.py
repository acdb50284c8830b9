"""From a program to operators, with their names, types and shapes."""

import dataclasses
from typing import Any, Literal

import numpy as np

from flaxmobile.export.fusion import fuse
from flaxmobile.export.graph import Graph, Value, refuse, trace
from flaxmobile.export.operators import elementwise, products, rounding, shapes
from flaxmobile.export.operators.handlers import HANDLERS
from flaxmobile.export.operators.writer import NCHW, Node, Order, Tensor, Writer, plain_order
from flaxmobile.export.program import Program

Layout = Literal['nchw', 'nhwc']
MODULES = elementwise, products, rounding, shapes
"""The modules that fill `HANDLERS`."""

IMAGES = 'image'
"""The name of a file's input."""
OPSET = 17
"""The least that is written, ONNX 1.12's of 2022. `HardSwish` needs 14 and `Shape` with a start 15."""
NEWER = {'gelu': 20}
"""By kind of operation, the opset that its operator came with."""


@dataclasses.dataclass(frozen=True)
class Port:
    """What a file takes or answers.

    Attributes:
        name: of the tensor.
        dtype: NumPy's.
        sides: whole numbers, and the symbol of the batch.
    """

    name: str
    dtype: np.dtype[Any]
    sides: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """A program as operators.

    Attributes:
        opset: of ONNX, the lowest that has every operator, `OPSET` at least.
        nodes: in an order in which they can be computed.
        constants: name to array, those that a node takes.
        images: the input.
        outputs: in the program's order.
    """

    opset: int
    nodes: list[Node]
    constants: dict[str, np.ndarray]
    images: Port
    outputs: list[Port]


def write(program: Program, layout: Layout = 'nchw') -> Written:
    """The operators of a program, for any number of images.

    Args:
        program: what to write. It computes in float32.
        layout: of images and of maps among the outputs: 'nchw', `[batch, channels, height, width]`, or 'nhwc'.

    Raises:
        ValueError: the program computes in another type, or has an operation that is not known (named, with its layer).
    """
    graph = trace(program.function, program.image)
    fuse(graph)
    (images,) = graph.inputs
    writer = Writer(opset_of(graph), IMAGES, images.shape[0], program.outputs)
    given = Tensor(IMAGES, _order(images, layout), images.shape)
    writer.set(images, given)
    if given.order != NCHW and len(images.shape) == 4:
        writer.set(images, writer.lazy(images, NCHW))
    for operation in graph.operations:
        writer.begin(operation)
        if operation.kind not in HANDLERS:
            raise refuse(operation, 'is of a form that files are not written for')
        writer.set(operation.output, HANDLERS[operation.kind](writer, operation))
    outputs = _answer(graph, writer, program.outputs, layout)
    used = {name for node in writer.nodes for name in node.inputs}
    constants = {name: array for name, array in writer.constants.items() if name in used}
    return Written(writer.opset, writer.nodes, constants, Port(IMAGES, images.dtype, given.stored), outputs)


def opset_of(graph: Graph) -> int:
    """The lowest opset that has every operator, `OPSET` at least."""
    return max([OPSET, *(NEWER.get(operation.kind, OPSET) for operation in graph.operations)])


def _order(value: Value, layout: str) -> Order:
    """How images and maps lie in the file."""
    rank = len(value.shape)
    return NCHW if rank == 4 and layout == 'nchw' else plain_order(rank)


def _answer(graph: Graph, writer: Writer, names: tuple[str, ...], layout: str) -> list[Port]:
    """Give what the graph answers its names."""
    writer.end()
    tensors = [writer.full(value, _order(value, layout)) for value in graph.outputs]
    writer.answer({name: tensor.name for name, tensor in zip(names, tensors, strict=True)})
    told = zip(names, graph.outputs, tensors, strict=True)
    return [Port(name, value.dtype, tensor.stored) for name, value, tensor in told]
