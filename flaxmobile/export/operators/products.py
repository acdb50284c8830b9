"""Convolutions, products of matrices, pooling, resizing and softmax."""

from typing import Any

import numpy as np

from flaxmobile.export.graph import Operation, Value, refuse
from flaxmobile.export.operators.elementwise import renamed
from flaxmobile.export.operators.handlers import handles
from flaxmobile.export.operators.shapes import reduce
from flaxmobile.export.operators.writer import NCHW, Order, Tensor, Writer


@handles('conv_general_dilated')
def convolution(writer: Writer, operation: Operation) -> Tensor:
    """With a bias where there is a third input."""
    params, numbers = operation.params, operation.params['dimension_numbers']
    values, kernel, *bias = operation.inputs
    _check_convolution(operation)
    images = writer.full(values, tuple(numbers.lhs_spec))
    weights = _weights(writer, kernel, tuple(numbers.rhs_spec))
    attributes: dict[str, Any] = {'kernel_shape': [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]}
    if params['feature_group_count'] != 1:
        attributes['group'] = params['feature_group_count']
    if set(params['window_strides']) != {1}:
        attributes['strides'] = list(params['window_strides'])
    if set(params['rhs_dilation']) != {1}:
        attributes['dilations'] = list(params['rhs_dilation'])
    pads = [int(side) for ends in zip(*params['padding'], strict=True) for side in ends]
    if any(pads):
        attributes['pads'] = pads
    inputs = [images.name, weights, *(writer.constant(each.full(), 'bias') for each in bias)]
    return Tensor(writer.node('Conv', inputs, **attributes), tuple(numbers.out_spec), operation.output.shape)


def _check_convolution(operation: Operation) -> None:
    params = operation.params
    _check_types(operation)
    if params['batch_group_count'] != 1:
        raise refuse(operation, f'has batch_group_count={params["batch_group_count"]}: 1 alone is known')
    if set(params['lhs_dilation']) != {1}:
        raise refuse(
            operation, f'has lhs_dilation={params["lhs_dilation"]} (a transposed convolution), which is not known'
        )
    if any(side < 0 for ends in params['padding'] for side in ends):
        raise refuse(operation, f'cuts its images off, padding={params["padding"]}, which is not known')


def _check_types(operation: Operation) -> None:
    types = {value.dtype.name for value in (*operation.inputs, operation.output)}
    if types != {'float32'}:
        raise refuse(operation, f'is of {", ".join(sorted(types))}: of float32 alone it is known')


def _weights(writer: Writer, kernel: Value, order: Order) -> str:
    if kernel.constant is None:
        return writer.full(kernel, order).name
    return writer.constant(kernel.full().transpose(order), 'weight')


@handles('dense')
def dense(writer: Writer, operation: Operation) -> Tensor:
    """`[batch, channels]` by a constant, with a bias where there is a third input."""
    values, *rest = operation.inputs
    names = [writer.constant(each.full(), kind) for each, kind in zip(rest, ('weight', 'bias'), strict=False)]
    name = writer.node('Gemm', [writer.full(values, (0, 1)).name, *names])
    return Tensor(name, (0, 1), operation.output.shape)


@handles('dot_general')
def product(writer: Writer, operation: Operation) -> Tensor:
    """A product along any axes: `MatMul` of both with the axes that it takes last."""
    _check_types(operation)
    (left_axes, right_axes), (left_batch, right_batch) = operation.params['dimension_numbers']
    left, right = operation.inputs
    free = [
        [axis for axis in range(len(value.shape)) if axis not in (*axes, *batch)]
        for value, axes, batch in ((left, left_axes, left_batch), (right, right_axes, right_batch))
    ]
    if len(left_axes) != 1 or len(free[1]) != 1 or not free[0]:
        return _merged_product(writer, operation, free)
    tensor = writer.full(left)
    # The free axes in the order that they lie in: all but the last count as further batches.
    rows = sorted(free[0], key=tensor.axis)
    first = writer.full(left, (*left_batch, *rows, *left_axes))
    second = writer.full(right, (*right_batch, *right_axes, *free[1]))
    name = second.name
    if len(rows) > 1 and left_batch:
        axes = range(len(left_batch), len(left_batch) + len(rows) - 1)
        name = writer.node('Unsqueeze', [name, writer.numbers(*axes)])
    made = writer.node('MatMul', [first.name, name])
    count = len(left_batch)
    order = (*range(count), *(count + free[0].index(axis) for axis in rows), len(operation.output.shape) - 1)
    return Tensor(made, order, operation.output.shape)


