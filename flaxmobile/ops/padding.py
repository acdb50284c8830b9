"""Padding: the conventions of the family, as explicit pairs of pixels."""

from collections.abc import Sequence
from numbers import Integral
from typing import Literal, get_args

import numpy as np

Pair = tuple[int, int]
Size = tuple[int, ...]
PaddingPairs = tuple[Pair, Pair]
NamedPadding = Literal['same', 'symmetric', 'bottom_right']
Padding = NamedPadding | PaddingPairs


def pair(name: str, value: int | Pair) -> Pair:
    """An int for both axes, or (height, width) as it is; what is called `name` has to be 1 or more."""
    values = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(values) != 2 or not all(isinstance(number, Integral) and number >= 1 for number in values):
        raise ValueError(f'{name} is {value!r}: it has to be a whole number, 1 or more, or two: (height, width)')
    return int(values[0]), int(values[1])


def padding_pairs(padding: Padding, input_size: Size, kernel_size: Size, strides: Pair, dilation: Pair) -> PaddingPairs:
    """Pixels to add before and after each axis.

    Args:
        padding: 'same' as TensorFlow's SAME (output `ceil(input / stride)`, the odd pixel after), 'symmetric' as torch
            networks have it (`dilation * (kernel - 1) // 2` on both sides), 'bottom_right' as Keras's MobileNetV1 does
            (SAME's pixels for a multiple of the stride, whatever the size: (0, 1) for 3 pixels by strides of 2; output
            `input // stride`), or the pairs themselves.
        input_size: height and width in pixels.
        kernel_size: height and width of the kernel.
        strides: per axis.
        dilation: per axis.

    Raises:
        ValueError: `padding` is none of these.
    """
    if padding == 'symmetric':
        rows, columns = (step * (kernel - 1) // 2 for kernel, step in zip(kernel_size, dilation, strict=True))
        return (rows, rows), (columns, columns)
    if padding == 'same' or padding == 'bottom_right':
        sizes = input_size if padding == 'same' else strides
        rows, columns = (
            max(0, (-(-size // stride) - 1) * stride + step * (kernel - 1) + 1 - size)
            for size, kernel, stride, step in zip(sizes, kernel_size, strides, dilation, strict=True)
        )
        return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
    pairs = np.asarray(padding if isinstance(padding, tuple | list) else ())
    if pairs.shape != (2, 2) or pairs.dtype.kind != 'i':
        names = ', '.join(map(repr, get_args(NamedPadding)))
        raise ValueError(f'padding {padding!r} is not known: {names} or ((top, bottom), (left, right))')
    return padding


def output_size(size: Size, kernel_size: Size, strides: Pair, padding: PaddingPairs, dilation: Pair) -> Pair:
    """Height and width of a convolution's output, in pixels; 0 where the kernel does not fit."""
    rows, columns = (
        max(0, (length + sum(added) - step * (kernel - 1) - 1) // stride + 1)
        for length, kernel, stride, added, step in zip(size, kernel_size, strides, padding, dilation, strict=True)
    )
    return rows, columns
