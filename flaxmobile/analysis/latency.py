"""How fast a network runs on this machine, and how much of the machine it uses."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxmobile.analysis.counts import Layer, count_layers
from flaxmobile.analysis.trace import LayerTable, LayerTime, Program, time_layers
from flaxmobile.models.inference import compiler_options, inference_function

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

WARM_UP = 1.0
"""Seconds of calls before any is timed: new threads may share a core for so long, and calls take twice the time."""
TRACED = 10
"""Calls that the times by layer are the mean of."""


def product_size(platform: str) -> int:
    """Rows and columns of the square matrices whose product is the machine's peak."""
    return 1024 if platform == 'cpu' else 8192


class Times(NamedTuple):
    """Milliseconds of a call, or the ratio of two: the median of so many rounds and the quartiles around it."""

    median: float
    lower: float
    upper: float
    rounds: int


class Speed(NamedTuple):
    """Of one piece of work: its times, images a second, multiply-adds of a call and a second, and share of the peak."""

    times: Times
    images_per_second: float
    multiply_adds: int
    multiply_adds_per_second: float
    share_of_peak: float


class Benchmark(NamedTuple):
    """What was measured, `work` and `layers` by the piece of work.

    `peak` is the multiply-adds a second of a product of two large float32 matrices.
    """

    batch_size: int
    image_size: int
    platform: str
    multiply_adds_per_image: int
    peak: float
    work: dict[str, Speed]
    layers: dict[str, list[LayerTime]]


def check(**numbers: int) -> None:
    """Raise a ValueError for a number below 1, by its name."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f'{name} must be 1 or more, not {number}')


def summarize(milliseconds: Sequence[float]) -> Times:
    """Median and quartiles."""
    lower, median, upper = np.percentile(milliseconds, [25, 50, 75])
    return Times(float(median), float(lower), float(upper), len(milliseconds))


def interleave(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    """The time of each call, until its results are there: all in turn each round, so that all see the same load.

    Each is called for `WARM_UP` before, untimed, and once at least.
    """
    for call in calls.values():
        start = time.perf_counter()
        jax.block_until_ready(call())
        while time.perf_counter() - start < WARM_UP:
            jax.block_until_ready(call())
    return {name: summarize(values) for name, values in in_turn(calls, rounds, time.perf_counter).items()}


def in_turn(calls: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """The milliseconds of each call, round by round, by a clock of seconds, until its results are there."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            jax.block_until_ready(call())
            samples[name].append(1e3 * (clock() - start))
    return samples


def speed(times: Times, images: int, multiply_adds: int, peak: float) -> Speed:
    """What the median of `times` says of a call with so many images and multiply-adds; `peak` is in those a second."""
    rate = 1e3 * multiply_adds / times.median
    return Speed(times, 1e3 * images / times.median, multiply_adds, rate, rate / peak)


def in_training(rows: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers with the multiply-adds of a training step: each product once forward and twice for its gradients.

    The first layer needs no gradient by the images.
    """
    return tuple(row._replace(multiply_adds=(3 if index else 2) * row.multiply_adds) for index, row in enumerate(rows))


def benchmark(
    model: nn.Module,
    variables: Any,
    *,
    batch_size: int,
    image_size: int,
    channels: int = 3,
    rounds: int,
    train_step: Program | None = None,
    by_layer: bool = False,
) -> Benchmark:
    """Time inference on JAX's default device, by the program of `compile_inference`, beside the machine's peak.

    Args:
        model: a network of this library.
        variables: its variables.
        batch_size: images of a call.
        image_size: their height and width in pixels.
        channels: their channels.
        rounds: how often each piece of work is timed, in turn with the others.
        train_step: a training step on as many images, to time too.
        by_layer: trace each piece of work for the times of its layers.

    Raises:
        ValueError: `batch_size`, `image_size` or `rounds` is not 1 or more.
    """
    check(batch_size=batch_size, image_size=image_size, rounds=rounds)
    forward, platform = count_layers(model, image_size, channels), jax.default_backend()
    images = jax.random.normal(jax.random.key(0), (batch_size, image_size, image_size, channels))
    infer = inference_function(model, variables).lower(images).compile()
    programs = {'inference': Program(lambda: jax.block_until_ready(infer(images)), str(infer.as_text()))}
    rows = {'inference': forward}
    if train_step:
        programs['training step'], rows['training step'] = train_step, in_training(forward)
    product, product_multiply_adds = _product(platform)
    # Each beside the product alone: a training step leaves little of what inference had in the cache.
    times = {name: interleave({'product': product, name: each.call}, rounds) for name, each in programs.items()}
    peak = max(1e3 * product_multiply_adds / each['product'].median for each in times.values())
    work = {
        name: speed(times[name][name], batch_size, batch_size * sum(row.multiply_adds for row in rows[name]), peak)
        for name in programs
    }
    traced = {name: time_layers(each, rows[name], TRACED) for name, each in programs.items()} if by_layer else {}
    multiply_adds = sum(row.multiply_adds for row in forward)
    return Benchmark(batch_size, image_size, platform, multiply_adds, peak, work, traced)


def _product(platform: str) -> tuple[Callable[[], jax.Array], int]:
    """A product of two large float32 matrices, as inference would have it compiled, and its multiply-adds."""
    size = product_size(platform)
    matrix = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(jnp.matmul, compiler_options=compiler_options(platform))
    return lambda: product(matrix, matrix), size**3


class Report:
    """What was measured of the network named in `title`, for rich to print."""

    def __init__(self, title: str, result: Benchmark) -> None:
        self.title, self.result = title, result

    def __rich_console__(self, console: 'Console', options: 'ConsoleOptions') -> 'RenderResult':
        """A line for each piece of work, the peak, and the layers where they were traced."""
        from rich.table import Table

        result = self.result
        size = f'{result.image_size}x{result.image_size}'
        title = f'{self.title}, {result.batch_size} at a time of {size} pixels, {result.platform}'
        table = Table(title=title, box=None, padding=(0, 2, 0, 0), title_style='bold')
        headings = ('', 'median ms', 'quartiles ms', 'images/s', 'mult-adds', 'G mult-adds/s', 'of peak')
        for index, heading in enumerate(headings):
            table.add_column(heading, justify='right' if index else 'left', no_wrap=True)
        for name, work in result.work.items():
            table.add_row(name, *_cells(work))
        yield table
        yield (
            f'Peak: {result.peak / 1e9:.1f} G multiply-adds/s, by a product of two float32 matrices of '
            f'{product_size(result.platform)} rows and columns in turn with the network.'
        )
        for name, times in result.layers.items():
            yield ''
            yield LayerTable(name, times, result.batch_size)


def _cells(work: Speed) -> tuple[str, ...]:
    return (
        f'{work.times.median:.3f}',
        f'{work.times.lower:.3f} - {work.times.upper:.3f}',
        f'{work.images_per_second:.1f}',
        f'{work.multiply_adds:,}',
        f'{work.multiply_adds_per_second / 1e9:.1f}',
        f'{100 * work.share_of_peak:.1f} %',
    )


def as_dict(title: str, result: Benchmark) -> dict[str, Any]:
    """What was measured, fit for JSON: times in milliseconds, the rest in plain numbers."""
    work = {name: {**speed._asdict(), 'times': speed.times._asdict()} for name, speed in result.work.items()}
    traced = {
        name: [
            {**(row.layer._asdict() if row.layer else {'name': None}), 'milliseconds': row.milliseconds}
            for row in times
        ]
        for name, times in result.layers.items()
    }
    return {'model': title, **result._asdict(), 'work': work, 'layers': traced}