def _merged_product(writer: Writer, operation: Operation, free: list[list[int]]) -> Tensor:
    """The free axes of each operand as one, and so those that are summed over."""
    axes, batch = operation.params['dimension_numbers']
    left, right = operation.inputs
    orders = (*batch[0], *free[0], *axes[0]), (*batch[1], *axes[1], *free[1])
    counts = (len(free[0]), len(axes[0])), (len(axes[1]), len(free[1]))
    names = []
    for value, order, count in zip((left, right), orders, counts, strict=True):
        tensor = writer.full(value, tuple(order))
        sides = tensor.stored[: len(batch[0])]
        merged = tensor.stored[len(sides) : len(sides) + count[0]], tensor.stored[len(sides) + count[0] :]
        names.append(writer.reshape(operation, tensor, [*sides, *map(_count, merged)]))
    made = Tensor(writer.node('MatMul', names), (), ())
    output = operation.output.shape
    if len(output) == len(batch[0]) + 2:
        return Tensor(made.name, tuple(range(len(output))), output)
    whole = Tensor(made.name, tuple(range(len(batch[0]))), output[: len(batch[0])])
    name = writer.reshape(operation, whole, output)
    return Tensor(name, tuple(range(len(output))), output)


def _count(sides: tuple[Any, ...]) -> Any:
    count: Any = 1
    for side in sides:
        count = count * side
    return count


@handles('reduce_mean')
def mean(writer: Writer, operation: Operation) -> Tensor:
    """Of images along height and width: `GlobalAveragePool`."""
    value, axes = operation.inputs[0], operation.params['axes']
    tensor = writer.full(value)
    if len(value.shape) != 4 or {tensor.axis(axis) for axis in axes} != {2, 3}:
        return reduce(writer, operation, 'ReduceMean')
    name = writer.node('GlobalAveragePool', [tensor.name])
    if not operation.params['keepdims']:
        name = writer.node('Flatten', [name])
        left = [axis for axis in range(4) if axis not in axes]
        return Tensor(name, tuple(left.index(axis) for axis in tensor.order[:2]), operation.output.shape)
    return Tensor(name, tensor.order, operation.output.shape)


@handles('average_pool')
def average_pool(writer: Writer, operation: Operation) -> Tensor:
    """The mean of tiles."""
    tensor, size = writer.full(operation.inputs[0], NCHW), list(operation.params['size'])
    name = writer.node('AveragePool', [tensor.name], kernel_shape=size, strides=size)
    return Tensor(name, NCHW, operation.output.shape)


@handles('resize_nearest')
def resize_nearest(writer: Writer, operation: Operation) -> Tensor:
    """Each pixel as often as the whole factors say."""
    tensor = writer.full(operation.inputs[0], NCHW)
    scales = writer.constant(np.array([1, 1, *operation.params['factors']], np.float32))
    told = {'mode': 'nearest', 'coordinate_transformation_mode': 'asymmetric', 'nearest_mode': 'floor'}
    name = writer.node('Resize', [tensor.name, '', scales], **told)
    return Tensor(name, NCHW, operation.output.shape)


@handles('softmax')
def softmax(writer: Writer, operation: Operation) -> Tensor:
    """Along one axis."""
    tensor = writer.full(operation.inputs[0])
    axis = tensor.axis(operation.params['axis'])
    last = axis == len(tensor.order) - 1
    return renamed(tensor, writer.node('Softmax', [tensor.name], axis=-1 if last else axis))
