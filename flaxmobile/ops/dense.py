"""Pointwise and few-channel convolution as bilinear primitives.

A pointwise convolution is a matrix product, but on a TPU, where XLA lays out images for convolutions and would copy
them to and fro for a product: a training step of MobileNetV2 would move 1.7 times the bytes.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.interpreters import ad, batching
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from flaxmobile.ops.padding import Pair
from flaxmobile.ops.primitives import STANDARD, Window, convolve, primitive, transpose, vary_alike
from flaxmobile.ops.shifted import accumulator, sum_over_taps


def _product(values: Array, kernel: Array) -> Array:
    return lax.dot_general(values, kernel, (((values.ndim - 1,), (0,)), ((), ())))


def product(values: Array, kernel: Array) -> Array:
    """`[..., channels]` times `[channels, features]`."""
    return product_p.bind(*vary_alike(values, kernel))


def _product_kernel_gradient(values: Array, cotangent: Array, *, sharding: NamedSharding | None) -> Array:
    """`[..., channels]` and `[..., features]` to `[channels, features]`, of the kernel's `sharding`.

    The narrower operand is the left side, which is transposed: the other way is up to four times slower on a CPU.
    One channel or feature is no product, because a CPU would add up its terms one by one, and round after each.
    """
    left, right = values.reshape(-1, values.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    if 1 in (left.shape[-1], right.shape[-1]):
        terms = left.astype(accumulator(left)) * right.astype(accumulator(right))
        return jnp.sum(terms, axis=0).reshape(left.shape[-1], right.shape[-1]).astype(values.dtype)
    channels, features = sharding.spec if sharding and sharding.spec else (None, None)

    def product(left: Array, right: Array, *spec: Any) -> Array:
        out = sharding.update(spec=P(*spec)) if sharding else None
        return lax.dot_general(left, right, (((0,), (0,)), ((), ())), out_sharding=out)

    if left.shape[-1] <= right.shape[-1]:
        return product(left, right, channels, features)
    return product(right, left, features, channels).T


def _local_kernel_gradient(values: Array, cotangent: Array, *, sharding: NamedSharding) -> Array:
    return _product_kernel_gradient(values, cotangent, sharding=None)


def _pointwise(values: Array, kernel: Array) -> Array:
    """The product as a convolution of `[batch, height, width, channels]`; a product where it is of another rank."""
    if values.ndim != 4:
        return _product(values, kernel)
    window = Window(values.shape[1:3], (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1))
    return convolve(values, kernel[None, None], window=window)


def _pointwise_kernel_gradient(values: Array, cotangent: Array, *, sharding: NamedSharding) -> Array:
    kernel = jax.ShapeDtypeStruct((values.shape[-1], cotangent.shape[-1]), values.dtype)
    return transpose(functools.partial(_pointwise, values), kernel, cotangent)


product_p = primitive('pointwise_product', _product, _product, _product, tpu=_pointwise)
# Converters know a convolution where they would meet a product of images.
STANDARD[product_p] = _pointwise
product_kernel_gradient_p = primitive(
    'pointwise_product_kernel_gradient',
    _product_kernel_gradient,
    _local_kernel_gradient,
    _local_kernel_gradient,
    tpu=_pointwise_kernel_gradient,
)


def _kernel_gradient(values: Array, cotangent: Array, sharding: NamedSharding) -> Array:
    return product_kernel_gradient_p.bind(*vary_alike(values, cotangent), sharding=sharding)


ad.defbilinear(
    product_p,
    lambda cotangent, values, kernel: product(cotangent, kernel.T),
    lambda cotangent, values, kernel: _kernel_gradient(values, cotangent, kernel.aval.sharding),
)
ad.defbilinear(
    product_kernel_gradient_p,
    lambda cotangent, values, features, sharding: product(features, cotangent.T),
    lambda cotangent, values, features, sharding: product(values, cotangent),
)


def _batch_product(operands: Any, axes: Any) -> tuple[Array, int]:
    if axes[1] is None:
        return product_p.bind(jnp.moveaxis(operands[0], axes[0], 0), operands[1]), 0
    return jax.vmap(_product, in_axes=axes)(*operands), 0


batching.primitive_batchers[product_p] = _batch_product


def _batch_kernel_gradient(operands: Any, axes: Any, *, sharding: NamedSharding) -> tuple[Array, int]:
    return jax.vmap(functools.partial(_product_kernel_gradient, sharding=sharding), in_axes=axes)(*operands), 0


batching.primitive_batchers[product_kernel_gradient_p] = _batch_kernel_gradient


def fits_conv_of_few_channels(kernel: Array) -> bool:
    """Whether `[height, width, channels, features]` has so few weights a feature that all terms are written out."""
    return kernel.shape[0] * kernel.shape[1] * kernel.shape[2] <= 36


def conv_of_few_channels(images: Array, kernel: Array, window: Window) -> Array:
    """An ordinary convolution; see `fits_conv_of_few_channels`."""
    return conv_p.bind(*vary_alike(images, kernel), window=window)


def _shifted(images: Array, kernel: Array, *, window: Window) -> Array:
    def term(view: Array, tap: Pair) -> Array:
        weights = kernel[tap].astype(view.dtype)
        return functools.reduce(jnp.add, [view[..., c : c + 1] * weights[c] for c in range(len(weights))])

    return sum_over_taps(images, kernel.shape[-1], window, term)


def _like(images: Array, kernel: Array, *, window: Window) -> Array:
    """A value of the type that the result has: the shape, sharding and mesh axes."""
    values = jnp.sum(images, axis=(1, 2, 3))[:, None] + jnp.sum(kernel, axis=(0, 1, 2))
    return jnp.broadcast_to(values[:, None, None, :], (images.shape[0], *window.output_size, kernel.shape[-1]))


conv_p = primitive('conv_of_few_channels', _like, convolve, _shifted)


ad.defbilinear(
    conv_p,
    lambda cotangent, images, kernel, window: transpose(
        lambda images: convolve(images, kernel, window=window), images.aval, cotangent
    ),
    lambda cotangent, images, kernel, window: transpose(
        lambda kernel: convolve(images, kernel, window=window), kernel.aval, cotangent
    ),
)


def _batch_conv(operands: Any, axes: Any, *, window: Window) -> tuple[Array, int]:
    if axes[1] is None:
        images = jnp.moveaxis(operands[0], axes[0], 0)
        output = conv_p.bind(images.reshape(-1, *images.shape[2:]), operands[1], window=window)
        return output.reshape(images.shape[:2] + output.shape[1:]), 0
    return jax.vmap(functools.partial(convolve, window=window), in_axes=axes)(*operands), 0


batching.primitive_batchers[conv_p] = _batch_conv
