"""Operators as operations of Core ML's Model Intermediate Language (MIL), one for one where there is such a one.

Operations are those of iOS 15 and macOS 12, the first that have ML programs:
https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from flaxmobile.export.graph import refuse
from flaxmobile.export.operators.handlers import registering
from flaxmobile.export.operators.writer import Node
from flaxmobile.export.operators.writing import Port, Written

UNARY = {
    'Abs': 'abs',
    'Ceil': 'ceil',
    'Cos': 'cos',
    'Erf': 'erf',
    'Exp': 'exp',
    'Floor': 'floor',
    'Identity': 'identity',
    'Relu': 'relu',
    'Sigmoid': 'sigmoid',
    'Sign': 'sign',
    'Sin': 'sin',
    'Sqrt': 'sqrt',
    'Tanh': 'tanh',
}
BINARY = {
    'Add': 'add',
    'Div': 'real_div',
    'MatMul': 'matmul',
    'Max': 'maximum',
    'Min': 'minimum',
    'Mul': 'mul',
    'Pow': 'pow',
    'Sub': 'sub',
}
REDUCTIONS = {
    'ReduceMax': 'reduce_max',
    'ReduceMean': 'reduce_mean',
    'ReduceMin': 'reduce_min',
    'ReduceProd': 'reduce_prod',
    'ReduceSum': 'reduce_sum',
}
MOST_AXES = 5
"""Of a tensor of Core ML."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A node, with what it takes.

    Attributes:
        node: of ONNX's operators.
        inputs: MIL's variables, and constants as arrays; None where one is left out.
    """

    node: Node
    inputs: list[Any]

    def optional(self, number: int) -> Any:
        """An input; None where it is left out."""
        return self.inputs[number] if number < len(self.inputs) else None

    def make(self, kind: str, **operands: Any) -> Any:
        """MIL's operation of that name, in the node's."""
        from coremltools.converters.mil.mil import Builder

        given = {name: value for name, value in operands.items() if value is not None}
        return getattr(Builder, kind)(**given, name=self.node.output)


Handler = Callable[[Step], Any]
HANDLERS: dict[str, Handler] = {}
"""By ONNX's operator. A handler makes operations of MIL and gives the last one's variable."""
handles = registering(HANDLERS)
"""Register a function for those operators."""


def mil_program(written: Written) -> Any:
    """The MIL program of operators, for one image: `[1, channels, height, width]`, float32.

    Raises:
        ValueError: an operator that MIL has not, or that is not of float32, named with its layer.
    """
    import coremltools
    from coremltools.converters.mil.mil import Builder, types

    image = Builder.TensorSpec(shape=shape_of(written.images), dtype=types.fp32)

    @Builder.program(input_specs=[image], opset_version=coremltools.target.iOS15)
    def program(image: Any) -> Any:
        values: dict[str, Any] = {name: array[()] for name, array in written.constants.items()}
        values |= {'': None, written.images.name: image}
        for node in written.nodes:
            _check(node)
            values[node.output] = HANDLERS[node.kind](Step(node, [values[name] for name in node.inputs]))
            if len(values[node.output].shape) > MOST_AXES:
                raise _refuse(node, f'has a tensor of more than {MOST_AXES} axes, which Core ML has not')
        return [values[port.name] for port in written.outputs]

    return program


def shape_of(port: Port) -> tuple[int, ...]:
    """The shape of what a file takes or answers, for one image."""
    return tuple(side if isinstance(side, int) else 1 for side in port.sides)


def _check(node: Node) -> None:
    operation = node.operation
    if node.kind not in HANDLERS:
        raise _refuse(node, 'is of a form that Core ML files are not written for')
    if operation is None or node.kind == 'Cast':
        return
    if other := {value.dtype.name for value in (*operation.inputs, operation.output)} - {'float32'}:
        raise _refuse(node, f'is of {", ".join(sorted(other))}: Core ML files are written for float32 alone')


def _refuse(node: Node, why: str) -> ValueError:
    return refuse(node.operation, why) if node.operation else ValueError(f'export: an output {why}')


@handles(*UNARY)
def unary(step: Step) -> Any:
    """One operand."""
    return step.make(UNARY[step.node.kind], x=step.inputs[0])


@handles(*BINARY)
def binary(step: Step) -> Any:
    """Two operands."""
    return step.make(BINARY[step.node.kind], x=step.inputs[0], y=step.inputs[1])


@handles('Neg')
def negative(step: Step) -> Any:
    """A product, since MIL has none."""
    return step.make('mul', x=step.inputs[0], y=np.float32(-1))


@handles('Reciprocal')
def reciprocal(step: Step) -> Any:
    """A quotient: MIL's `inverse` adds a small number to what it divides by."""
    return step.make('real_div', x=np.float32(1), y=step.inputs[0])


