"""Depthwise convolution as three bilinear primitives, each the transpose of the others.

One meaning, a lowering per platform: on a CPU shifted multiply-adds, which XLA fuses into one vectorised loop over the
channels; elsewhere XLA's own grouped convolution. The choice is made when a program is lowered, so one traced program
serves every platform.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from flaxmobile.ops.padding import PaddingPairs, Pair, Size, output_size


class Window(NamedTuple):
    """The static side of a depthwise convolution; all in pixels, height before width."""

    input_size: Size
    kernel_size: Size
    strides: Pair
    padding: PaddingPairs
    dilation: Pair

    @property
    def output_size(self) -> Pair:
        """Height and width of the output."""
        return output_size(self.input_size, self.kernel_size, self.strides, self.padding, self.dilation)

    @property
    def taps(self) -> list[Pair]:
        """Every place in the kernel."""
        return [(row, column) for row in range(self.kernel_size[0]) for column in range(self.kernel_size[1])]


def vary_alike(*operands: Array) -> list[Array]:
    """Inside `shard_map`, cast each operand to vary over every mesh axis that any of them varies over."""
    axes = [_varying_axes(operand) for operand in operands]
    every = frozenset().union(*axes)
    return [
        lax.pcast(operand, tuple(every - own), to='varying') if every - own else operand
        for operand, own in zip(operands, axes, strict=True)
    ]


def _varying_axes(operand: Array) -> frozenset[str]:
    aval = jax.typeof(operand)
    return aval.mat.varying if hasattr(aval, 'mat') else aval.vma  # jax 0.10 renamed it


def _grouped(images: Array, kernel: Array, *, window: Window) -> Array:
    return lax.conv_general_dilated(
        images,
        kernel[:, :, None, :],
        window_strides=window.strides,
        padding=window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=kernel.shape[-1],
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


def _grouped_input_gradient(cotangent: Array, kernel: Array, *, window: Window) -> Array:
    shape = (cotangent.shape[0], *window.input_size, cotangent.shape[-1])
    images = jax.ShapeDtypeStruct(shape, cotangent.dtype)
    return jax.linear_transpose(lambda images: _grouped(images, kernel, window=window), images)(cotangent)[0]


def _grouped_kernel_gradient(images: Array, cotangent: Array, *, window: Window) -> Array:
    kernel = jax.ShapeDtypeStruct((*window.kernel_size, images.shape[-1]), images.dtype)
    return jax.linear_transpose(lambda kernel: _grouped(images, kernel, window=window), kernel)(cotangent)[0]


def _pad(images: Array, padding: PaddingPairs) -> Array:
    return lax.pad(images, jnp.zeros((), images.dtype), ((0, 0, 0), (*padding[0], 0), (*padding[1], 0), (0, 0, 0)))


def _crop(images: Array, start: Size, size: Size, strides: Pair = (1, 1)) -> Array:
    """`size` positions from `start`, `strides` apart, of the two spatial axes."""
    stop = [first + (count - 1) * stride + 1 for first, count, stride in zip(start, size, strides, strict=True)]
    return lax.slice(images, (0, *start, 0), (images.shape[0], *stop, images.shape[-1]), (1, *strides, 1))


def _accumulator(images: Array) -> Any:
    return jnp.promote_types(images.dtype, jnp.float32)


def _shifted(images: Array, kernel: Array, *, window: Window) -> Array:
    """Sum over the kernel's taps of the shifted images times that tap's weights."""
    dtype = _accumulator(images)
    total = jnp.zeros((images.shape[0], *window.output_size, images.shape[-1]), dtype)
    if 0 in total.shape:
        return total.astype(images.dtype)
    padded = _pad(images, window.padding)
    for row, column in window.taps:
        start = (row * window.dilation[0], column * window.dilation[1])
        view = _crop(padded, start, window.output_size, window.strides)
        total = total + view.astype(dtype) * kernel[row, column].astype(dtype)
    return total.astype(images.dtype)


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
    dtype = _accumulator(cotangent)
    rows, columns = _Axis.of(window, 0), _Axis.of(window, 1)
    padded = _pad(cotangent, (rows.pad, columns.pad))
    batch, channels = cotangent.shape[0], cotangent.shape[-1]

    def phase(row_phase: int, column_phase: int) -> Array:
        total = jnp.zeros((batch, rows.length, columns.length, channels), dtype)
        for row, top in rows.offsets(window.kernel_size[0], row_phase):
            for column, left in columns.offsets(window.kernel_size[1], column_phase):
                view = _crop(padded, (top, left), (rows.length, columns.length))
                total = total + view.astype(dtype) * kernel[row, column].astype(dtype)
        return total.astype(cotangent.dtype)

    if window.strides == (1, 1):
        return phase(0, 0)
    phases = [jnp.stack([phase(row, column) for column in range(columns.stride)], axis=3) for row in range(rows.stride)]
    size = (rows.length * rows.stride, columns.length * columns.stride)
    interleaved = jnp.stack(phases, axis=2).reshape(batch, *size, channels)
    return _crop(interleaved, (rows.crop, columns.crop), window.input_size)


def _largest_divisor(number: int, limit: int) -> int:
    if not isinstance(number, int):  # A symbolic size, in `jax.export`.
        return 1
    return next(divisor for divisor in range(max(1, min(number, limit)), 0, -1) if number % divisor == 0)


def _shifted_kernel_gradient(images: Array, cotangent: Array, *, window: Window) -> Array:
    """A loop over groups of images and blocks of rows.

    Each turn adds `image * cotangent` of a group, image by image, to one accumulator a tap, small enough for the cache;
    XLA's own reduction over all but the channels is several times slower.
    """
    dtype = _accumulator(images)
    batch, height, width, channels = cotangent.shape
    if 0 in cotangent.shape:
        return jnp.zeros((*window.kernel_size, channels), images.dtype)
    group = _largest_divisor(batch, 8)
    block = _largest_divisor(height, max(1, 2**15 // max(1, width * channels)))
    padded = _pad(images, window.padding)
    span = (block - 1) * window.strides[0] + (window.kernel_size[0] - 1) * window.dilation[0] + 1

    def add(turn: Array, totals: list[Array]) -> list[Array]:
        image, row = turn // (height // block) * group, turn % (height // block) * block
        zero = jnp.zeros_like(turn)
        view = lax.dynamic_slice(
            padded, (image, row * window.strides[0], zero, zero), (group, span, padded.shape[2], channels)
        ).astype(dtype)
        part = lax.dynamic_slice(cotangent, (image, row, zero, zero), (group, block, width, channels)).astype(dtype)
        added = []
        for (row_tap, column_tap), total in zip(window.taps, totals, strict=True):
            start = (row_tap * window.dilation[0], column_tap * window.dilation[1])
            shifted = _crop(view, start, (block, width), window.strides)
            added.append(functools.reduce(lambda sum_, n: sum_ + shifted[n] * part[n], range(group), total))
        return added

    zeros = [jnp.zeros((block, width, channels), dtype)] * len(window.taps)
    totals = lax.fori_loop(0, batch // group * (height // block), add, zeros)
    sums = jnp.stack([jnp.sum(total, axis=(0, 1)) for total in totals])
    return sums.reshape(*window.kernel_size, channels).astype(images.dtype)


def _images_like(size: Pair, images: Array, kernel: Array) -> Array:
    """A value of the shape, sharding and mesh axes of `images` at another `size`, convolved with `kernel`."""
    values = jnp.sum(images, axis=(1, 2)) + jnp.sum(kernel, axis=(0, 1))
    return jnp.broadcast_to(values[:, None, None, :], (images.shape[0], *size, images.shape[-1]))


def _kernel_like(images: Array, cotangent: Array, *, window: Window) -> Array:
    values = jnp.sum(images, axis=(0, 1, 2)) + jnp.sum(cotangent, axis=(0, 1, 2))
    return jnp.broadcast_to(values, (*window.kernel_size, *values.shape))


def _primitive(
    name: str, like: Callable[..., Array], native: Callable[..., Array], shifted: Callable[..., Array]
) -> Primitive:
    """A primitive whose result has the type of `like`'s, lowered as `shifted` on a CPU and as `native` elsewhere."""
    primitive = Primitive(name)

    @functools.lru_cache(maxsize=256)
    def compiled(window: Window) -> Callable[..., Array]:
        return jax.jit(functools.partial(primitive.bind, window=window))

    primitive.def_impl(lambda *operands, window: compiled(window)(*operands))
    primitive.def_abstract_eval(
        lambda *operands, window: jax.make_jaxpr(functools.partial(like, window=window))(*operands).out_avals[0]
    )
    mlir.register_lowering(primitive, _lower_unsharded(native))
    mlir.register_lowering(primitive, _lower_unsharded(shifted), platform='cpu')
    return primitive


