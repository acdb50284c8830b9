"""Evaluation: every image of a data set goes through a network once, and the task sums up."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from flaxmobile.data import Dataset
from flaxmobile.messages import listing
from flaxmobile.parallel.mesh import shard_batch
from flaxmobile.tasks.task import Rows, Scores, Task

EvaluationStep = Callable[[Any, Any], Scores]


def evaluate(
    task: Task,
    step: EvaluationStep,
    variables: Any,
    dataset: Dataset,
    batch_size: int,
    mesh: Mesh,
    *,
    pictures: int = 0,
) -> Any:
    """Evaluate every example of `dataset` once. Returns what `task.summarise` returns.

    Args:
        task: what the model has learnt.
        step: the evaluation step that `make_evaluation_step` made for the model and the task.
        variables: the model's variables, on the mesh.
        dataset: the examples.
        batch_size: images of a batch over all processes.
        mesh: the devices.
        pictures: how many examples of each kind are returned with their images.

    Raises:
        ValueError: no example could be read; the data has other classes than the task scores; a row of the scores is
            called `mask` or `index`.
    """
    task.check_data(dataset.classes)
    batches = dataset.evaluation_batches(
        batch_size // jax.process_count(),
        task.preprocessing,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    gallery, parts = task.gallery(pictures), list[Rows]()
    sums: dict[str, np.ndarray] = {}
    for batch in batches:
        scores = step(variables, shard_batch(batch, mesh))
        own = {name: batch[name] for name in ('mask', 'index')}
        if taken := own.keys() & scores.rows.keys():
            raise ValueError(
                f'the scores of {type(task).__name__} have rows named {listing(sorted(taken))}: rename them'
            )
        rows: Rows = multihost_utils.process_allgather(own | scores.rows, True)
        parts.append({name: column[rows['mask']] for name, column in rows.items()})
        # A process has only the images of its own part of the batch.
        gallery.add(batch['image'], rows, jax.process_index() * len(batch['image']))
        sums = _added(sums, jax.device_get(scores.sums))
    if not sums.get('count'):
        raise ValueError(f'{dataset.name} ({dataset.split}) holds no example that can be read')
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns['index'], kind='stable')
    return task.summarise({name: column[order] for name, column in columns.items()}, sums, gallery)


def _added(sums: Mapping[str, np.ndarray], more: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sums in float64, which counts images and pixels exactly."""
    return {name: np.add(sums.get(name, 0), value, dtype=np.float64) for name, value in more.items()}