@handles(*REDUCTIONS)
def reduction(step: Step) -> Any:
    """Along some axes, which some of ONNX's operators have as an attribute, others as an input."""
    axes = step.node.attributes.get('axes', step.optional(1))
    kept = bool(step.node.attributes['keepdims'])
    return step.make(REDUCTIONS[step.node.kind], x=step.inputs[0], axes=_whole(axes), keep_dims=kept)


@handles('Cast')
def cast(step: Step) -> Any:
    """Of pixels alone: an image is float32 in MIL."""
    operation = step.node.operation
    assert operation is not None
    if (operation.inputs[0].dtype, operation.inputs[0].source, operation.output.dtype) != (np.uint8, None, np.float32):
        raise refuse(
            operation,
            f'makes {operation.output.dtype.name} of {operation.inputs[0].dtype.name}: of pixels alone it is known',
        )
    return step.inputs[0]


@handles('Conv')
def convolution(step: Step) -> Any:
    """Of ONNX's padding the first half is before, the second behind; of MIL's each axis has both."""
    attributes = step.node.attributes
    pads = attributes.get('pads')
    return step.make(
        'conv',
        x=step.inputs[0],
        weight=step.inputs[1],
        bias=step.optional(2),
        strides=attributes.get('strides'),
        dilations=attributes.get('dilations'),
        groups=attributes.get('group'),
        pad_type='custom' if pads else 'valid',
        pad=_whole(np.reshape(pads, (2, -1)).T.ravel()) if pads else None,
    )


@handles('Gemm')
def linear(step: Step) -> Any:
    """ONNX's weights are `[channels, features]`, MIL's `[features, channels]`."""
    return step.make('linear', x=step.inputs[0], weight=step.inputs[1].T, bias=step.optional(2))


@handles('Clip')
def clip(step: Step) -> Any:
    """Between two numbers."""
    low, high = step.inputs[1:]
    if (low, high) == (0, 6):
        return step.make('relu6', x=step.inputs[0])
    return step.make('clip', x=step.inputs[0], alpha=low, beta=high)


@handles('HardSigmoid')
def hard_sigmoid(step: Step) -> Any:
    """`relu6(x + 3) / 6`, written as `min(max(x / 6 + 0.5, 0), 1)`."""
    return step.make('sigmoid_hard', x=step.inputs[0], alpha=np.float32(1 / 6), beta=np.float32(0.5))


@handles('HardSwish')
def hard_swish(step: Step) -> Any:
    """Two operations, since MIL has none."""
    return step.make('mul', x=step.inputs[0], y=hard_sigmoid(step))


@handles('Gelu')
def gelu(step: Step) -> Any:
    """Exact, or by `tanh`."""
    mode = 'TANH_APPROXIMATION' if step.node.attributes['approximate'] == 'tanh' else 'EXACT'
    return step.make('gelu', x=step.inputs[0], mode=mode)


@handles('Softmax')
def softmax(step: Step) -> Any:
    """Along one axis."""
    return step.make('softmax', x=step.inputs[0], axis=step.node.attributes['axis'])


