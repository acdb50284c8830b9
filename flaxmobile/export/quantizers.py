"""A network trained for int8 as exporters want it: each rounding a composite that says its scale and zero point."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxmobile.export.ranges import can_be_added
from flaxmobile.quantization import float_network
from flaxmobile.quantization.network import float_variables, map_kernels, ranges_of, within
from flaxmobile.quantization.points import Points, Range, run
from flaxmobile.quantization.rounding import affine, fake_quantize, fake_quantize_kernel, weight_scale

COMPOSITE = 'quant.fake_quant'
"""What litert-converter takes for a rounding."""


class Marked(Points):
    """Marks each point, and keeps apart what is computed in float32."""

    def __init__(self, ranges: Mapping[str, np.ndarray]) -> None:
        self._ranges = ranges
        self._scales: dict[str, float] = {}

    def value(self, name: str, values: jax.Array, limits: Range) -> jax.Array:
        """The values within a composite."""
        scale, zero_point = affine(*within(self._ranges[name], limits))
        self._scales[name] = float(scale)
        return _marked(
            lambda values: fake_quantize(values, jnp.asarray(scale), jnp.asarray(zero_point)),
            values,
            scale=np.array([scale], np.float32),
            zero_point=np.array([zero_point], np.int64),
            narrow_range=False,
        )

    def apart(self, values: jax.Array) -> jax.Array:
        """Values behind a barrier, which no int8 operation is made across."""
        return jax.lax.optimization_barrier(values)

    def adds_in_float32(self, terms: tuple[str, ...], total: str) -> bool:
        """Where XNNPACK has no sum in int8."""
        return not can_be_added([self._scales[name] for name in terms], float(affine(*self._ranges[total])[0]))


def marked(module: nn.Module, variables: Any, images: jax.Array) -> Any:
    """What a network trained for int8 answers, each rounding of an activation or a kernel a composite.

    Args:
        module: the network, a `Quantized`.
        variables: its own, NumPy arrays.
        images: normalised, `[batch, height, width, channels]`.
    """
    with jax.ensure_compile_time_eval():
        ranges = {name: np.asarray(bounds) for name, bounds in ranges_of(variables).items()}
    network = float_variables(variables)
    network['params'] = map_kernels(_marked_kernel, network['params'])
    return run(float_network(module), network, images, Marked(ranges))


def _marked_kernel(kernel: np.ndarray) -> jax.Array:
    scale = weight_scale(kernel)
    return _marked(
        fake_quantize_kernel,
        jnp.asarray(kernel),
        scale=scale,
        zero_point=np.zeros(scale.size, np.int64),
        narrow_range=True,
        quantization_dimension=kernel.ndim - 1,
    )


def _marked(rounding: Any, values: jax.Array, **attributes: Any) -> jax.Array:
    @functools.partial(jax.lax.composite, name=COMPOSITE)
    def composite(values: jax.Array, **_: Any) -> jax.Array:
        return rounding(values)

    result: jax.Array = composite(values, dtype='i8', **attributes)
    return result


def rounding_of(params: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point, `[1]` or `[features]`, of such a composite's parameters in a traced program."""
    held = {name: leaves[0] for name, leaves, _ in params['attributes']}
    scale, zero_point = (held[name].val for name in ('scale', 'zero_point'))
    return scale, zero_point
