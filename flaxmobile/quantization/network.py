"""A network that rounds its weights and activations as an int8 file does, with ranges that are learnt."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array, lax

from flaxmobile.layers import fold_batch_norm
from flaxmobile.quantization.points import Points, Range, run
from flaxmobile.quantization.rounding import affine, fake_quantize, fake_quantize_kernel, weight_scale

RANGES, EXTREMES = 'ranges', 'extremes'
"""The collection that holds the extremes found on images, and among the parameters what is learnt of the ranges."""
SPEED = 100.0
"""How much faster than weights ranges are learnt, where every parameter moves by the learning rate (AdamW)."""


class Quantized(nn.Module):
    """A network of this library in evaluation, BatchNorm folded, that computes as its int8 file does.

    Variables are the network's own, folded, and of each point (`points.py`) its range: under `ranges/extremes` those
    found on images, `[2]`, and under `params/ranges` what is learnt, `[]`. The range is `extremes * exp(SPEED *
    learnt)`. `quantized_variables` makes them of a trained network's; `init` draws a network whose ranges
    are all from -1 to 1. Without dropout, stochastic depth and running statistics, training and evaluation are the
    same.

    Attributes:
        network: a float network with BatchNorm.

    Raises:
        ValueError: a network with another norm, which cannot be folded.
    """

    network: nn.Module

    def __post_init__(self) -> None:
        norm = getattr(self.network, 'norm', 'batch')
        if norm != 'batch':
            raise ValueError(
                f'a {type(self.network).__name__} cannot be trained for int8: its norm is {norm!r}, and BatchNorm '
                'alone can be folded into convolutions'
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """What the int8 file answers to normalised images `[batch, height, width, channels]`, `[batch, classes]`."""
        if self.is_initializing():
            self._create(images)
        variables = dict(self.variables)
        points = Simulated(ranges_of(variables))
        return run(self._unbound, rounded(float_variables(variables)), images, points)

    @property
    def num_classes(self) -> int:
        """How many classes the network tells apart."""
        count: int = getattr(self.network, 'num_classes', 0)
        return count

    @property
    def _unbound(self) -> nn.Module:
        return self.network.clone(parent=None, name=None)

    def _create(self, images: Array) -> None:
        drawn = self._unbound.init(self.make_rng('params'), images)
        folded = fold_batch_norm(self._unbound, drawn, images)
        found = observed(self._unbound, folded, images)
        unit = {name: jnp.array([-1.0, 1.0]) for name in found}
        for kind, variables in with_ranges(folded, unit).items():
            for name, value in variables.items():
                self.variable(kind, name, lambda value=value: value)


class Simulated(Points):
    """Rounds as int8 does."""

    def __init__(self, ranges: Mapping[str, Array]) -> None:
        self._ranges = ranges
        self._scales: dict[str, Array] = {}

    def value(self, name: str, values: Array, limits: Range) -> Array:
        """To the int8 numbers of its range."""
        self._scales[name], zero_point = affine(*within(self._ranges[name], limits, jnp), jnp)
        return fake_quantize(values, self._scales[name], zero_point)

    def biased(self, values: Array, bias: Array, kernel: Array, given: str) -> Array:
        """The bias in steps of the input's scale times the weights', as an int32 has it."""
        scale = self._scales[given] * weight_scale(kernel, jnp)
        return values + lax.stop_gradient(jnp.round(bias / scale) * scale - bias)


class Observed(Points):
    """Keeps the extremes of all points, float32 `[2]`."""

    def __init__(self) -> None:
        self.extremes: dict[str, Array] = {}

    def value(self, name: str, values: Array, limits: Range) -> Array:
        """As it is."""
        self.extremes[name] = jnp.stack([values.min(), values.max()]).astype(jnp.float32)
        return values


def float_network(module: nn.Module) -> nn.Module:
    """The network that a `Quantized` trains for int8; any other as it is."""
    return module.network if isinstance(module, Quantized) else module


def float_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a `Quantized` that its network has."""
    own = {kind: dict(values) for kind, values in variables.items() if kind != RANGES}
    own['params'].pop(RANGES)
    return own


def rounded(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a network with every kernel rounded to int8 numbers."""
    return {**variables, 'params': map_kernels(fake_quantize_kernel, variables['params'])}


def map_kernels(function: Any, params: Any) -> Any:
    """Parameters with a function of each kernel in place of it."""
    return unflatten_dict(
        {path: function(leaf) if path[-1] == 'kernel' else leaf for path, leaf in flatten_dict(params).items()}
    )


def ranges_of(variables: Mapping[str, Any]) -> dict[str, Array]:
    """The range of each point, float32 `[2]`."""
    extremes, learnt = (flatten_dict(each[RANGES], sep='/') for each in (variables, variables['params']))
    return {name: extremes[f'{EXTREMES}/{name}'] * jnp.exp(SPEED * value) for name, value in learnt.items()}


def within(bounds: Any, limits: Range, numpy: Any = np) -> tuple[Any, Any]:
    """A range, no wider than its limits."""
    return numpy.maximum(bounds[0], limits[0]), numpy.minimum(bounds[1], limits[1])


def observed(network: nn.Module, variables: Any, images: Array) -> dict[str, Array]:
    """The extremes over images of what comes to each point of a float network, BatchNorm folded, float32 `[2]`."""
    points = Observed()
    run(network, variables, images, points)
    return points.extremes


def with_ranges(folded: Mapping[str, Any], extremes: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of a `Quantized`, of its network's and the extremes of its points."""
    learnt = unflatten_dict({name: jnp.zeros(()) for name in extremes}, sep='/')
    return {
        **folded,
        'params': {**folded['params'], RANGES: learnt},
        RANGES: {EXTREMES: unflatten_dict(dict(extremes), sep='/')},
    }


def quantized_variables(network: nn.Module, variables: Any, batches: Iterable[Array]) -> dict[str, Any]:
    """The variables with which `Quantized(network)` begins: folded, each range that of the images.

    Args:
        network: the float network.
        variables: its trained ones.
        batches: images to find the ranges on, normalised, `[batch, height, width, channels]`.

    Raises:
        ValueError: there are no images, or a point has values that are not finite.
    """
    folded: Any = None
    extremes: dict[str, np.ndarray] = {}
    step = jax.jit(partial(observed, network))
    for images in batches:
        if folded is None:
            folded = jax.jit(partial(fold_batch_norm, network))(variables, images)
        for name, found in jax.device_get(step(folded, images)).items():
            if not np.isfinite(found).all():
                raise ValueError(f'{name} has values that are not finite, so it has no range')
            before = extremes.get(name, found)
            extremes[name] = np.array([min(before[0], found[0]), max(before[1], found[1])])
    if folded is None:
        raise ValueError('there are no images to find ranges on')
    return with_ranges(folded, extremes)
