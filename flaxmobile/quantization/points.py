"""Where a network's values become int8: what convolutions, dense layers, sums and gates are given, and what they make.

The points of a layer are named by its path in the parameters: `block_03/depthwise/output`.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jax import Array

from flaxmobile.layers import Conv, ConvNorm, Dense, Gate, Residual
from flaxmobile.layers.basic import FOLDED

Range = tuple[float, float]
"""Least and greatest value."""
ANY: Range = (-math.inf, math.inf)
FUSED = {'linear': ANY, 'relu': (0.0, math.inf), 'relu6': (0.0, 6.0)}
"""Activations that int8 convolutions have in them, and what they answer at most. Others are computed in float32."""


class Points:
    """What is done at the points; here nothing."""

    def value(self, name: str, values: Array, limits: Range) -> Array:
        """The values that go on from a point.

        Args:
            name: of the point.
            values: what is computed there.
            limits: what it can be at most.
        """
        return values

    def biased(self, values: Array, bias: Array, kernel: Array, given: str) -> Array:
        """The outputs of a layer by what becomes of its bias.

        Args:
            values: with the bias as it is, `[..., features]`.
            bias: `[features]`.
            kernel: of the layer, `[..., features]`.
            given: the point that the layer's input comes from.
        """
        return values

    def apart(self, values: Array) -> Array:
        """Values at an edge of what is computed in float32."""
        return values

    def adds_in_float32(self, terms: tuple[str, ...], total: str) -> bool:
        """Whether the sum of the values of two points is computed in float32."""
        return False


def run(network: nn.Module, variables: Any, images: Array, points: Points, method: str = '__call__') -> Any:
    """What a network answers to `images`, `[batch, height, width, channels]`, in evaluation, point by point.

    Args:
        network: of this library's layers.
        variables: its own, with BatchNorm folded: `layers.fold_batch_norm`.
        images: normalised.
        points: what is done at them.
        method: of the network.
    """
    with nn.intercept_methods(_Layers(points)):
        return network.apply(variables, images, method=method)


class _Layers:
    """Calls `points` around the layers. A value that comes from a point has no other where it is used."""

    def __init__(self, points: Points) -> None:
        self._points = points
        self._made: dict[int, tuple[Array, Array, str]] = {}  # A value is kept, so that its number stays its own.
        self._given: dict[str, str] = {}

    def __call__(self, call: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any], context: Any) -> Any:
        layer, method = context.module, context.method_name
        if method == 'activate' and isinstance(layer, Conv | ConvNorm) and not isinstance(layer.parent, ConvNorm):
            return self._activated(layer, call, *given)
        if method == 'flatten' and id(given[0]) in self._made:
            return self._known(call(*given), self._made[id(given[0])][2])
        if method != '__call__' or not isinstance(layer, Conv | Dense | Residual | Gate):
            return call(*given, **named)
        path = '/'.join(layer.path[:-1] if isinstance(layer.parent, ConvNorm) else layer.path)
        inputs = [self._input(f'{path}/{name}', each) for name, each in zip(('input', 'other'), given, strict=False)]
        self._given[path] = self._made[id(inputs[0])][2]
        if isinstance(layer, Conv):  # Its point is behind the activation.
            return call(*inputs, **named)
        outputs = self._computed(layer, call, inputs, f'{path}/output')
        return self._at(f'{path}/output', self._biased(layer, path, outputs), ANY)

    def _activated(self, layer: Any, call: Callable[..., Any], values: Array) -> Array:
        path, limits = '/'.join(layer.path), FUSED.get(layer.activation)
        values = self._biased(layer, path, values)
        if limits is not None:
            return self._at(f'{path}/output', call(values), limits)
        values = self._points.apart(self._at(f'{path}/linear', values, ANY))
        return self._at(f'{path}/output', self._points.apart(call(values)), ANY)

    def _biased(self, layer: Any, path: str, values: Array) -> Array:
        own = layer.variables.get('params', {})
        own = next((own[name] for name in (FOLDED, 'conv') if name in own), own)
        return self._points.biased(values, own['bias'], own['kernel'], self._given[path]) if 'bias' in own else values

    def _computed(self, layer: Any, call: Callable[..., Any], inputs: list[Array], output: str) -> Array:
        terms = tuple(self._made[id(each)][2] for each in inputs)
        if not isinstance(layer, Residual) or not self._points.adds_in_float32(terms, output):
            return call(*inputs)
        return self._points.apart(call(*map(self._points.apart, inputs)))

    def _at(self, name: str, values: Array, limits: Range) -> Array:
        return self._known(self._points.value(name, values, limits), name)

    def _known(self, values: Array, name: str) -> Array:
        """Values that come from a point."""
        self._made[id(values)] = (values, values, name)
        return values

    def _input(self, name: str, values: Array) -> Array:
        if id(values) not in self._made:
            self._made[id(values)] = (values, self._at(name, values, ANY), name)
        return self._made[id(values)][1]
