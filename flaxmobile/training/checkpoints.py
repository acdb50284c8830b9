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
    """Keeps the checkpoint of the highest accuracy, the latest of equals; `accuracies` grows while it is in use."""

    def __init__(self, accuracies: Mapping[int, float]):
        self._accuracies = accuracies

    def best(self, steps: Sequence[int]) -> int | None:
        known = [step for step in steps if step in self._accuracies]
        return max(known, key=lambda step: (self._accuracies[step], step), default=None)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        best = self.best([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step == best for checkpoint in checkpoints]


class _Undamaged(ocp.path.step.NameFormat):
    """Steps by their number; Orbax, which would read, count and delete them, is not shown those in `damaged`."""

    def __init__(self, damaged: Mapping[int, str]):
        self._standard, self._damaged = ocp.path.step.standard_name_format(), damaged

    def build_name(self, step: int) -> str:
        return self._standard.build_name(step)

    def find_all(self, base_path: Any) -> Iterator[Any]:
        return (found for found in self._standard.find_all(base_path) if found.step not in self._damaged)

    def find_step(self, base_path: Any, step: int) -> Any:
        return self._standard.find_step(base_path, step)


def find_damage(folder: Path) -> dict[int, str]:
    """The checkpoints in `folder` whose files are not as they were written, by step, each with what is wrong."""
    faults = {int(path.name): fault(path) for path in folder.glob('[0-9]*') if path.name.isdecimal()}
    # One that is gone by now was deleted by a run that is still training.
    return {step: words for step, words in sorted(faults.items()) if words and (folder / str(step)).is_dir()}


def descriptions(run_dir: Path) -> Iterator[tuple[Path, bytes]]:
    """The copies of the run's description in the checkpoints that are as they were written: the file and its content.

    The last checkpoint's first. Whether the rest of a checkpoint is good does not matter.
    """
    steps = sorted(int(path.name) for path in (run_dir / 'checkpoints').glob('[0-9]*') if path.name.isdecimal())
    for step in reversed(steps):
        folder = run_dir / 'checkpoints' / str(step)
        if (content := verified(folder, f'run/{_JSON}')) is not None:
            yield folder / 'run' / _JSON, content


class Checkpoints:
    """The checkpoints in `run_dir`, one folder a step under `run_dir/checkpoints`.

    At every save all are removed but the last `keep` and the one of the highest validation accuracy (the latest of
    equals). A checkpoint is written beside and then renamed, while the training goes on, so that one with a step's name
    is whole. Those whose files have changed since are in `damaged`, by step, with what is wrong; they are left as they
    are and stand for nothing. A `read_only` one leaves alone what a run that is still training is about to write.

    Args:
        run_dir: the run's folder.
        keep: how many of the last ones to keep.
        description: what `run.json` holds, to be kept in every checkpoint as well.
        read_only: whether nothing is to be written.
    """

    def __init__(
        self,
        run_dir: str | Path,
        keep: int = 1,
        *,
        description: Mapping[str, Any] | None = None,
        read_only: bool = False,
    ):
        self.folder = Path(run_dir).absolute() / 'checkpoints'
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
        folder, let_go = plain_path(self.folder)
        # Orbax tells of every save otherwise.
        self._endings = [weakref.finalize(self, end) for end in (hush(logging.getLogger('absl')), let_go)]
        self.damaged = find_damage(self.folder)
        self._description = description
        self._writing: int | None = None
        self._accuracies: dict[int, float] = {}
        self._best = _Best(self._accuracies)
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
        """The step of the last good checkpoint, None where there is none; waits for one that is being written."""
        self.wait()
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the good checkpoint of the highest validation accuracy, None where none was validated."""
        self.wait()
        return self._best.best(self._manager.all_steps())

    def accuracy(self, step: int) -> float | None:
        """The validation accuracy of `step`, None where it is not known."""
        return self._accuracies.get(step)

    def validated(self, accuracies: Mapping[int, float]) -> None:
        """Take note of validation accuracies, by step."""
        self._accuracies.update(accuracies)

    def save(self, step: int, state: TrainState, window: Mapping[str, Any] | None = None) -> None:
        """Begin to write `state` as the checkpoint of `step`, once the one before is written.

        `state` is copied first, and may be donated afterwards. An accuracy that `step` had before is forgotten.
        `window` is what the metrics since the last record add up to, where there are any.

        Raises:
            OSError: it, or the one before, could not be written; the earlier checkpoints are untouched.
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
        self._accuracies.pop(step, None)
        self._writing = step
        with self._explained(None):
            self._manager.save(step, args=ocp.args.Composite(**arguments), force=True)

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is there. Raises OSError as `save` does."""
        with self._explained(errno.EIO):
            self._manager.wait_until_finished()
        self._writing = None

    def check(self) -> None:
        """As `wait`, but only where there is nothing to wait for."""
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
        """Make an error of writing one for people; those that carry no number get `otherwise`, or pass."""
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
        """The state of the checkpoint of `step`, with the shapes, dtypes and shardings of `like` (may be abstract).

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
        """What the metrics since the last record added up to in the checkpoint of `step`; None where none were."""
        content = verified(self.folder / str(step), f'window/{_JSON}')
        return None if content is None else json.loads(content)

    def restore_latest(self, like: TrainState) -> TrainState:
        """The state of the last good checkpoint; see `restore`. Raises FileNotFoundError where there is none."""
        if self.last is None:
            raise FileNotFoundError(f'no checkpoint in {self.folder}')
        return self.restore(self.last, like)

    def tell_damage(self) -> str:
        """What is wrong with the damaged checkpoints and which one is used instead, in words; empty without any."""
        if not self.damaged:
            return ''
        faults = '; '.join(f'{self.folder / str(step)} is damaged: {words}' for step, words in self.damaged.items())
        used = 'there is no good one' if self.last is None else f'the last good one is step {self.last}'
        return f'{faults}. Left as it is; {used}'

    def restore_variables(self, step: int, like: Variables) -> Variables:
        """The variables to evaluate with of the checkpoint of `step`: their moving average where there is one."""
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
        """Wait for what is being deleted or written. Raises OSError as `save` does."""
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
    """The system's number of an error; TensorStore's are ValueErrors that carry it in their words."""
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
