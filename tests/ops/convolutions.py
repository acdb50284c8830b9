"""The kinds of convolution that are primitives here, XLA's own for each, and how far one is from the other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxmobile import ops


@dataclasses.dataclass(frozen=True)
class Kind:
    """Ours, and what the shape of its kernel follows from."""

    ours: object
    depthwise: bool = False

    def reference(self, images, kernel, *, strides=1, padding=((0, 0), (0, 0)), dilation=1):
        return lax.conv_general_dilated(
            images,
            kernel,
            both_axes(strides),
            padding,
            rhs_dilation=both_axes(dilation),
            feature_group_count=images.shape[-1] if self.depthwise else 1,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )


def both_axes(value):
    return (value, value) if isinstance(value, int) else value


KINDS = {
    'depthwise': Kind(ops.depthwise_conv, depthwise=True),
    'pointwise': Kind(ops.pointwise_conv),
    'few channels': Kind(ops.conv),
    'many channels': Kind(ops.conv),
}

PADDED = {'strides': 2, 'padding': ((1, 1), (1, 1))}
EXAMPLES = {
    'depthwise': ((3, 3, 1, 3), PADDED),
    'pointwise': ((1, 1, 3, 4), {'strides': 2}),
    'few channels': ((3, 3, 3, 4), PADDED),
}
"""A kernel for images of three channels and a window for each primitive."""


def example(name):
    """Our convolution and XLA's as functions of images of three channels and a kernel, and the kernel's shape."""
    kind, (shape, window) = KINDS[name], EXAMPLES[name]
    return functools.partial(kind.ours, **window), functools.partial(kind.reference, **window), shape


def waves(convolve):
    """A number that depends on every output, and whose derivatives of every order do."""
    return lambda images, kernel: jnp.sum(jnp.sin(convolve(images, kernel)))


def with_gradients(convolve):
    """Output and both gradients as a function of images, kernel and cotangent."""

    def function(images, kernel, cotangent):
        output, transpose = jax.vjp(convolve, images, kernel)
        return output, *transpose(cotangent)

    return jax.jit(function)


def relative(got, want):
    """The largest difference over the largest value."""
    assert got.shape == want.shape
    difference = np.max(np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64)), initial=0)
    return difference and difference / np.max(np.abs(want), initial=0)


def assert_close(got, want, limit):
    """Trees of arrays no further apart than `limit`, see `relative`."""
    got, want = jax.tree.leaves(got), jax.tree.leaves(want)
    assert len(got) == len(want)
    for value, reference in zip(got, want, strict=True):
        assert relative(value, reference) <= limit
