"""Checkpoints of a run, by Orbax: the last few and the best one."""

import errno
import json
import logging
import os
import re
import shutil
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN, PreservationPolicy

from flaxmobile.training.digests import fault, verified, write_digests
from flaxmobile.training.orbax_mends import hush, plain_path
from flaxmobile.training.state import TrainState, model_state

Variables = dict[str, Any]
_JSON = 'metadata'  # Orbax's name for the file of an item that is JSON.


class _Best(PreservationPolicy):
    """Keeps the checkpoint of the highest or the lowest value (the latest of equals). The caller adds to `values`."""

    def __init__(self, values: Mapping[int, float], highest: bool):
        self._values, self._sign = values, 1 if highest else -1

    def best(self, steps: Sequence[int]) -> int | None:
        known = [step for step in steps if step in self._values]
        return max(known, key=lambda step: (self._sign * self._values[step], step), default=None)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        best = self.best([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step == best for checkpoint in checkpoints]


class _Undamaged(ocp.path.step.NameFormat):
    """Names checkpoints by their step, and hides those in `damaged` from Orbax: it would read, count or delete them."""

    def __init__(self, damaged: Mapping[int, str]):
        self._standard, self._damaged = ocp.path.step.standard_name_format(), damaged

    def build_name(self, step: int) -> str:
        return self._standard.build_name(step)

    def find_all(self, base_path: Any) -> Iterator[Any]:
        return (found for found in self._standard.find_all(base_path) if found.step not in self._damaged)

    def find_step(self, base_path: Any, step: int) -> Any:
        return self._standard.find_step(base_path, step)


def find_damage(folder: Path) -> dict[int, str]:
    """The damaged checkpoints in `folder`: what is wrong with each, by step."""
    faults = {int(path.name): fault(path) for path in folder.glob('[0-9]*') if path.name.isdecimal()}
    # A checkpoint that is gone by now was deleted by a run that is still training.
    return {step: words for step, words in sorted(faults.items()) if words and (folder / str(step)).is_dir()}


def descriptions(run_dir: Path) -> Iterator[tuple[Path, bytes]]:
    """The undamaged copies of the run's description in the checkpoints, the newest first: each file and its content.

    The other files of such a checkpoint may be damaged.
    """
    steps = sorted(int(path.name) for path in (run_dir / 'checkpoints').glob('[0-9]*') if path.name.isdecimal())
    for step in reversed(steps):
        folder = run_dir / 'checkpoints' / str(step)
        if (content := verified(folder, f'run/{_JSON}')) is not None:
            yield folder / 'run' / _JSON, content


class Checkpoints:
    """The checkpoints of a run: one folder for each step, `run_dir/checkpoints/STEP`.

    - A checkpoint is written under another name while the training goes on, and renamed at the end. So a folder that
      has a step's name is complete.
    - Every save removes the older checkpoints, except the last `keep` and the best one: that of the highest or the
      lowest value on the validation images, the latest of equals.
    - `damaged` holds the checkpoints whose files have changed since they were written: what is wrong with each, by
      step. They are neither used nor removed.

    Args:
        run_dir: the run's folder.
        keep: how many of the last checkpoints to keep.
        description: the content of `run.json`; every checkpoint gets a copy.
        highest: whether the highest value is the best; otherwise the lowest is.
        read_only: write and remove nothing, so that a run that is still training is not disturbed.
    """

    def __init__(
        self,
        run_dir: str | Path,
        keep: int = 1,
        *,
        description: Mapping[str, Any] | None = None,
        highest: bool = True,
        read_only: bool = False,
    ):
        self.folder = Path(run_dir).absolute() / 'checkpoints'
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
        folder, let_go = plain_path(self.folder)
        # Without `hush`, Orbax logs every save.
        self._endings = [weakref.finalize(self, end) for end in (hush(logging.getLogger('absl')), let_go)]
        self.damaged = find_damage(self.folder)
        self._description = description
        self._writing: int | None = None
        self._values: dict[int, float] = {}
        self._best = _Best(self._values, highest)
        self._manager = ocp.CheckpointManager(
            folder,
            item_names=('variables', 'ema', 'optimizer', 'run', 'window'),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(keep), self._best]),
                step_name_format=_Undamaged(self.damaged),
                cleanup_tmp_directories=not read_only,
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_digests),
                create=not read_only,
                read_only=read_only,
            ),
        )

    @property
    def last(self) -> int | None:
        """The step of the last good checkpoint, or None. Waits for a checkpoint that is being written."""
        self.wait()
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the good checkpoint that did best on the validation images; None if none was validated."""
        self.wait()
        return self._best.best(self._manager.all_steps())

    def value(self, step: int) -> float | None:
        """The value of `step` on the validation images; None if it is not known."""
        return self._values.get(step)

    def validated(self, values: Mapping[int, float]) -> None:
        """Add values of the task's best measure on the validation images, by step."""
        self._values.update(values)

    def save(self, step: int, state: TrainState, window: Mapping[str, Any] | None = None) -> None:
        """Wait for the checkpoint before, then start to write `state` as the checkpoint of `step`.

        `state` is copied before this returns, so it may be donated afterwards. A value that `step` had before is
        removed.

        Args:
            step: the number of steps taken.
            state: the state after them.
            window: sums of the metrics since the last record; None if there are none.

        Raises:
            OSError: this checkpoint or the one before could not be written. The earlier ones are unchanged.
        """
        items = _items(state)
        arguments = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        if self._description is not None:
            arguments['run'] = ocp.args.JsonSave(self._description)
        if window is not None:
            arguments['window'] = ocp.args.JsonSave(window)
        self.wait()
        if step in self.damaged:
            self._set_aside(step)
        self._values.pop(step, None)
        self._writing = step
        with self._explained(None):
            self._manager.save(step, args=ocp.args.Composite(**arguments), force=True)

    def wait(self) -> None:
        """Wait for the checkpoint that is being written. Raises OSError as `save` does."""
        with self._explained(errno.EIO):
            self._manager.wait_until_finished()
        self._writing = None

    def check(self) -> None:
        """If no checkpoint is being written, raise the error of the last write, if it failed; see `wait`."""
        if not self._manager.is_saving_in_progress():
            self.wait()

    def _write_digests(self) -> None:
        for folder in self.folder.glob(f'{self._writing}.orbax-checkpoint-tmp*'):
            write_digests(folder)

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            shutil.move(self.folder / str(step), self.folder / f'{step}.damaged')
        del self.damaged[step]

    @contextmanager
    def _explained(self, otherwise: int | None) -> Iterator[None]:
        """Turn an error of writing into an OSError with a message for people.

        An error without a system number gets the number `otherwise`; if that is None, it is raised unchanged.
        """
        try:
            yield
        except Exception as error:
            number = _number(error) or otherwise
            if number is None:
                raise
            self._manager.reload()
            last = self._manager.latest_step()
            good = 'there is no earlier one' if last is None else f'the last good one is step {last}'
            reason = (
                'the disk is full' if number == errno.ENOSPC else getattr(error, 'strerror', None) or _first_line(error)
            )
            raise OSError(
                number, f'the checkpoint of step {self._writing} was not written ({reason}); {good}'
            ) from error

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of the checkpoint of `step`, with the shapes, dtypes and shardings of `like` (it may be abstract).

        Raises:
            ValueError: the checkpoint is damaged or does not fit `like`.
        """
        items = self._restore(step, _items(like))
        variables = items['variables']
        return like.replace(
            params=variables['params'],
            model_state=model_state(variables),
            ema=items.get('ema'),
            **items['optimizer'],
        )

    def window(self, step: int) -> dict[str, Any] | None:
        """Sums of the metrics since the last record, from the checkpoint of `step`; None if it has none."""
        content = verified(self.folder / str(step), f'window/{_JSON}')
        return None if content is None else json.loads(content)

    def restore_latest(self, like: TrainState) -> TrainState:
        """The state of the last good checkpoint; see `restore`. Raises FileNotFoundError if there is none."""
        if self.last is None:
            raise FileNotFoundError(f'no checkpoint in {self.folder}')
        return self.restore(self.last, like)

    def tell_damage(self) -> str:
        """What is wrong with the damaged checkpoints, and which checkpoint is used. Empty if none is damaged."""
        if not self.damaged:
            return ''
        faults = '; '.join(f'{self.folder / str(step)} is damaged: {words}' for step, words in self.damaged.items())
        used = 'there is no good one' if self.last is None else f'the last good one is step {self.last}'
        return f'{faults}. Left as it is; {used}'

    def restore_variables(self, step: int, like: Variables) -> Variables:
        """The variables for evaluation from the checkpoint of `step`: their moving average, if the run has one."""
        name = 'ema' if (self.folder / str(step) / 'ema').is_dir() else 'variables'
        return self._restore(step, {name: like})[name]

    def _restore(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        arguments = ocp.args.Composite(**{name: ocp.args.StandardRestore(item) for name, item in wanted.items()})
        try:
            return dict(self._manager.restore(step, args=arguments))
        except Exception as error:
            raise ValueError(
                f'the checkpoint {self.folder / str(step)} is damaged or does not fit this run ({_first_line(error)}); '
                'it was left as it is'
            ) from error

    def close(self) -> None:
        """Wait for writes and deletions, and end the use of Orbax. Raises OSError as `save` does."""
        try:
            self.wait()
        finally:
            self._manager.close()
            for end in self._endings:
                end()


def _items(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds of a state: the network's collections by their names, and the rest."""
    progress = {
        'step': state.step,
        'opt_state': state.opt_state,
        'skipped_updates': state.skipped_updates,
        'skipped_in_a_row': state.skipped_in_a_row,
    }
    items = {'variables': state.variables, 'optimizer': progress}
    return items if state.ema is None else items | {'ema': state.ema}


def _number(error: Exception) -> int | None:
    """The system's number of an error; TensorStore raises a ValueError and writes the number into its message."""
    if found := re.search(r"os_error_code='(\d+)'", str(error)):
        return int(found[1])
    if 'No space left' in str(error):
        return errno.ENOSPC
    return (error.errno or errno.EIO) if isinstance(error, OSError) else None


def _first_line(error: Exception) -> str:
    number = _number(error)
    if number is not None and not isinstance(error, OSError):
        return os.strerror(number)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
