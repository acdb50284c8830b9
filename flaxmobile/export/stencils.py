"""Weighted sums of shifted images as convolutions, and what surrounds a convolution taken into it.

`ops.blur_pool` is written as slices, products and sums: one convolution of each channel comes of it.
"""

import dataclasses
from typing import Any

import numpy as np
from jax.lax import ConvDimensionNumbers

from flaxmobile.export.graph import Graph, Operation, Value, constant
from flaxmobile.export.matching import either, made_by, number

NHWC = ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


@dataclasses.dataclass(frozen=True)
class Term:
    """A factor of every `stride`-th row or column of the images from `start` on."""

    images: Value
    axis: int
    start: int
    stride: int
    factor: np.float32


def fuse_stencils(graph: Graph) -> None:
    """Make convolutions of sums of shifted images; take zeros around the images, and one after the other, into one."""
    for operation in reversed(list(graph.operations)):
        if operation.kind == 'add':
            _stencil(graph, operation)
    graph.tidy()
    for rule in (_composed, _padded):
        for operation in list(graph.operations):
            if operation.kind == 'conv_general_dilated':
                rule(graph, operation)
    graph.tidy()


def _stencil(graph: Graph, operation: Operation) -> None:
    terms = _terms(operation.output, operation.output.shape, root=True)
    if not terms or len(operation.output.shape) != 4 or operation.output.dtype != np.float32:
        return
    first = terms[0]
    if len({(term.images, term.axis, term.stride) for term in terms}) != 1 or first.axis not in (1, 2):
        return
    images, axis = first.images, first.axis
    size, channels = 1 + max(term.start for term in terms), images.shape[3]
    if (images.shape[axis] - size) // first.stride + 1 != operation.output.shape[axis]:
        return
    weights = np.zeros(size, np.float32)
    for term in terms:
        weights[term.start] += term.factor
    if not weights.all():  # One that starts later has no first weight.
        return
    kernel = np.broadcast_to(
        weights.reshape((-1, 1, 1, 1) if axis == 1 else (1, -1, 1, 1)), _sides(axis, size, channels)
    )
    graph.replace(
        operation,
        'conv_general_dilated',
        [images, constant(kernel)],
        window_strides=(first.stride, 1) if axis == 1 else (1, first.stride),
        padding=((0, 0), (0, 0)),
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        dimension_numbers=NHWC,
        feature_group_count=channels,
        batch_group_count=1,
    )


def _sides(axis: int, size: int, channels: int) -> tuple[int, ...]:
    return (size, 1, 1, channels) if axis == 1 else (1, size, 1, channels)


def _terms(value: Value, shape: tuple[Any, ...], root: bool = False) -> list[Term]:
    """The terms of a sum, each as large as the sum; none where it is another."""
    source = value.source
    if source is None or not (root or len(value.users) == 1) or value.shape != shape:
        return []
    if source.kind == 'add':
        first, second = (_terms(each, shape) for each in source.inputs)
        return first + second if first and second else []
    if source.kind == 'div' and (share := number(source.inputs[1])) is not None:
        return [_scaled(term, np.float32(1) / share) for term in _terms(source.inputs[0], shape)]
    if source.kind == 'mul':
        for factor, other in either(source):
            if (share := number(factor)) is not None:
                return [_scaled(term, share) for term in _terms(other, shape)]
    return _slice(source) if source.kind == 'slice' else []


def _scaled(term: Term, share: Any) -> Term:
    return dataclasses.replace(term, factor=term.factor * np.float32(share))


def _slice(operation: Operation) -> list[Term]:
    """A slice that leaves out something of one axis alone."""
    (images,), shape = operation.inputs, operation.output.shape
    starts, steps = operation.params['start_indices'], operation.params.get('strides') or (1,) * len(shape)
    axes = [axis for axis, side in enumerate(images.shape) if shape[axis] != side]
    if len(axes) != 1 or not isinstance(shape[axes[0]], int):
        return []
    (axis,) = axes
    return [Term(images, axis, int(starts[axis]), int(steps[axis]), np.float32(1))]


def _plain(operation: Operation | None) -> bool:
    """Whether it is a convolution of each channel by constants, without a bias, of NHWC."""
    if operation is None or len(operation.inputs) != 2 or operation.inputs[1].constant is None:
        return False
    params, channels = operation.params, operation.inputs[0].shape[-1]
    depthwise = params['feature_group_count'] == channels == operation.output.shape[-1]
    undilated = set(params['lhs_dilation']) == set(params['rhs_dilation']) == {1}
    return depthwise and undilated and params['dimension_numbers'] == NHWC


def _composed(graph: Graph, operation: Operation) -> None:
    """A convolution of columns after one of rows: one of both."""
    inner = made_by(operation.inputs[0], 'conv_general_dilated')
    if inner is None or not _plain(inner) or not _plain(operation):
        return
    rows, columns = inner.inputs[1].full(), operation.inputs[1].full()
    high, wide = inner.params, operation.params
    alone = rows.shape[1] == columns.shape[0] == high['window_strides'][1] == wide['window_strides'][0] == 1
    unpadded = {*high['padding'][1], *wide['padding'][0]} == {0}
    if not alone or not unpadded:
        return
    params = {
        **wide,
        'window_strides': (high['window_strides'][0], wide['window_strides'][1]),
        'padding': (high['padding'][0], wide['padding'][1]),
    }
    graph.replace(operation, 'conv_general_dilated', [inner.inputs[0], constant(rows * columns)], **params)


def _padded(graph: Graph, operation: Operation) -> None:
    """Zeros around the images as the convolution's own padding."""
    pad = made_by(operation.inputs[0], 'pad')
    if pad is None or operation.params['dimension_numbers'] != NHWC or number(pad.inputs[1]) != 0:
        return
    (batch, *sides, channels), lhs = pad.params['padding_config'], operation.params['lhs_dilation']
    whole = all(tuple(map(int, each)) == (0, 0, 0) for each in (batch, channels))
    if not whole or set(lhs) != {1} or any(low < 0 or high < 0 or inner for low, high, inner in sides):
        return
    both = zip(sides, operation.params['padding'], strict=True)
    padding = tuple((int(low) + before, int(high) + after) for (low, high, _), (before, after) in both)
    graph.replace(
        operation, operation.kind, [pad.inputs[0], *operation.inputs[1:]], **{**operation.params, 'padding': padding}
    )
