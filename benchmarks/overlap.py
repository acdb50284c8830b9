"""The input and the step of a real run, side by side on the profiler's trace: `python -m benchmarks.overlap`."""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from matplotlib.figure import Figure

from benchmarks.input_contenders import make_photographs
from benchmarks.timing import limit_threads
from flaxmobile.data.dataset import RandomAccessDataset
from flaxmobile.runs.training import train
from flaxmobile.training import loop as engine
from flaxmobile.training.config import TrainConfig

Spans = list[tuple[float, float]]
FIRST, LAST = 5, 11
"""The steps of the run that are traced, both included."""
IMAGES = 512
"""Too many to be kept decoded."""
READ, PLACE = 'read, decode, augment', 'to the device'


def main() -> None:
    """Train on photographs, trace some of the steps, and say and draw how the two share the time."""
    parser = argparse.ArgumentParser('python -m benchmarks.overlap')
    add = parser.add_argument
    add('--model', default='mobilenetv3_small_050', help='default: %(default)s')
    add('--batch', type=int, default=32, help='images; default: %(default)s')
    add('--threads', type=int, default=2, help='cores; default: %(default)s')
    add('--output', type=Path, default=Path('overlap.png'), metavar='FILE', help='default: %(default)s')
    given = parser.parse_args()
    limit_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / 'images'
        for part, count in (('train', IMAGES), ('validation', 2), ('test', 2)):
            make_photographs(images / part, count)
        config = TrainConfig(
            model=given.model,
            dataset=str(images),
            train_split='train',
            validation_split='validation',
            batch_size=given.batch,
            epochs=(LAST + 1) * given.batch / IMAGES,
        )
        with traced(Path(folder) / 'trace'):
            train(config, Path(folder) / 'run')
        step, work = spans(Path(folder) / 'trace')
    start, end = step[0][0], step[-1][1]
    print(f'{LAST - FIRST + 1} steps of {given.model}, {given.batch} images each: {(end - start) / 1e6:.0f} ms')
    print(f'a step is on the device in {share(step, [(start, end)]):.0%} of the time')
    for name, each in work.items():
        print(f'{name}: {share(each, step):.0%} of it while a step is on the device')
    draw(given.output, {'step': step, **work}, start, end)
    print(given.output)


@contextmanager
def traced(folder: Path) -> Iterator[None]:
    """Trace the steps from FIRST to LAST of the run that is made meanwhile, with the input's work by name."""
    make, place, load = engine.compiled_step, engine.shard_batch, RandomAccessDataset._load_for_training
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    taken: list[None] = []

    def compiled(*arguments: Any) -> Any:
        step = make(*arguments)

        def counted(*arguments: Any) -> Any:
            taken.append(None)
            if len(taken) == FIRST:
                jax.profiler.start_trace(str(folder), profiler_options=options)
            outputs = step(*arguments)
            if len(taken) == LAST:
                jax.block_until_ready(outputs)
                jax.profiler.stop_trace()
            return outputs

        return counted

    def named(name: str, function: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            with jax.profiler.TraceAnnotation(name):
                return function(*arguments, **options)

        return run

    with (
        mock.patch.object(engine, 'compiled_step', compiled),
        mock.patch.object(engine, 'shard_batch', named(PLACE, place)),
        mock.patch.object(RandomAccessDataset, '_load_for_training', named(READ, load)),
    ):
        yield


def spans(folder: Path) -> tuple[Spans, dict[str, Spans]]:
    """When a step was on the device, and when each kind of work was done, in nanoseconds."""
    (file,) = folder.rglob('*.xplane.pb')
    step: Spans = []
    work: dict[str, Spans] = {READ: [], PLACE: []}
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                span = (event.start_ns, event.start_ns + event.duration_ns)
                if dict(event.stats).get('hlo_op'):
                    step.append(span)
                elif event.name in work:
                    work[event.name].append(span)
    # Operations of a step follow each other by less than a millisecond.
    return merged(step, 1e6), {name: merged(each) for name, each in work.items()}


def merged(spans: Iterable[tuple[float, float]], gap: float = 0) -> Spans:
    """The union of the spans, those that lie less than `gap` apart as one."""
    union: Spans = []
    for start, end in sorted(spans):
        if union and start <= union[-1][1] + gap:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union


def share(spans: Spans, within: Spans) -> float:
    """The share of the spans' time that lies within others; of one that lies within these, how full it is."""
    common = sum(max(0, min(end, other_end) - max(start, other)) for start, end in spans for other, other_end in within)
    return common / sum(end - start for start, end in spans)


def draw(path: Path, rows: dict[str, Spans], start: float, end: float) -> None:
    """A row of bars each."""
    figure = Figure(figsize=(10, 2.4), layout='constrained')
    axis = figure.subplots()
    for number, (spans, color) in enumerate(zip(rows.values(), ('#1b6ca8', '#e07a1f', '#3a8f4d'), strict=True)):
        bars = [((first - start) / 1e6, (last - first) / 1e6) for first, last in spans if last > start and first < end]
        axis.broken_barh(bars, (number - 0.35, 0.7), color=color)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.invert_yaxis()
    axis.set(xlim=(0, (end - start) / 1e6), xlabel='milliseconds')
    figure.savefig(path, dpi=110)


if __name__ == '__main__':
    main()
