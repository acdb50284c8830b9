"""An ONNX file of a program: the graph, its names, what it says of itself, and the checks of ONNX's own library."""

import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from flaxmobile.export.description import KEY, to_json
from flaxmobile.export.fusion import fuse
from flaxmobile.export.graph import Graph, Value, refuse, trace
from flaxmobile.export.onnx import elementwise, products, shapes, trained
from flaxmobile.export.onnx.handlers import HANDLERS
from flaxmobile.export.onnx.writer import NCHW, Order, Tensor, Writer, plain_order
from flaxmobile.export.program import Program
from flaxmobile.messages import printable, unknown

if TYPE_CHECKING:
    import onnx

Layout = Literal['nchw', 'nhwc']
WRITERS = elementwise, products, shapes, trained
"""The modules that fill `HANDLERS`."""

IMAGES = 'image'
"""The name of a file's input."""
OPSET = 17
"""The least that is written, ONNX 1.12's of 2022. `HardSwish` needs 14 and `Shape` with a start 15."""
NEWER = {'gelu': 20}
"""By kind of operation, the opset that its operator came with."""
IR_VERSION = {17: 8, 20: 9}
"""Of the file format, by opset, as ONNX's own releases have them."""
LARGEST = 2**31 - 2**20
"""Bytes of constants that one file can hold, for protobuf's limit of 2 GiB."""


def onnx_model(
    program: Program, *, layout: Layout = 'nchw', description: Mapping[str, Any] | None = None
) -> 'onnx.ModelProto':
    """The ONNX model of a program, for any number of images.

    It computes in float32, or in int8 where the network was trained for it. Its input is called 'image', its outputs as
    the program's. It was checked by ONNX's checker, shapes and types of everything inferred.

    Args:
        program: what to write.
        layout: of images and of maps among the outputs: 'nchw', `[batch, channels, height, width]`, or 'nhwc'.
        description: what the file says of itself (`describe`), for its metadata, which the opset is added to; None:
            nothing.

    Raises:
        ValueError: no such layout; the program computes in another type, has an operation that is not known (named,
            with its layer), or constants of more than 2 GiB, or ONNX's checker refuses what was written.
    """
    from onnx import checker, helper, shape_inference

    check_layout(layout)
    graph = trace(program.function, program.image)
    fuse(graph)
    writer = Writer(opset_of(graph), IMAGES, graph.inputs[0].shape[0], program.outputs)
    _write(graph, writer, layout)
    outputs = _answer(graph, writer, program.outputs, layout)
    size = sum(array.nbytes for array in writer.constants.values())
    if size > LARGEST:
        raise ValueError(
            f'export: its constants are {size / 2**30:.1f} GiB, and an ONNX file holds less than 2: export a narrower '
            'network'
        )
    model = _assemble(graph, writer, outputs, layout)
    if program.marked:
        trained.quantize_weights(model)
    if description is not None:
        told = {**description, 'made': {**description['made'], 'opset': writer.opset}}
        helper.set_model_props(model, {KEY: to_json(told)})
    try:
        checker.check_model(model, full_check=True)
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise ValueError(f"export: ONNX's checker refuses what was written: {printable(error)}") from error


def check_layout(layout: str) -> None:
    """See that it is one.

    Raises:
        ValueError: it is none.
    """
    if layout not in get_args(Layout):
        raise ValueError(unknown('layout', layout, get_args(Layout)))


def opset_of(graph: Graph) -> int:
    """The lowest opset that has every operator, 17 at least."""
    return max([OPSET, *(NEWER.get(operation.kind, OPSET) for operation in graph.operations)])


def _order(value: Value, layout: str) -> Order:
    """How images and maps lie in the file."""
    rank = len(value.shape)
    return NCHW if rank == 4 and layout == 'nchw' else plain_order(rank)


def _write(graph: Graph, writer: Writer, layout: str) -> None:
    (images,) = graph.inputs
    given = Tensor(IMAGES, _order(images, layout), images.shape)
    writer.set(images, given)
    if given.order != NCHW and len(images.shape) == 4:
        writer.set(images, writer.lazy(images, NCHW))
    for operation in graph.operations:
        writer.begin(operation)
        if operation.kind not in HANDLERS:
            raise refuse(operation, 'is of a form that ONNX files are not written for')
        writer.set(operation.output, HANDLERS[operation.kind](writer, operation))


def _answer(graph: Graph, writer: Writer, names: tuple[str, ...], layout: str) -> list[Any]:
    """Give what the graph answers its names; the types of the outputs."""
    from onnx import helper

    writer.end()
    tensors = [writer.full(value, _order(value, layout)) for value in graph.outputs]
    writer.answer({name: tensor.name for name, tensor in zip(names, tensors, strict=True)})
    told = zip(names, graph.outputs, tensors, strict=True)
    return [helper.make_tensor_value_info(name, _type(value), _sides(tensor)) for name, value, tensor in told]


def _type(value: Value) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(value.dtype))


def _sides(tensor: Tensor) -> list[int | str]:
    return [side if isinstance(side, int) else str(side) for side in tensor.stored]


def _assemble(graph: Graph, writer: Writer, outputs: list[Any], layout: str) -> 'onnx.ModelProto':
    from onnx import helper, numpy_helper

    (images,) = graph.inputs
    sides = _sides(Tensor(IMAGES, _order(images, layout), images.shape))
    given = helper.make_tensor_value_info(IMAGES, _type(images), sides)
    used = {name for node in writer.nodes for name in node.input}
    constants = [
        numpy_helper.from_array(np.asarray(array), name) for name, array in writer.constants.items() if name in used
    ]
    return helper.make_model(
        helper.make_graph(writer.nodes, 'flaxmobile', [given], outputs, constants),
        opset_imports=[helper.make_opsetid('', writer.opset)],
        ir_version=IR_VERSION[writer.opset],
        producer_name='flaxmobile',
        producer_version=importlib.metadata.version('flaxmobile'),
    )