@handles('GlobalAveragePool')
def global_average_pool(step: Step) -> Any:
    """The mean along height and width."""
    return step.make('reduce_mean', x=step.inputs[0], axes=[2, 3], keep_dims=True)


@handles('AveragePool')
def average_pool(step: Step) -> Any:
    """The mean of tiles."""
    attributes = step.node.attributes
    sizes, strides = attributes['kernel_shape'], attributes['strides']
    return step.make('avg_pool', x=step.inputs[0], kernel_sizes=sizes, strides=strides, pad_type='valid')


@handles('Resize')
def resize_nearest(step: Step) -> Any:
    """Each pixel as often as whole factors say."""
    height, width = (int(factor) for factor in step.inputs[2][2:])
    factors = {'scale_factor_height': height, 'scale_factor_width': width}
    return step.make('upsample_nearest_neighbor', x=step.inputs[0], **factors)


@handles('Flatten')
def flatten(step: Step) -> Any:
    """All but the first axis as one."""
    return step.make('reshape', x=step.inputs[0], shape=[step.inputs[0].shape[0], -1])


@handles('Reshape')
def reshape(step: Step) -> Any:
    """To a shape in which 0 stands for the side as it was."""
    before, wanted = step.inputs[0].shape, step.inputs[1]
    shape = [int(side) if side else before[axis] for axis, side in enumerate(wanted)]
    return step.make('reshape', x=step.inputs[0], shape=shape)


@handles('Unsqueeze')
def expand_dims(step: Step) -> Any:
    """New sides of 1."""
    return step.make('expand_dims', x=step.inputs[0], axes=_whole(step.inputs[1]))


@handles('Transpose')
def transpose(step: Step) -> Any:
    """Axes in another order."""
    return step.make('transpose', x=step.inputs[0], perm=step.node.attributes['perm'])


@handles('Shape')
def batch(step: Step) -> Any:
    """How many images there are, constant here."""
    return np.array(step.inputs[0].shape[:1])


@handles('Concat')
def concatenate(step: Step) -> Any:
    """One after the other along an axis; a shape is known."""
    axis = step.node.attributes['axis']
    if all(isinstance(value, np.ndarray) for value in step.inputs):
        return np.concatenate(step.inputs, axis)
    return step.make('concat', values=step.inputs, axis=axis)


@handles('Expand')
def expand(step: Step) -> Any:
    """Sides of 1 as often as a shape says, in which 1 stands for any."""
    value, sides = step.inputs
    shape = np.broadcast_shapes(value.shape, tuple(sides))
    if isinstance(value, np.ndarray | np.generic):
        return np.broadcast_to(value, shape)
    repeats = [int(side) if own == 1 else 1 for own, side in zip(value.shape, shape, strict=True)]
    return step.make('tile', x=value, reps=repeats)


@handles('Slice')
def part(step: Step) -> Any:
    """From a start to an end, by steps."""
    value, starts, ends, axes, steps = step.inputs
    if min(steps) < 1:
        raise _refuse(step.node, 'goes backwards, which is not known')
    first, last, stride = [0] * len(value.shape), list(value.shape), [1] * len(value.shape)
    for axis, start, end, by in zip(axes, starts, ends, steps, strict=True):
        first[axis], last[axis], stride[axis] = int(start), int(end), int(by)
    return step.make('slice_by_index', x=value, begin=first, end=last, stride=stride)


@handles('Gather')
def take(step: Step) -> Any:
    """Constant indices along an axis."""
    indices = step.inputs[1].astype(np.int32)
    return step.make('gather', x=step.inputs[0], indices=indices, axis=step.node.attributes['axis'])


@handles('Pad')
def pad(step: Step) -> Any:
    """A number around all, see `convolution`."""
    value, sides, filling = step.inputs
    both = _whole(np.reshape(sides, (2, -1)).T.ravel())
    return step.make('pad', x=value, pad=both, mode='constant', constant_val=np.float32(filling))


def _whole(numbers: Any) -> list[int]:
    """Whole numbers as MIL takes them."""
    return [int(number) for number in numbers]
