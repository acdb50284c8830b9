"""Skipped updates: when too many in a row were skipped because a value was not finite, and the batch that caused it."""

from collections import deque
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from flaxmobile.files import write_whole

LATE = 2
"""Steps between a step and the look at its metrics. The loop has waited for that step by then, so looking costs no
time."""


class Taken(NamedTuple):
    """A step that was taken: its number, counted from 1, the batch that it got, and its metrics."""

    step: int
    batch: Mapping[str, jax.Array]
    metrics: Mapping[str, jax.Array]


class Watch:
    """Finds `most` skipped updates in a row. It looks at a step `LATE` steps later and keeps the batches until then."""

    def __init__(self, most: int):
        self._most = most
        self._recent: deque[Taken] = deque()

    def add(self, taken: Taken) -> Taken | None:
        """Add a step that may still be running. Returns the step at which too many were skipped, or None."""
        self._recent.append(taken)
        return self._next() if len(self._recent) > LATE else None

    def catch_up(self) -> Taken | None:
        """Look at all steps that were added, and wait for the last one. Returns as `add` does."""
        while self._recent:
            if found := self._next():
                return found
        return None

    def _next(self) -> Taken | None:
        taken = self._recent.popleft()
        return taken if int(taken.metrics['skipped_in_a_row']) >= self._most else None


def not_finite(taken: Taken) -> str:
    """Which value of a skipped step was not finite, in words."""
    values = jax.device_get(taken.metrics)
    figures = f'loss {values["loss"]}, gradient norm {values["gradient_norm"]}'
    if not np.isfinite(values['loss']):
        return f'the loss was not finite ({figures})'
    if not np.isfinite(values['gradient_norm']):
        return f'the gradient was not finite ({figures})'
    return f'loss and gradient were finite ({figures}), and the update or the statistics of BatchNorm were not'


def write_batch(run_dir: Path, taken: Taken) -> Path:
    """Write this process's part of the batch of a step to `run_dir/skipped_batch.npz`, and return the path.

    The file holds `step` int64 [], and the arrays of the batch: `image` uint8 [batch, height, width, channels], `label`
    int32 [batch] and all others that the step got. Process n > 0 writes `skipped_batch.n.npz`.
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
