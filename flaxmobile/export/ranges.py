"""The range that each tensor's int8 numbers cover: observed over images, with no runtime in it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, get_args

import numpy as np

from flaxmobile.messages import printable, unknown
from flaxmobile.quantization import rounding

Observer = Literal['extremes', 'percentile', 'mse']
"""How a range is chosen.

- 'extremes': the least and the greatest value of all images. More images never narrow it.
- 'percentile': without the `CUT` share of the values, half of it at either end. ONNX Runtime leaves out that share of
  the absolute values, and no further goes than the extremes.
- 'mse': the range within the extremes whose 256 numbers have the least squared error over the values.
"""
Range = tuple[float, float]
"""Least and greatest value."""
Tensors = Mapping[str, np.ndarray]
"""Values by the tensor's name."""

BINS = 2048
"""Into how many steps between the extremes values are counted, for observers that need their distribution."""
CUT = 1e-4
"""The share of the values that a percentile leaves out: the 99.99th."""
SHARES = 20
"""How many shares of either extreme 'mse' tries."""
LEAST_RATIO, GREATEST_RATIO = 2.0**-10, 2.0**8
"""Of the scale of a sum's term to the sum's, what XNNPACK computes in int8; the greatest itself is too great."""


def check_observer(observer: str) -> None:
    """See that it is one.

    Raises:
        ValueError: it is none.
    """
    if observer not in get_args(Observer):
        raise ValueError(unknown('observer', observer, get_args(Observer)))


def find_ranges(values: Callable[[], Iterable[Tensors]], observer: Observer = 'extremes') -> dict[str, Range]:
    """The range of each tensor over images.

    Args:
        values: gives the values of all tensors image by image, the same each time that it is called.
        observer: how a range is chosen.

    Raises:
        ValueError: no such observer, no images, or a tensor with values that are not finite.
    """
    check_observer(observer)
    extremes = _extremes(values())
    if observer == 'extremes':
        return extremes
    choose = _percentile if observer == 'percentile' else _least_squares
    counts = {name: np.zeros(BINS, np.int64) for name, (low, high) in extremes.items() if low < high}
    for tensors in values():
        for name, found in counts.items():
            found += np.histogram(tensors[name], BINS, extremes[name])[0]
    return extremes | {name: choose(found, *extremes[name]) for name, found in counts.items()}


def affine(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of the int8 numbers that cover a range, see `rounding.affine`."""
    scale, zero_point = rounding.affine(low, high)
    return float(scale), int(zero_point)


def can_be_added(terms: Iterable[float], total: float) -> bool:
    """Whether XNNPACK adds terms of those scales in int8, to a sum of that scale."""
    return all(LEAST_RATIO <= scale / total < GREATEST_RATIO for scale in terms)


def _extremes(images: Iterable[Tensors]) -> dict[str, Range]:
    extremes: dict[str, Range] = {}
    for tensors in images:
        for name, array in tensors.items():
            low, high = float(array.min()), float(array.max())
            if not np.isfinite([low, high]).all():
                raise ValueError(f'calibration: {printable(name)} has values that are not finite, so it has no range')
            least, greatest = extremes.get(name, (low, high))
            extremes[name] = min(least, low), max(greatest, high)
    if not extremes:
        raise ValueError('calibration: there are no images to find ranges on')
    return extremes


def _percentile(counts: np.ndarray, low: float, high: float) -> Range:
    """The edges of the steps beyond which at most half of the cut lies."""
    allowed = CUT / 2 * counts.sum()
    first = int(np.searchsorted(np.cumsum(counts), allowed, side='right'))
    last = BINS - int(np.searchsorted(np.cumsum(counts[::-1]), allowed, side='right'))
    edges = np.linspace(low, high, BINS + 1)
    return float(edges[first]), float(edges[last])


def _least_squares(counts: np.ndarray, low: float, high: float) -> Range:
    edges = np.linspace(low, high, BINS + 1)
    held = counts > 0
    values, weights = ((edges[:-1] + edges[1:]) / 2)[held], counts[held]
    return min(_narrower(low, high), key=lambda tried: _squared_error(values, weights, *tried))


def _narrower(low: float, high: float) -> Iterator[Range]:
    """Shares of both extremes, the whole range first; an end on zero's other side stays, as 0 is always covered."""
    shares = np.linspace(1, 1 / SHARES, SHARES)
    for least in low * shares if low < 0 else [low]:
        for greatest in high * shares if high > 0 else [high]:
            yield float(least), float(greatest)


def _squared_error(values: np.ndarray, weights: np.ndarray, low: float, high: float) -> float:
    scale, zero_point = affine(low, high)
    numbers = np.clip(np.rint(values / scale) + zero_point, -128, 127)
    return float(weights @ np.square(scale * (numbers - zero_point) - values))
