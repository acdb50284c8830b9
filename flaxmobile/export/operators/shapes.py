"""Shapes, parts of tensors, and reductions."""

import math
from typing import Any

import numpy as np

from flaxmobile.export.graph import Operation, refuse
from flaxmobile.export.operators.handlers import handles
from flaxmobile.export.operators.writer import Order, Tensor, Writer, plain_order

Group = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes of a value that become those of another: `[height, width]` that become one, or the other way round."""


@handles('reshape')
def reshape(writer: Writer, operation: Operation) -> Tensor:
    """Another shape, in the order that the tensor has where axes that become one lie one after the other in it."""
    (value,), output = operation.inputs, operation.output
    tensor, groups = writer.full(value), _groups(value.shape, output.shape)
    if _new_order(groups, tensor.order) is None:
        tensor = writer.full(value, _wanted(operation, groups))
    order = _new_order(groups, tensor.order)
    if order is None:
        tensor, order = writer.full(value, plain_order(len(value.shape))), plain_order(len(output.shape))
    stored = tuple(output.shape[axis] for axis in order)
    if stored == tensor.stored:
        return Tensor(tensor.name, order, output.shape)
    if len(stored) == 2 < len(tensor.stored) and stored[0] == tensor.stored[0]:
        return Tensor(writer.node('Flatten', [tensor.name]), order, output.shape)
    return Tensor(writer.reshape(operation, tensor, stored), order, output.shape)


def _groups(shape: tuple[Any, ...], new: tuple[Any, ...]) -> list[Group]:
    """Which axes become which, in order; sides of 1 become nothing and come from nothing."""
    groups: list[Group] = []
    here, there = 0, 0
    while here < len(shape) or there < len(new):
        if here < len(shape) and there < len(new) and shape[here] == new[there]:
            groups.append(((here,), (there,)))
            here, there = here + 1, there + 1
        elif here < len(shape) and shape[here] == 1:
            groups.append(((here,), ()))
            here += 1
        elif there < len(new) and new[there] == 1:
            groups.append(((), (there,)))
            there += 1
        else:
            ends = _split(shape[here:], new[there:])
            groups.append((tuple(range(here, here + ends[0])), tuple(range(there, there + ends[1]))))
            here, there = here + ends[0], there + ends[1]
    return groups


def _split(shape: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[int, int]:
    """The fewest axes of both that hold as many numbers; all of them where a side is no number."""
    for ends in sorted(
        ((i, j) for i in range(1, len(shape) + 1) for j in range(1, len(new) + 1)), key=lambda ends: sum(ends)
    ):
        sides = shape[: ends[0]], new[: ends[1]]
        if all(isinstance(side, int) for each in sides for side in each) and math.prod(sides[0]) == math.prod(sides[1]):
            return ends
    return len(shape), len(new)


def _new_order(groups: list[Group], order: Order) -> Order | None:
    """The order after a reshape of a tensor that lies so; None where it would have to be transposed first."""
    new: list[int] = []
    places = {axis: place for place, axis in enumerate(order)}
    for axis in order:
        group = next(group for group in groups if axis in group[0])
        own = [places[each] for each in group[0]]
        if own != list(range(own[0], own[0] + len(own))):
            return None
        if axis == group[0][0]:
            new.extend(group[1])
    # New sides of 1 stand last: `[batch, channels]` becomes `[batch, channels, 1, 1]`.
    return (*new, *(axis for group in groups if not group[0] for axis in group[1]))


def _wanted(operation: Operation, groups: list[Group]) -> Order:
    """The order of the input from which the reshape makes what a convolution takes; else the value's own."""
    own = plain_order(len(operation.inputs[0].shape))
    users = [user for user in operation.output.users if getattr(user, 'kind', '') == 'conv_general_dilated']
    if not users:
        return own
    order = users[0].params['dimension_numbers'].lhs_spec
    origins = {axis: group[0] for group in groups for axis in group[1][:1]}
    wanted = tuple(axis for each in order for axis in origins.get(each, ()))
    return wanted if sorted(wanted) == list(own) else own


@handles('broadcast')
def broadcast(writer: Writer, operation: Operation) -> Tensor:
    """Sides of 1 that stand for longer ones: nothing to write until someone has to have them."""
    return writer.lazy(operation.inputs[0])


@handles('transpose')
def transpose(writer: Writer, operation: Operation) -> Tensor:
    """The same tensor, whose axes are called otherwise."""
    tensor, permutation = writer.lazy(operation.inputs[0]), tuple(operation.params['permutation'])
    order = tuple(permutation.index(axis) for axis in tensor.order)
    return Tensor(tensor.name, order, tuple(tensor.sides[axis] for axis in permutation))


@handles('concatenate')
def concatenate(writer: Writer, operation: Operation) -> Tensor:
    """One after the other along an axis."""
    orders = (writer.lazy(value).order for value in operation.inputs if value.constant is None)
    order = next(orders, plain_order(len(operation.output.shape)))
    tensors = [writer.full(value, order) for value in operation.inputs]
    axis = order.index(operation.params['dimension'])
    return Tensor(writer.node('Concat', [each.name for each in tensors], axis=axis), order, operation.output.shape)