def _lower_unsharded(function: Callable[..., Array]) -> Any:
    """Lower `function` as if its operands carried no sharding, which the compiler then gives it."""
    lower = mlir.lower_fun(function, multiple_results=False)

    def lowering(context: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        avals = [jax.core.ShapedArray(aval.shape, aval.dtype) for aval in cast(Any, context.avals_in)]
        return lower(context.replace(avals_in=avals), *operands, **params)

    return lowering


depthwise_conv_p = _primitive(
    'depthwise_conv',
    lambda images, kernel, window: _images_like(window.output_size, images, kernel),
    _grouped,
    _shifted,
)
depthwise_conv_input_gradient_p = _primitive(
    'depthwise_conv_input_gradient',
    lambda cotangent, kernel, window: _images_like(window.input_size, cotangent, kernel),
    _grouped_input_gradient,
    _shifted_input_gradient,
)
depthwise_conv_kernel_gradient_p = _primitive(
    'depthwise_conv_kernel_gradient', _kernel_like, _grouped_kernel_gradient, _shifted_kernel_gradient
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


def _into_channels(operand: Array, axis: int | None, size: int) -> Array:
    """[..., channels] with a mapped axis (or none: repeated) to [..., size * channels]."""
    mapped = (
        jnp.broadcast_to(operand[..., None, :], (*operand.shape[:-1], size, operand.shape[-1]))
        if axis is None
        else jnp.moveaxis(operand, axis, -2)
    )
    return mapped.reshape(*mapped.shape[:-2], size * mapped.shape[-1])


def _batch(primitive: Primitive, operands: Any, axes: Any, *, window: Window) -> tuple[Array, int]:
    """Mapped images alone fold into the batch; anything else folds into the channels."""
    size = next(operand.shape[axis] for operand, axis in zip(operands, axes, strict=True) if axis is not None)
    if primitive is not depthwise_conv_kernel_gradient_p and axes[1] is None:
        images = jnp.moveaxis(operands[0], axes[0], 0)
        output = primitive.bind(images.reshape(-1, *images.shape[2:]), operands[1], window=window)
        return output.reshape(size, images.shape[1], *output.shape[1:]), 0
    folded = [_into_channels(operand, axis, size) for operand, axis in zip(operands, axes, strict=True)]
    output = primitive.bind(*folded, window=window)
    return output.reshape(*output.shape[:-1], size, output.shape[-1] // size), output.ndim - 1


for _p in (depthwise_conv_p, depthwise_conv_input_gradient_p, depthwise_conv_kernel_gradient_p):
    batching.primitive_batchers[_p] = functools.partial(_batch, _p)
