"""What a run measures: `metrics.jsonl`, TensorBoard, and the lines or the bar on the terminal."""

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from flaxmobile.files import write_whole
from flaxmobile.messages import printable
from flaxmobile.tasks.task import LOSS, Measure
from flaxmobile.training.records import PLACE, AnyTask, Record, check_record, parse, signed


def read_metrics(path: str | Path, task: AnyTask) -> list[Record]:
    """The records of a `metrics.jsonl`. A last line that was cut off while it was written is left out.

    Args:
        path: of the file.
        task: what the run learns; it decides what a record holds.

    Raises:
        ValueError: any other line was changed since it was written, or is no record.
    """
    records = []
    for number, line in enumerate(_lines(path)[0], 1):
        try:
            records.append(parse(line))
            check_record(records[-1], task)
        except ValueError as error:
            raise ValueError(
                f'{printable(path, None)}, line {number} is damaged ({error}): {line[:80]!r}. Mend it and '
                'take out its sha256, or delete the line: a validation that is not recorded does not count'
            ) from error
    return records


def is_cut_off(path: str | Path) -> bool:
    """Whether the last line of a `metrics.jsonl` was cut off while it was written."""
    return bool(_lines(path)[1])


def _lines(path: str | Path) -> tuple[list[str], str]:
    """The lines of a file, and a last line apart if its JSON is incomplete."""
    path = Path(path)
    *lines, last = path.read_text(errors='replace').split('\n') if path.exists() else ('',)
    try:
        json.JSONDecoder().raw_decode(last)
    except ValueError:
        return lines, last
    except RecursionError:
        pass
    return [*lines, last], ''


NO_STEPS: Mapping[str, Any] = {'steps': 0, 'totals': {}}


class Window:
    """The metrics of the steps since the last record: they stay on the device until then.

    Args:
        batch_size: images a step.
        earlier: the `sums` of a window that a stop cut short; this one continues it.
    """

    def __init__(self, batch_size: int, earlier: Mapping[str, Any] | None = None):
        self._batch_size = batch_size
        self._earlier = earlier or NO_STEPS
        self._metrics: list[Mapping[str, jax.Array]] = []
        self._compiled = False
        self.restart()

    def restart(self) -> None:
        """Start the clock again: the time before was not spent on training."""
        self._started, self._timed = time.monotonic(), 0

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        """Add a step that may still be running. Waits for the step two before it, so that batches do not pile up."""
        self._metrics.append(metrics)
        self._timed += 1
        if not self._compiled:
            jax.block_until_ready(metrics)
            self._compiled = True
            self.restart()
        elif len(self._metrics) > 2:
            jax.block_until_ready(self._metrics[-3])

    def close(self) -> dict[str, float]:
        """The means over the steps so far. The next window starts empty.

        Skipped steps are left out of the means; if all were skipped, there are none. `skipped_updates` is the last
        step's.
        """
        found, last = self.sums(), self._metrics[-1]
        seconds = time.monotonic() - self._started
        means: dict[str, float] = {name: total / found['steps'] for name, total in found['totals'].items()}
        if 'skipped_updates' in last:
            means['skipped_updates'] = int(last['skipped_updates'])
        if self._timed:
            means['images_per_second'] = self._batch_size * self._timed / seconds
        self._earlier, self._metrics = NO_STEPS, []
        self.restart()
        return means

    def sums(self) -> dict[str, Any]:
        """The sums over the steps so far that were not skipped: `steps`, their number, and `totals`, by name.

        These are plain values. Another window that starts from them gives the same means, to the bit.
        """
        steps, totals = self._earlier['steps'], dict(self._earlier['totals'])
        for step in map(dict, jax.device_get(self._metrics)):
            if not step.pop('skipped_in_a_row', 0):
                steps += 1
                totals = {name: totals.get(name, 0.0) + float(value) for name, value in step.items()}
        return {'steps': steps, 'totals': totals}