@handles('stack')
def stack(writer: Writer, operation: Operation) -> Tensor:
    """One after the other along a new axis."""
    tensors = [writer.full(value, plain_order(len(value.shape))) for value in operation.inputs]
    axis = operation.params['axis']
    names = [writer.node('Unsqueeze', [tensor.name, writer.numbers(axis)]) for tensor in tensors]
    order = plain_order(len(operation.output.shape))
    return Tensor(writer.node('Concat', names, axis=axis), order, operation.output.shape)


@handles('rev')
def reversed_axes(writer: Writer, operation: Operation) -> Tensor:
    """From the last to the first along some axes."""
    tensor = writer.full(operation.inputs[0])
    axes = [tensor.axis(axis) for axis in operation.params['dimensions']]
    if not axes:
        return tensor
    # Slices end before the place that they end at: before the first is as far down as numbers go.
    told = ([-1] * len(axes), [np.iinfo(np.int64).min] * len(axes), axes, [-1] * len(axes))
    name = writer.node('Slice', [tensor.name, *(writer.numbers(*each) for each in told)])
    return Tensor(name, tensor.order, operation.output.shape)


@handles('slice')
def part(writer: Writer, operation: Operation) -> Tensor:
    """From a start to a limit, by steps."""
    tensor, params = writer.full(operation.inputs[0]), operation.params
    steps = params.get('strides') or [1] * len(tensor.order)
    whole, rows = operation.inputs[0].shape, zip(params['start_indices'], params['limit_indices'], steps, strict=True)
    cut = [(axis, *row) for axis, row in enumerate(rows) if row[0] != 0 or row[1] != whole[axis] or row[2] != 1]
    if not all(isinstance(number, int | np.integer) for row in cut for number in row):
        raise refuse(operation, 'cuts the batch, whose size is open')
    axes, starts, ends, strides = zip(*cut, strict=True)
    told = (writer.numbers(*each) for each in (starts, ends, map(tensor.axis, axes), strides))
    return Tensor(writer.node('Slice', [tensor.name, *told]), tensor.order, operation.output.shape)


@handles('take')
def take(writer: Writer, operation: Operation) -> Tensor:
    """Constant indices along an axis."""
    tensor, axis = writer.full(operation.inputs[0]), operation.params['axis']
    indices = writer.constant(operation.params['indices'].astype(np.int64), 'indices')
    name = writer.node('Gather', [tensor.name, indices], axis=tensor.axis(axis))
    return Tensor(name, tensor.order, operation.output.shape)


@handles('pad')
def pad(writer: Writer, operation: Operation) -> Tensor:
    """A number around all."""
    (value, filling), sides = operation.inputs, operation.params['padding_config']
    if any(low < 0 or high < 0 or inner for low, high, inner in sides):
        raise refuse(
            operation, f'cuts off or pads between, {[tuple(map(int, side)) for side in sides]}: neither is known'
        )
    tensor = writer.full(value)
    ends = [int(sides[axis][end]) for end in (0, 1) for axis in tensor.order]
    name = writer.node('Pad', [tensor.name, writer.numbers(*ends), writer.lazy(filling).name])
    return Tensor(name, tensor.order, operation.output.shape)


REDUCTIONS = {
    'reduce_max': 'ReduceMax',
    'reduce_min': 'ReduceMin',
    'reduce_prod': 'ReduceProd',
    'reduce_sum': 'ReduceSum',
}


@handles(*REDUCTIONS)
def reduction(writer: Writer, operation: Operation) -> Tensor:
    """Along some axes."""
    return reduce(writer, operation, REDUCTIONS[operation.kind])


def reduce(writer: Writer, operation: Operation, kind: str) -> Tensor:
    """The reduction of that name."""
    axes, kept = operation.params['axes'], operation.params['keepdims']
    tensor = writer.full(operation.inputs[0])
    if not axes:
        return tensor
    places = sorted(map(tensor.axis, axes))
    # Since opset 18 (sums: 13) the axes are an input.
    if writer.opset >= 18 or kind == 'ReduceSum':
        name = writer.node(kind, [tensor.name, writer.numbers(*places)], keepdims=int(kept))
    else:
        name = writer.node(kind, [tensor.name], axes=places, keepdims=int(kept))
    return reduced(tensor, name, operation)


def reduced(tensor: Tensor, name: str, operation: Operation) -> Tensor:
    """The tensor of a reduction's output, in the order of its input."""
    axes, output = operation.params['axes'], operation.output
    if operation.params['keepdims']:
        return Tensor(name, tensor.order, output.shape)
    left = [axis for axis in range(len(tensor.order)) if axis not in axes]
    return Tensor(name, tuple(left.index(axis) for axis in tensor.order if axis not in axes), output.shape)
