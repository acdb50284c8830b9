"""The fast path of inference: BatchNorm folded into the convolutions, parameters bound, compiled for the platform."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax

from flaxmobile.layers import fold_batch_norm
from flaxmobile.layers.folding import check_module, is_folded

CPU_OPTIONS = {
    'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE',
    'xla_cpu_prefer_vector_width': '512',
}
"""Eigen's products and convolutions, YNN's sums, and the machine's whole vectors; measured in `docs/performance.md`."""

PIXELS = 2 * 224 * 224
"""Pixels of the images that a CPU takes through the network at once, so that their maps stay in the cache."""


def forward(model: nn.Module, variables: Any, images: Array, *, platform: str | None) -> Array:
    """Logits as `model.apply` has them, in the form that is fast on `platform`; None where devices share the batch."""
    if not is_folded(variables):
        variables = fold_batch_norm(model, variables, images)

    def apply(part: Array) -> Any:
        return model.apply(variables, part)

    return _in_groups(apply, images) if platform == 'cpu' else apply(images)


def _in_groups(apply: Callable[[Array], Array], images: Array) -> Array:
    """A few images at a time, as two strands that the processor's threads can take apart; the last group is filled up.

    So a program holds the network twice at most, whatever the batch.
    """
    batch = images.shape[0]
    most = max(1, round(PIXELS / (images.shape[1] * images.shape[2])))
    if batch < 2 * most:
        return apply(images)
    groups = -(-batch // (2 * most))
    strand = -(-batch // (2 * groups))
    filled = jnp.pad(images, [(0, 2 * groups * strand - batch), (0, 0), (0, 0), (0, 0)])

    def both(group: Array) -> Array:
        return jnp.concatenate([apply(group[:strand]), apply(group[strand:])])

    outputs = lax.map(both, filled.reshape(groups, 2 * strand, *images.shape[1:]))
    return outputs.reshape(-1, *outputs.shape[2:])[:batch]


@functools.cache
def compiler_options(platform: str | None) -> dict[str, str] | None:
    """The `compiler_options` of `jax.jit` for inference on `platform`, without those that this XLA does not know."""
    if platform != 'cpu':
        return None
    return {name: value for name, value in CPU_OPTIONS.items() if is_known({name: value})}


def is_known(options: dict[str, str]) -> bool:
    """Whether this XLA takes these `compiler_options`."""
    try:
        jax.jit(jnp.negative, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def inference_function(model: nn.Module, variables: Any) -> Any:
    """The jitted function behind `compile_inference`, for images `[batch, height, width, channels]` of any size."""
    platform = jax.default_backend()
    return jax.jit(
        lambda images: forward(model, variables, images, platform=platform), compiler_options=compiler_options(platform)
    )


def compile_inference(
    model: nn.Module, variables: Any, *, batch_size: int, image_size: int = 224, channels: int = 3
) -> Callable[[Array], Array]:
    """Compile `model` for inference on JAX's default device.

    BatchNorm is folded, the variables are part of the program, and a CPU takes a few images at a time.

    Args:
        model: a network of this library, or any module that maps images to logits.
        variables: its variables.
        batch_size: images of a call.
        image_size: their height and width in pixels.
        channels: their channels.

    Returns:
        A function of normalised float32 images `[batch_size, image_size, image_size, channels]` that returns logits
        `[batch_size, classes]`; it raises a ValueError for anything else, and under `jit`, `vmap` or `grad`, which
        `model.apply` is for.

    Raises:
        TypeError: `model` is no Flax module.
        ValueError: a size is not 1 or more; the variables are not all there.
    """
    check_module(model)
    for name, value in (('batch_size', batch_size), ('image_size', image_size), ('channels', channels)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f'{name} is {value!r}: it has to be a whole number, 1 or more')
    logits, shape = inference_function(model, variables), (batch_size, image_size, image_size, channels)
    logits(jnp.zeros(shape, jnp.float32))

    def infer(images: Array) -> Array:
        if isinstance(images, jax.core.Tracer):
            raise ValueError('this program is compiled already: use model.apply under jit, vmap and grad')
        if not isinstance(images, jax.Array | np.ndarray):
            raise ValueError(f'compiled for images float32{list(shape)}, was given a {type(images).__name__}')
        if images.shape != shape or images.dtype != jnp.float32:
            raise ValueError(f'compiled for images float32{list(shape)}, was given {images.dtype}{list(images.shape)}')
        return logits(images)

    return infer