class MetricsLog:
    """Writes records to `run_dir/metrics.jsonl` and to a TensorBoard file in `run_dir/tensorboard`.

    `start_step` is the step a run goes on from. Records that an earlier process wrote after it are dropped, so that no
    step is there twice, and TensorBoard's file is written again from the rest. With `run_dir=None` (every process but
    the first) nothing is written.
    """

    def __init__(self, run_dir: str | Path | None, task: AnyTask, start_step: int = 0):
        self._file = self._tensorboard = None
        self.seconds = 0.0
        if run_dir is None:
            return
        from tensorboardX.event_file_writer import EventsWriter

        path, folder = Path(run_dir) / 'metrics.jsonl', Path(run_dir) / 'tensorboard'
        kept = [record for record in read_metrics(path, task) if record['step'] <= start_step]
        write_whole(path, ''.join(json.dumps(signed(record)) + '\n' for record in kept))
        self.seconds = kept[-1]['seconds'] if kept else 0.0
        self._started, self._began = time.monotonic() - self.seconds, time.time() - self.seconds
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._file = open(path, 'a', buffering=1)  # noqa: SIM115 - closed by close()
        # tensorboardX's SummaryWriter writes in a thread, and waits for ever once that could not write.
        self._tensorboard = EventsWriter(str(folder / 'events'))
        for record in kept:
            self._draw(record)

    def write(self, split: str, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Write one record: `values` of `split` after `step` steps, which are `epoch` epochs.

        Raises:
            OSError: it could not be written.
        """
        if self._file is None:
            return
        self.seconds = time.monotonic() - self._started
        place = {'split': split, 'step': step, 'epoch': round(epoch, 4), 'seconds': round(self.seconds, 2)}
        record = place | dict(values)
        try:
            self._file.write(json.dumps(signed(record)) + '\n')
            if split == 'validation':  # By it the best checkpoint is known.
                os.fsync(self._file.fileno())
            self._draw(record)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._file.name) from error

    def _draw(self, record: Record) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        assert self._tensorboard is not None
        for name, value in record.items():
            if name not in PLACE:
                summary = scalar(f'{record["split"]}/{name}', value)
                wall_time = self._began + record['seconds']
                self._tensorboard.write_event(Event(wall_time=wall_time, step=record['step'], summary=summary))
        self._tensorboard.flush()

    def close(self) -> None:
        """Close both files."""
        for file in (self._file, self._tensorboard):
            if file is not None:
                with suppress(OSError):  # Whatever could be written was written line by line.
                    file.close()


def _line(values: Mapping[str, float], measures: Iterable[Measure]) -> str:
    shown = [measure.in_line(values[measure.name]) for measure in measures]
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

    def __init__(self, task: AnyTask, total_steps: int, epochs: float, *, start_step: int = 0, silent: bool = False):
        self.console = Console(quiet=silent, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._training, self._validation = (LOSS, *task.logged), tuple(dict.fromkeys((LOSS, task.best.measure)))
        self._total, self._epochs = total_steps, epochs
        self._first: tuple[int, float] | None = None
        self._validated = False
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
        """Print lines that stay above the bar; nothing in them can act on the terminal."""
        self.console.print('\n'.join(printable(line, None) for line in text.split('\n')))

    def training(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Show the training metrics of the last steps."""
        where, line = f'{epoch:.1f}/{self._epochs:g}', _line(values, self._training)
        if not self._plain:
            self._bar.update(self._task, completed=step, epoch=where, values=line)
            return
        line = f'step {step:6}/{self._total}  epoch {where}  {line}'
        if self._first is None:  # The time it took to compile says nothing of the time that is left.
            self._first = (step, time.monotonic())
        else:
            first, started = self._first
            line += f'  {duration((time.monotonic() - started) / (step - first) * (self._total - step))} left'
        self.say(line)

    def validation(self, epoch: float, values: Mapping[str, float], best: bool) -> None:
        """Show a validation; `best` marks the best one so far."""
        line = _line(values, self._validation)
        if not self._validated:  # The first one compiles, which says nothing of the time that is left either.
            self._validated, self._first = True, None
        self.say(f'validation after {epoch:.1f} epochs  {line}' + ('  best so far' if best else ''))
