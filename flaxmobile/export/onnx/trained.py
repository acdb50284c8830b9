"""Weights and biases of an ONNX file of a network trained for int8."""

from typing import TYPE_CHECKING, Any

import numpy as np

from flaxmobile.quantization.rounding import weight_scale

if TYPE_CHECKING:
    import onnx

CHANNELS = {'Conv': 0, 'Gemm': 1}
"""The axis of the output channels in an operator's weights."""
PASSED = ('Transpose', 'Reshape', 'Flatten')
"""Operators that change no value."""


def quantize_weights(model: 'onnx.ModelProto') -> None:
    """Write the weights of convolutions and dense layers, which are int8 numbers in float32, as those, in place.

    Their biases become int32, in steps of the input's scale times the weights'.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    nodes: list[Any] = []
    for node in graph.node:
        rounding = _rounding_of(node.input[0], made) if node.op_type in CHANNELS else None
        if rounding is not None and node.input[1] in constants:
            nodes += [*_rounded_again(node, rounding, made), *_quantize(node, constants[rounding[0]], constants)]
        nodes.append(node)
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items() if name in used)


def _rounding_of(name: str, made: dict[str, Any]) -> list[str] | None:
    """The names of scale and zero point of the numbers that a tensor stands for; None of float32 numbers."""
    while name in made and made[name].op_type in PASSED:
        name = made[name].input[0]
    node = made.get(name)
    return list(node.input[1:]) if node is not None and node.op_type == 'DequantizeLinear' else None


def _rounded_again(node: Any, rounding: list[str], made: dict[str, Any]) -> list[Any]:
    """Roundings that change nothing, before a layer that has something else in front: ONNX Runtime looks for them."""
    from onnx import helper

    given = node.input[0]
    if made[given].op_type == 'DequantizeLinear':
        return []
    names = [f'{node.name}/given_{kind}' for kind in ('int8', 'float')]
    node.input[0] = names[1]
    return [
        helper.make_node('QuantizeLinear', [given, *rounding], names[:1], name=names[0]),
        helper.make_node('DequantizeLinear', [names[0], *rounding], names[1:], name=names[1]),
    ]


def _quantize(node: Any, scale: np.ndarray, constants: dict[str, np.ndarray]) -> list[Any]:
    """Give a layer int8 weights and an int32 bias; the nodes that dequantise them."""
    axis = CHANNELS[node.op_type]
    weights = constants[node.input[1]]
    steps = weight_scale(np.moveaxis(weights, axis, -1)).astype(np.float32)
    along = steps.reshape([-1 if each == axis else 1 for each in range(weights.ndim)])
    parts = [(1, np.rint(weights / along).astype(np.int8), steps, axis)]
    if len(node.input) > 2:
        bias, fine = constants[node.input[2]], (scale * steps).astype(np.float32)
        whole = np.iinfo(np.int32)
        parts.append((2, np.clip(np.rint(bias / fine), whole.min, whole.max).astype(np.int32), fine, 0))
    return [_dequantized(node, *part, constants) for part in parts]


def _dequantized(
    node: Any, place: int, numbers: np.ndarray, scale: np.ndarray, axis: int, constants: dict[str, np.ndarray]
) -> Any:
    from onnx import helper

    name = f'{node.name}/{"bias" if place == 2 else "weight"}'
    constants |= {f'{name}_int8': numbers, f'{name}_scale': scale, f'{name}_zero': np.zeros(scale.shape, numbers.dtype)}
    inputs = [f'{name}_int8', f'{name}_scale', f'{name}_zero']
    node.input[place] = f'{name}_float'
    return helper.make_node('DequantizeLinear', inputs, [f'{name}_float'], name=f'{name}_float', axis=axis)
