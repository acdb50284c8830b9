"""How well a model does on a data set: accuracy, loss, confusion, and which examples it gets wrong."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from flaxmobile.data import Dataset, Preprocessing
from flaxmobile.parallel.mesh import shard_batch
from flaxmobile.weights.class_names import label_positions

Rows = dict[str, np.ndarray]
FIGURES = ('loss', 'accuracy', 'accuracy_top5', 'count')
"""What an evaluation measures."""
EvaluationStep = Callable[[Any, Any], Mapping[str, jax.Array]]


@dataclass(frozen=True)
class Example:
    """An example of an evaluation with its image, uint8 [height, width, channels], as the model saw it."""

    image: np.ndarray
    label: int
    prediction: int
    probability: float
    """Of the prediction."""
    label_probability: float
    """Of the true class."""


@dataclass(frozen=True)
class Evaluation:
    """The result over every readable example of a data set.

    In the order of the split, and each [examples]: `indices` int64 (positions in the split), `labels` and `predictions`
    int32, `probabilities` float32 (of the prediction). `confusion` is int64 [classes, classes] with a row a true class.
    `mistakes` are some wrong examples, the least probable true class first; `right` some right ones, of many classes.
    """

    accuracy: float
    accuracy_top5: float
    loss: float
    count: int
    confusion: np.ndarray
    indices: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    mistakes: tuple[Example, ...] = ()
    right: tuple[Example, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """The figures alone, by name."""
        return {name: getattr(self, name) for name in FIGURES}


def evaluate(
    step: EvaluationStep,
    variables: Any,
    dataset: Dataset,
    preprocessing: Preprocessing,
    batch_size: int,
    mesh: Mesh,
    *,
    classes: Sequence[str] | None = None,
    pictures: int = 0,
) -> Evaluation:
    """Evaluate every example of `dataset` once.

    Args:
        step: what `make_evaluation_step` gave for the model.
        variables: the model's, on the mesh.
        batch_size: over all processes.
        classes: the model's classes, where they may be others than the data set's: matched by name.
        pictures: how many examples come back with their images, as many mistakes and as many right ones.

    Raises:
        ValueError: no example could be read, or the model does not know a class.
    """
    classes = dataset.classes if classes is None else classes
    positions = label_positions(dataset.classes, classes)
    batches = dataset.evaluation_batches(
        batch_size // jax.process_count(),
        preprocessing,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    gallery = _Gallery(pictures, len(classes))
    sums: dict[str, float] = {}
    rows: list[Rows] = []
    for batch in batches:
        batch = batch | {'label': positions[batch['label']]}
        results = dict(step(variables, shard_batch(batch, mesh)))
        labelled = {name: batch[name] for name in ('label', 'mask', 'index')}
        found = _rows(
            multihost_utils.process_allgather(labelled | {'probabilities': results.pop('probabilities')}, True)
        )
        rows.append({name: column[found['mask']] for name, column in found.items()})
        # A process has the images of its own part of the batch alone.
        gallery.add(batch['image'], found, jax.process_index() * len(batch['image']))
        for name, value in jax.device_get(results).items():
            sums[name] = sums.get(name, 0.0) + float(value)
    if not sums.get('count'):
        raise ValueError(f'{dataset.name} ({dataset.split}) holds no example that can be read')
    return _result(sums, rows, len(classes), gallery)


def _rows(gathered: Mapping[str, np.ndarray]) -> Rows:
    probabilities = gathered['probabilities']
    prediction = probabilities.argmax(-1).astype(np.int32)
    every = np.arange(len(prediction))
    return {
        'label': gathered['label'],
        'mask': gathered['mask'],
        'index': gathered['index'],
        'prediction': prediction,
        'probability': probabilities[every, prediction],
        'label_probability': probabilities[every, gathered['label']],
    }


def _result(sums: Mapping[str, float], rows: list[Rows], classes: int, gallery: '_Gallery') -> Evaluation:
    columns = {name: np.concatenate([part[name] for part in rows]) for name in rows[0]}
    order = np.argsort(columns['index'], kind='stable')
    columns = {name: column[order] for name, column in columns.items()}
    mistakes, right = gallery.choose(columns)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (columns['label'], columns['prediction']), 1)
    return Evaluation(
        accuracy=sums['correct'] / sums['count'],
        accuracy_top5=sums['correct_top5'] / sums['count'],
        loss=sums['loss'] / sums['count'],
        count=round(sums['count']),
        confusion=confusion,
        indices=columns['index'].astype(np.int64),
        labels=columns['label'].astype(np.int32),
        predictions=columns['prediction'],
        probabilities=columns['probability'].astype(np.float32),
        mistakes=gallery.show(columns, mistakes),
        right=gallery.show(columns, right),
    )


class _Gallery:
    """The examples to show: the worst mistakes, and the first right ones of each class.

    Each process keeps the images that may be among them of those that it sees.
    """

    def __init__(self, size: int, classes: int):
        self._size, self._per_class = size, -(-size // classes)
        self._images: dict[int, np.ndarray] = {}
        self._mistakes: list[tuple[float, int]] = []
        self._right: Counter[int] = Counter()
        self._empty = np.zeros((), np.uint8)

    def add(self, images: np.ndarray, rows: Rows, first: int) -> None:
        """Consider `images`, which are those of `rows` from `first` on."""
        if not self._size:
            return
        self._empty = np.zeros_like(images[0])
        for image, row in zip(images, range(first, first + len(images)), strict=True):
            if not rows['mask'][row]:
                continue
            index, label = rows['index'][row].item(), rows['label'][row].item()
            if label != rows['prediction'][row]:
                self._mistakes.append((rows['label_probability'][row].item(), index))
            elif self._right[label] < self._per_class:
                self._right[label] += 1
            else:
                continue
            self._images[index] = image.copy()
        self._mistakes.sort()
        for _, index in self._mistakes[self._size :]:
            del self._images[index]
        del self._mistakes[self._size :]

    def choose(self, columns: Rows) -> tuple[np.ndarray, np.ndarray]:
        """The places in `columns` of the mistakes and of the right ones, one of each class before a second of any."""
        labels, wrong = columns['label'], columns['label'] != columns['prediction']
        mistakes, right = np.flatnonzero(wrong), np.flatnonzero(~wrong)
        mistakes = mistakes[np.argsort(columns['label_probability'][mistakes], kind='stable')]
        seen: Counter[int] = Counter()
        ranked = []
        for place in right if self._size else ():
            rank, label = seen[labels[place]], labels[place]
            seen[label] += 1
            if rank < self._per_class:
                ranked.append((rank, label, place))
        right = np.array([place for _, _, place in sorted(ranked)], np.int64)
        return mistakes[: self._size], right[: self._size]

    def show(self, columns: Rows, places: np.ndarray) -> tuple[Example, ...]:
        """The examples at `places`, on every process with their images, of which one process has each."""
        names = ('label', 'prediction', 'probability', 'label_probability')
        examples = []
        for place in places:
            image = self._images.get(columns['index'][place].item(), self._empty)
            image = multihost_utils.process_allgather(image).sum(axis=0, dtype=np.uint8)
            examples.append(Example(image, *(columns[name][place].item() for name in names)))
        return tuple(examples)
