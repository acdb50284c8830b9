"""Updates that were skipped as something was not finite: when there are too many, and of which batch."""

from collections import deque
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from flaxmobile.files import write_whole

# The loop waits for the step two before the one it starts, so that looking at that one waits for nothing.
LATE = 2


class Taken(NamedTuple):
    """A step that was taken: its number, counted from 1, its batch as the step saw it, and its metrics."""

    step: int
    batch: Mapping[str, jax.Array]
    metrics: Mapping[str, jax.Array]


class Watch:
    """Tells of `most` skipped updates in a row, two steps late; until then it keeps the batches."""

    def __init__(self, most: int):
        self._most = most
        self._recent: deque[Taken] = deque()

    def add(self, taken: Taken) -> Taken | None:
        """Take in a step that may still be running; gives the one at which there were too many, or None."""
        self._recent.append(taken)
        return self._next() if len(self._recent) > LATE else None

    def catch_up(self) -> Taken | None:
        """As `add`, for all steps taken in; waits for the last one."""
        while self._recent:
            if found := self._next():
                return found
        return None

    def _next(self) -> Taken | None:
        taken = self._recent.popleft()
        return taken if int(taken.metrics['skipped_in_a_row']) >= self._most else None


def not_finite(taken: Taken) -> str:
    """What of a skipped step was not finite, in words."""
    values = jax.device_get(taken.metrics)
    figures = f'loss {values["loss"]}, gradient norm {values["gradient_norm"]}'
    if not np.isfinite(values['loss']):
        return f'the loss was not finite ({figures})'
    if not np.isfinite(values['gradient_norm']):
        return f'the gradient was not finite ({figures})'
    return f'loss and gradient were finite ({figures}), and the update or the statistics of BatchNorm were not'


def write_batch(run_dir: Path, taken: Taken) -> Path:
    """Write the batch of a step, what this process has of it, as `run_dir/skipped_batch.npz`, and give the path.

    It holds `step` int64 [], and of the batch `image` uint8 [batch, height, width, channels], `label` int32 [batch] and
    whatever else the step was given. Each further process has a file of its own, by its number.
    """
    number = jax.process_index()
    path = run_dir / (f'skipped_batch.{number}.npz' if number else 'skipped_batch.npz')
    content, arrays = BytesIO(), {name: _local(array) for name, array in taken.batch.items()}
    np.savez_compressed(content, **{'step': np.asarray(taken.step), **arrays})  # type: ignore[arg-type]
    write_whole(path, content.getvalue())
    return path


def _local(array: jax.Array) -> np.ndarray:
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
