"""Depthwise convolution as three bilinear primitives, each the transpose of the others.

On a CPU shifted multiply-adds; elsewhere XLA's own grouped convolution.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from flaxmobile.ops.padding import Pair
from flaxmobile.ops.primitives import Function, Window, convolve, primitive, transpose
from flaxmobile.ops.shifted import accumulator, crop, pad, sum_over_taps


def _grouped(images: Array, kernel: Array, *, window: Window) -> Array:
    return convolve(images, kernel[:, :, None, :], window=window, groups=kernel.shape[-1])


def _grouped_input_gradient(cotangent: Array, kernel: Array, *, window: Window) -> Array:
    shape = (cotangent.shape[0], *window.input_size, cotangent.shape[-1])
    images = jax.ShapeDtypeStruct(shape, cotangent.dtype)
    return transpose(lambda images: _grouped(images, kernel, window=window), images, cotangent)


def _grouped_kernel_gradient(images: Array, cotangent: Array, *, window: Window) -> Array:
    kernel = jax.ShapeDtypeStruct((*window.kernel_size, images.shape[-1]), images.dtype)
    return transpose(lambda kernel: _grouped(images, kernel, window=window), kernel, cotangent)


def _shifted(images: Array, kernel: Array, *, window: Window) -> Array:
    def term(view: Array, tap: Pair) -> Array:
        return view * kernel[tap].astype(view.dtype)

    return sum_over_taps(images, images.shape[-1], window, term)


class _Axis(NamedTuple):
    """How the gradient by the input falls into `stride` phases along one axis.

    Position `first + phase + stride * m` of the padded input is touched by the taps whose offset is `phase` modulo the
    stride, from output position `m - offset // stride`.
    """

    stride: int
    dilation: int
    length: int
    crop: int
    pad: Pair
    reach: int

    @classmethod
    def of(cls, window: Window, axis: int) -> '_Axis':
        stride, dilation, low = window.strides[axis], window.dilation[axis], window.padding[axis][0]
        first = low // stride
        crop = low - stride * first
        length = -(-(window.input_size[axis] + crop) // stride)
        reach = (window.kernel_size[axis] - 1) * dilation // stride
        pad = (reach - first, length + first - window.output_size[axis])
        return cls(stride, dilation, length, crop, pad, reach)

    def offsets(self, kernel_size: int, phase: int) -> list[Pair]:
        """The taps of this phase, each with where its view of the padded cotangent starts."""
        places = ((tap, divmod(tap * self.dilation, self.stride)) for tap in range(kernel_size))
        return [(tap, self.reach - quotient) for tap, (quotient, remainder) in places if remainder == phase]


def _shifted_input_gradient(cotangent: Array, kernel: Array, *, window: Window) -> Array:
    dtype = accumulator(cotangent)
    rows, columns = _Axis.of(window, 0), _Axis.of(window, 1)
    padded = pad(cotangent, (rows.pad, columns.pad))
    batch, channels = cotangent.shape[0], cotangent.shape[-1]

    def phase(row_phase: int, column_phase: int) -> Array:
        total = jnp.zeros((batch, rows.length, columns.length, channels), dtype)
        for row, top in rows.offsets(window.kernel_size[0], row_phase):
            for column, left in columns.offsets(window.kernel_size[1], column_phase):
                view = crop(padded, (top, left), (rows.length, columns.length))
                total = total + view.astype(dtype) * kernel[row, column].astype(dtype)
        return total.astype(cotangent.dtype)

    if window.strides == (1, 1):
        return phase(0, 0)
    phases = [jnp.stack([phase(row, column) for column in range(columns.stride)], axis=3) for row in range(rows.stride)]
    size = (rows.length * rows.stride, columns.length * columns.stride)
    interleaved = jnp.stack(phases, axis=2).reshape(batch, *size, channels)
    return crop(interleaved, (rows.crop, columns.crop), window.input_size)


def _largest_divisor(number: int, limit: int) -> int:
    if not isinstance(number, int):  # A symbolic size, in `jax.export`.
        return 1
    return next(divisor for divisor in range(max(1, min(number, limit)), 0, -1) if number % divisor == 0)


def _looped_kernel_gradient(images: Array, cotangent: Array, *, window: Window) -> Array:
    """A loop over groups of images and blocks of rows.

    Each turn adds `image * cotangent` of a group, image by image, to one accumulator a tap, small enough for the cache;
    XLA's own reduction over all but the channels is several times slower. A turn cuts out what the next one reads:
    with a slice of its own, whose place is known only at run time, the sum would not become vector instructions.
    """
    dtype = accumulator(images)
    batch, height, width, channels = cotangent.shape
    if 0 in cotangent.shape:
        return jnp.zeros((*window.kernel_size, channels), images.dtype)
    group = _largest_divisor(batch, 4)
    numbers = 2**18 // len(window.taps)  # Of an accumulator: all of them are a megabyte.
    block = _largest_divisor(height, max(1, numbers // max(1, width * channels * window.parts)))
    padded = pad(images, window.padding)
    span = (block - 1) * window.strides[0] + (window.kernel_size[0] - 1) * window.dilation[0] + 1
    turns = batch // group * (height // block)

    def cut(turn: Array) -> tuple[Array, Array]:
        image, row, zero = turn // (height // block) * group, turn % (height // block) * block, jnp.zeros_like(turn)
        start = (image, row * window.strides[0], zero, zero)
        view = lax.dynamic_slice(padded, start, (group, span, padded.shape[2], channels))
        part = lax.dynamic_slice(cotangent, (image, row, zero, zero), (group, block, width, channels))
        return view.astype(dtype), part.astype(dtype)

    def add(turn: Array, state: tuple[list[Array], tuple[Array, Array]]) -> tuple[list[Array], tuple[Array, Array]]:
        totals, (view, part) = state
        added = []
        for (row_tap, column_tap), total in zip(window.taps, totals, strict=True):
            start = (row_tap * window.dilation[0], column_tap * window.dilation[1])
            shifted = crop(view, start, (block, width), window.strides)
            added.append(functools.reduce(lambda sum_, n: sum_ + shifted[n] * part[n], range(group), total))
        return added, cut(jnp.minimum(turn + 1, turns - 1))

    zeros = [jnp.zeros((block, width, channels), dtype)] * len(window.taps)
    totals, _ = lax.fori_loop(0, turns, add, (zeros, cut(jnp.zeros((), jnp.int32))))
    sums = jnp.stack([jnp.sum(total, axis=(0, 1)) for total in totals])
    return sums.reshape(*window.kernel_size, channels).astype(images.dtype)


def _split(values: Array, parts: int) -> Array:
    return values.reshape(parts, values.shape[0] // parts, *values.shape[1:])


def _in_parts(function: Function) -> Function:
    """A function of images and a kernel, on equal parts of the batch and kernels `[parts, height, width, channels]`."""

    def run(images: Array, kernels: Array, *, window: Window) -> Array:
        one = functools.partial(function, window=window)
        if window.parts == 1:
            return one(images, kernels[0])
        outputs = jax.vmap(one)(_split(images, window.parts), kernels)
        return outputs.reshape(images.shape[0], *outputs.shape[2:])

    return run


def _kernels_of_parts(function: Function) -> Function:
    """A function of images and cotangents to a kernel, on equal parts of the batch, to kernels `[parts, ...]`."""

    def run(images: Array, cotangent: Array, *, window: Window) -> Array:
        one = functools.partial(function, window=window)
        if window.parts == 1:
            return one(images, cotangent)[None]
        return jax.vmap(one)(_split(images, window.parts), _split(cotangent, window.parts))

    return run


def _shifted_kernel_gradient(images: Array, cotangent: Array, *, window: Window, shards: int) -> Array:
    """Where devices share the batch each sums its own, and only the sums meet."""
    batch = cotangent.shape[0]
    shares = math.gcd(batch, shards) if window.parts == 1 and isinstance(batch, int) else 1
    if shares <= 1:
        return _kernels_of_parts(_looped_kernel_gradient)(images, cotangent, window=window)
    each = jax.vmap(functools.partial(_looped_kernel_gradient, window=window))
    return jnp.sum(each(_split(images, shares), _split(cotangent, shares)), axis=0)[None]


def _images_like(size: Pair, images: Array, kernels: Array) -> Array:
    """A value of the shape, sharding and mesh axes of `images` at another `size`, convolved with `kernels`."""
    values = jnp.sum(images, axis=(1, 2)) + jnp.sum(kernels, axis=(0, 1, 2))
    return jnp.broadcast_to(values[:, None, None, :], (images.shape[0], *size, images.shape[-1]))


def _kernels_like(images: Array, cotangent: Array, *, window: Window) -> Array:
    values = jnp.sum(images, axis=(0, 1, 2)) + jnp.sum(cotangent, axis=(0, 1, 2))
    return jnp.broadcast_to(values, (window.parts, *window.kernel_size, *values.shape))


depthwise_conv_p = primitive(
    'depthwise_conv',
    lambda images, kernels, window: _images_like(window.output_size, images, kernels),
    _in_parts(_grouped),
    _in_parts(_shifted),
)
depthwise_conv_input_gradient_p = primitive(
    'depthwise_conv_input_gradient',
    lambda cotangent, kernels, window: _images_like(window.input_size, cotangent, kernels),
    _in_parts(_grouped_input_gradient),
    _in_parts(_shifted_input_gradient),
)
depthwise_conv_kernel_gradient_p = primitive(
    'depthwise_conv_kernel_gradient',
    _kernels_like,
    _kernels_of_parts(_grouped_kernel_gradient),
    _shifted_kernel_gradient,
    in_shards=True,
)

ad.defbilinear(
    depthwise_conv_p,
    lambda cotangent, images, kernel, window: depthwise_conv_input_gradient_p.bind(cotangent, kernel, window=window),
    lambda cotangent, images, kernel, window: depthwise_conv_kernel_gradient_p.bind(images, cotangent, window=window),
)
ad.defbilinear(
    depthwise_conv_input_gradient_p,
    lambda cotangent, outputs, kernel, window: depthwise_conv_p.bind(cotangent, kernel, window=window),
    lambda cotangent, outputs, kernel, window: depthwise_conv_kernel_gradient_p.bind(cotangent, outputs, window=window),
)
ad.defbilinear(
    depthwise_conv_kernel_gradient_p,
    lambda cotangent, images, outputs, window: depthwise_conv_input_gradient_p.bind(outputs, cotangent, window=window),
    lambda cotangent, images, outputs, window: depthwise_conv_p.bind(images, cotangent, window=window),
)


def _batch(primitive: Primitive, operands: Any, axes: Any, *, window: Window) -> tuple[Array, int]:
    """Mapped images alone fold into the batch; else every element of the map becomes a part."""
    size = next(operand.shape[axis] for operand, axis in zip(operands, axes, strict=True) if axis is not None)

    def fold(operand: Array, axis: int | None) -> Array:
        mapped = jnp.broadcast_to(operand, (size, *operand.shape)) if axis is None else jnp.moveaxis(operand, axis, 0)
        return mapped.reshape(mapped.shape[0] * mapped.shape[1], *mapped.shape[2:])

    if primitive is not depthwise_conv_kernel_gradient_p and axes[1] is None and window.parts == 1:
        output = primitive.bind(fold(operands[0], axes[0]), operands[1], window=window)
    else:
        parts = window._replace(parts=size * window.parts)
        output = primitive.bind(*map(fold, operands, axes), window=parts)
    return _split(output, size), 0


for _p in (depthwise_conv_p, depthwise_conv_input_gradient_p, depthwise_conv_kernel_gradient_p):
    batching.primitive_batchers[_p] = functools.partial(_batch, _p)
