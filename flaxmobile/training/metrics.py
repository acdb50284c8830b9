"""What a run measures: `metrics.jsonl`, TensorBoard, and the lines or the bar on the terminal."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from flaxmobile.files import write_whole

Record = dict[str, Any]


def read_metrics(path: str | Path) -> list[Record]:
    """The records of a `metrics.jsonl`; a last line that was cut off while being written is left out.

    Raises:
        ValueError: another line is no JSON.
    """
    path = Path(path)
    lines = path.read_text(errors='replace').splitlines(keepends=True) if path.exists() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f'{path}, line {number} is no JSON: {line.strip()[:80]!r}') from error
    return records


class Window:
    """The metrics of the steps since the last record: they stay on the device until then."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._metrics: list[Mapping[str, jax.Array]] = []
        self._compiled = False
        self.restart()

    def restart(self) -> None:
        """Start the clock anew: what went before was no training."""
        self._started, self._timed = time.monotonic(), 0

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """Take in a step that may still be running; waits for the one two before it, so that batches do not pile up."""
        self._metrics.append(metrics)
        self._timed += 1
        if not self._compiled:
            jax.block_until_ready(metrics)
            self._compiled = True
            self.restart()
        elif len(self._metrics) > 2:
            jax.block_until_ready(self._metrics[-3])

    def close(self) -> dict[str, float]:
        """The means of the steps so far, which are then forgotten."""
        steps = jax.device_get(self._metrics)
        seconds = time.monotonic() - self._started
        means = {name: sum(float(step[name]) for step in steps) / len(steps) for name in steps[0]}
        if self._timed:
            means['images_per_second'] = self._batch_size * self._timed / seconds
        self._metrics = []
        self.restart()
        return means


class MetricsLog:
    """Writes records to `run_dir/metrics.jsonl` and to TensorBoard files in `run_dir/tensorboard`.

    `start_step` is the step a run goes on from: what an earlier process wrote past it is dropped, so that no step is
    there twice. With `run_dir=None` (every process but the first) nothing is written.
    """

    def __init__(self, run_dir: str | Path | None, start_step: int = 0):
        self._file = self._tensorboard = None
        self.seconds = 0.0
        if run_dir is None:
            return
        from tensorboardX import SummaryWriter

        path = Path(run_dir) / 'metrics.jsonl'
        kept = [record for record in read_metrics(path) if record['step'] <= start_step]
        write_whole(path, ''.join(json.dumps(record) + '\n' for record in kept))
        self.seconds = kept[-1]['seconds'] if kept else 0.0
        self._file = open(path, 'a', buffering=1)  # noqa: SIM115 - closed by close()
        self._tensorboard = SummaryWriter(str(Path(run_dir) / 'tensorboard'), purge_step=start_step + 1)
        self._started = time.monotonic() - self.seconds

    def write(self, split: str, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Write one record: `values` of `split` after `step` steps, which are `epoch` epochs."""
        if self._file is None or self._tensorboard is None:
            return
        self.seconds = time.monotonic() - self._started
        place = {'split': split, 'step': step, 'epoch': round(epoch, 4), 'seconds': round(self.seconds, 2)}
        self._file.write(json.dumps(place | dict(values)) + '\n')
        for name, value in values.items():
            self._tensorboard.add_scalar(f'{split}/{name}', value, step)

    def close(self) -> None:
        """Close both files."""
        if self._file is not None and self._tensorboard is not None:
            self._file.close()
            self._tensorboard.close()


def _line(values: Mapping[str, float]) -> str:
    shown = [f'loss {values["loss"]:.4f}', f'accuracy {100 * values["accuracy"]:5.2f} %']
    if 'images_per_second' in values:
        shown.append(f'{values["images_per_second"]:,.0f} images/s')
    return '  '.join(shown)


def duration(seconds: float) -> str:
    """`seconds` for people: '48 s', '3 min 05 s', '2 h 07 min'."""
    whole = round(seconds)
    if whole < 60:
        return f'{whole} s'
    return f'{whole // 60} min {whole % 60:02} s' if whole < 3600 else f'{whole // 3600} h {whole % 3600 // 60:02} min'


class Display:
    """Shows a run as it goes: a progress bar on a terminal, plain lines elsewhere, nothing with `silent`."""

    def __init__(self, total_steps: int, epochs: float, *, start_step: int = 0, silent: bool = False):
        self.console = Console(quiet=silent, highlight=False, markup=False, soft_wrap=True)
        self._total, self._epochs = total_steps, epochs
        self._first: tuple[int, float] | None = None
        self._plain = silent or not self.console.is_terminal
        self._bar = Progress(
            TextColumn('epoch {task.fields[epoch]}'),
            BarColumn(None),
            TaskProgressColumn(),
            TextColumn('{task.fields[values]}'),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=self.console,
            disable=self._plain,
        )
        self._task = self._bar.add_task('', total=total_steps, completed=start_step, epoch='', values='starting')

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print one line; it stays above the bar."""
        self.console.print(text)

    def training(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Show the training metrics of the last steps."""
        where = f'{epoch:.1f}/{self._epochs:g}'
        if not self._plain:
            self._bar.update(self._task, completed=step, epoch=where, values=_line(values))
            return
        line = f'step {step:6}/{self._total}  epoch {where}  {_line(values)}'
        if self._first is None:  # The time it took to compile says nothing of the time that is left.
            self._first = (step, time.monotonic())
        else:
            first, started = self._first
            line += f'  {duration((time.monotonic() - started) / (step - first) * (self._total - step))} left'
        self.say(line)

    def validation(self, epoch: float, values: Mapping[str, float], best: bool) -> None:
        """Show a validation; `best` marks the best one so far."""
        self.say(f'validation after {epoch:.1f} epochs  {_line(values)}' + ('  best so far' if best else ''))
