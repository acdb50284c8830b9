"""Convolutions over `[batch, height, width, channels]`."""

import jax.numpy as jnp
from jax import Array

from flaxmobile.ops.dense import conv_of_few_channels, fits_conv_of_few_channels, product
from flaxmobile.ops.depthwise import depthwise_conv_p
from flaxmobile.ops.padding import Padding, Pair, padding_pairs, pair
from flaxmobile.ops.primitives import Window, convolve, vary_alike
from flaxmobile.ops.shifted import accumulator


def conv(
    images: Array,
    kernel: Array,
    *,
    strides: int | Pair = 1,
    padding: Padding = 'same',
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Array:
    """Ordinary convolution.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel height, kernel width, channels / groups, features]`, of the dtype of the images.
        strides: in pixels, one number or (height, width).
        padding: 'same', 'symmetric', 'bottom_right' or pairs, see `padding_pairs`.
        dilation: distance in pixels between the kernel's taps.
        groups: parts of the channels and features that see only each other.

    Returns:
        `[batch, output height, output width, features]`.

    Raises:
        ValueError: the kernel is empty, of another rank or dtype, or for other channels; strides, dilation or padding
            are none of these.
    """
    fits = kernel.ndim == images.ndim == 4 and kernel.shape[2] * groups == images.shape[-1]
    _check('conv', images, kernel, fits, '[height, width, channels / groups, features]')
    window = _window(images, kernel, strides, padding, dilation)
    if groups == 1 and fits_conv_of_few_channels(kernel) and jnp.issubdtype(images.dtype, jnp.floating):
        return conv_of_few_channels(images, kernel, window)
    return convolve(images, kernel, window=window, groups=groups)


def _check(name: str, images: Array, kernel: Array, fits: bool, wanted: str) -> None:
    if not fits or kernel.dtype != images.dtype or 0 in kernel.shape:
        raise ValueError(
            f'{name}: a kernel {kernel.dtype}{list(kernel.shape)} does not fit images '
            f'{images.dtype}{list(images.shape)}: {wanted} of the same dtype does, none of them 0'
        )


def _window(images: Array, kernel: Array, strides: int | Pair, padding: Padding, dilation: int | Pair) -> Window:
    strides, dilation = pair('strides', strides), pair('dilation', dilation)
    input_size, kernel_size = images.shape[1:3], kernel.shape[:2]
    return Window(
        input_size, kernel_size, strides, padding_pairs(padding, input_size, kernel_size, strides, dilation), dilation
    )


def depthwise_conv(
    images: Array, kernel: Array, *, strides: int | Pair = 1, padding: Padding = 'same', dilation: int | Pair = 1
) -> Array:
    """Depthwise convolution: each channel by filters of its own (`feature_group_count` equal to the channels).

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[kernel height, kernel width, 1, channels * depth multiplier]`; features `c * m` to `c * m + m - 1` see
            channel `c`.
        strides: in pixels, one number or (height, width).
        padding: 'same', 'symmetric', 'bottom_right' or pairs, see `padding_pairs`.
        dilation: distance in pixels between the kernel's taps.

    Returns:
        `[batch, output height, output width, channels * depth multiplier]`.

    Raises:
        ValueError: the images are no floats; the kernel is empty, of another rank or dtype, or its features are no
            multiple of the channels; strides, dilation or padding are none of these.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f'depthwise_conv: images are floats, was given {images.dtype}')
    fits = kernel.ndim == images.ndim == 4 and kernel.shape[2] == 1 and kernel.shape[-1] % max(1, images.shape[-1]) == 0
    _check('depthwise_conv', images, kernel, fits, '[height, width, 1, channels * multiplier]')
    window = _window(images, kernel, strides, padding, dilation)
    dtype, multiplier = images.dtype, kernel.shape[-1] // images.shape[-1]
    if multiplier > 1:  # A gradient by the images adds up the features of a channel: rounded after the sum.
        images, kernel = (values.astype(accumulator(values)) for values in (images, kernel))
        images = jnp.repeat(images, multiplier, axis=-1)
    images, kernel = vary_alike(images, kernel[None, :, :, 0, :])
    return depthwise_conv_p.bind(images, kernel, window=window).astype(dtype)


def pointwise_conv(images: Array, kernel: Array, *, strides: int | Pair = 1) -> Array:
    """Pointwise (1x1) convolution: a matrix product, on a TPU XLA's own convolution.

    Args:
        images: `[batch, height, width, channels]`.
        kernel: `[1, 1, channels, features]`, of the dtype of the images.
        strides: in pixels, one number or (height, width).

    Returns:
        `[batch, ceil(height / stride), ceil(width / stride), features]`.

    Raises:
        ValueError: the kernel is empty, of another shape or dtype; the strides are none of these.
    """
    fits = kernel.ndim == images.ndim == 4 and kernel.shape[:3] == (1, 1, images.shape[-1])
    _check('pointwise_conv', images, kernel, fits, '[1, 1, channels, features]')
    rows, columns = pair('strides', strides)
    return product(images[:, ::rows, ::columns, :], kernel[0, 0])
