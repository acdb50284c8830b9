"""Checkpoints of a run, by Orbax: the last few and the best one."""

import errno
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from flaxmobile.training.state import TrainState

Variables = dict[str, Any]


def _accuracy(metrics: Mapping[str, float]) -> float:
    return metrics['accuracy']


class Checkpoints:
    """The checkpoints in `run_dir`, one folder a step under `run_dir/checkpoints`.

    Kept are the last `keep` and the one of the highest validation accuracy (the latest of equals). A checkpoint is
    written beside and then renamed, so that one with a step's name is whole. A `read_only` one leaves alone what a run
    that is still training is about to write.
    """

    def __init__(self, run_dir: str | Path, keep: int = 1, *, read_only: bool = False):
        logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax tells of every save otherwise.
        self.folder = Path(run_dir).absolute() / 'checkpoints'
        best = BestN(get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False)
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_names=('variables', 'ema', 'optimizer'),
            options=ocp.CheckpointManagerOptions(
                best_fn=_accuracy,
                preservation_policy=AnyPreservationPolicy([LatestN(keep), best]),
                cleanup_tmp_directories=not read_only,
                enable_async_checkpointing=False,
                create=not read_only,
                read_only=read_only,
            ),
        )

    @property
    def last(self) -> int | None:
        """The step of the last checkpoint, None where there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the checkpoint of the highest validation accuracy, None where none was validated."""
        step = self._manager.best_step()
        return step if step is not None and self.accuracy(step) is not None else None

    def accuracy(self, step: int) -> float | None:
        """The validation accuracy saved with the checkpoint of `step`."""
        metrics = self._manager.metrics(step)
        return None if metrics is None else metrics['accuracy']

    def save(self, step: int, state: TrainState, accuracy: float | None) -> None:
        """Write `state` as the checkpoint of `step`; `accuracy` is the validation's, None where it was not validated.

        Raises:
            OSError: it could not be written; the earlier checkpoints are untouched.
        """
        items = {
            'variables': {'params': state.params, 'batch_stats': state.batch_stats},
            'optimizer': {'step': state.step, 'opt_state': state.opt_state},
        } | ({} if state.ema is None else {'ema': state.ema})
        arguments = ocp.args.Composite(**{name: ocp.args.StandardSave(item) for name, item in items.items()})
        metrics = None if accuracy is None else {'accuracy': float(accuracy)}
        try:
            self._manager.save(step, args=arguments, metrics=metrics, force=True)
        except Exception as error:
            # TensorStore's errors are ValueErrors that carry the system's words.
            full = 'No space left' in str(error)
            if not full and not isinstance(error, OSError):
                raise
            self._manager.reload()
            good = 'there is no earlier one' if self.last is None else f'the last good one is step {self.last}'
            number = errno.ENOSPC if full else getattr(error, 'errno', None) or errno.EIO
            reason = 'the disk is full' if full else str(error).splitlines()[0]
            raise OSError(number, f'the checkpoint of step {step} was not written ({reason}); {good}') from error

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of the checkpoint of `step`, with the shapes, dtypes and shardings of `like` (may be abstract).

        Raises:
            ValueError: the checkpoint is damaged or does not fit `like`.
        """
        wanted = {
            'variables': {'params': like.params, 'batch_stats': like.batch_stats},
            'optimizer': {'step': like.step, 'opt_state': like.opt_state},
        } | ({} if like.ema is None else {'ema': like.ema})
        items = self._restore(step, wanted)
        return like.replace(**items['variables'], **items['optimizer'], ema=items.get('ema'))

    def restore_latest(self, like: TrainState) -> TrainState:
        """The state of the last checkpoint; see `restore`. Raises FileNotFoundError where there is none."""
        if self.last is None:
            raise FileNotFoundError(f'no checkpoint in {self.folder}')
        return self.restore(self.last, like)

    def restore_variables(self, step: int, like: Variables) -> Variables:
        """The variables to evaluate with of the checkpoint of `step`: their moving average where there is one."""
        name = 'ema' if (self.folder / str(step) / 'ema').is_dir() else 'variables'
        return self._restore(step, {name: like})[name]

    def _restore(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        arguments = ocp.args.Composite(**{name: ocp.args.StandardRestore(item) for name, item in wanted.items()})
        try:
            return dict(self._manager.restore(step, args=arguments))
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f'the checkpoint {self.folder / str(step)} is damaged or does not fit this run ({reason}); it was left '
                'as it is'
            ) from error

    def close(self) -> None:
        """Wait for what is being deleted or written."""
        self._manager.close()
