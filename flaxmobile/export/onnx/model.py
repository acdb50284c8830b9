"""An ONNX file of a program: the graph, its names, what it says of itself, and the checks of ONNX's own library."""

import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from flaxmobile.export.description import KEY, to_json
from flaxmobile.export.onnx.trained import quantize_weights
from flaxmobile.export.operators.writer import Node
from flaxmobile.export.operators.writing import Layout, Port, Written, write
from flaxmobile.export.program import Program
from flaxmobile.messages import printable, unknown

if TYPE_CHECKING:
    import onnx

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
    written = write(program, layout)
    size = sum(array.nbytes for array in written.constants.values())
    if size > LARGEST:
        raise ValueError(
            f'export: its constants are {size / 2**30:.1f} GiB, and an ONNX file holds less than 2: export a narrower '
            'network'
        )
    model = _assemble(written)
    if program.marked:
        quantize_weights(model)
    if description is not None:
        told = {**description, 'made': {**description['made'], 'opset': written.opset}}
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


def _assemble(written: Written) -> 'onnx.ModelProto':
    from onnx import helper, numpy_helper

    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in written.constants.items()]
    nodes, outputs = [_node(node) for node in written.nodes], [_info(port) for port in written.outputs]
    return helper.make_model(
        helper.make_graph(nodes, 'flaxmobile', [_info(written.images)], outputs, constants),
        opset_imports=[helper.make_opsetid('', written.opset)],
        ir_version=IR_VERSION[written.opset],
        producer_name='flaxmobile',
        producer_version=importlib.metadata.version('flaxmobile'),
    )


def _node(node: Node) -> Any:
    from onnx import helper

    attributes = {
        name: _type(value) if isinstance(value, np.dtype) else value for name, value in node.attributes.items()
    }
    return helper.make_node(node.kind, node.inputs, [node.output], name=node.name, **attributes)


def _info(port: Port) -> Any:
    from onnx import helper

    sides = [side if isinstance(side, int) else str(side) for side in port.sides]
    return helper.make_tensor_value_info(port.name, _type(port.dtype), sides)


def _type(dtype: np.dtype[Any]) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(dtype))
