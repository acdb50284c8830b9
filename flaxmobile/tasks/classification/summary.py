"""The result of evaluating a classifier: accuracy, loss, confusion, and the examples that it gets wrong."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jax.experimental import multihost_utils

from flaxmobile.tasks.task import LOSS, Measure, Rows

ACCURACY = Measure('accuracy', 'accuracy', 'share')
ACCURACY_TOP5 = Measure('accuracy_top5', 'top 5', 'share')
COUNT = Measure('count', 'images', 'count')
MEASURED = (LOSS, ACCURACY, ACCURACY_TOP5, COUNT)
"""What an evaluation measures."""


@dataclass(frozen=True)
class JudgedExample:
    """An example of an evaluation with its image, uint8 [height, width, channels], as the model saw it."""

    image: np.ndarray
    label: int
    prediction: int
    probability: float
    """The probability of the predicted class."""
    label_probability: float
    """The probability of the true class."""


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
    mistakes: tuple[JudgedExample, ...] = ()
    right: tuple[JudgedExample, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """The figures alone, by name."""
        return {measure.name: getattr(self, measure.name) for measure in MEASURED}


def summarise(rows: Rows, sums: Mapping[str, np.ndarray], classes: int, gallery: 'ExampleGallery') -> Evaluation:
    """The result of the rows and sums that `Classification.score` gave, for so many classes."""
    totals = {name: float(value) for name, value in sums.items()}
    mistakes, right = gallery.choose(rows)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (rows['label'], rows['prediction']), 1)
    return Evaluation(
        accuracy=totals['correct'] / totals['count'],
        accuracy_top5=totals['correct_top5'] / totals['count'],
        loss=totals['loss'] / totals['count'],
        count=round(totals['count']),
        confusion=confusion,
        indices=rows['index'].astype(np.int64),
        labels=rows['label'].astype(np.int32),
        predictions=rows['prediction'],
        probabilities=rows['probability'].astype(np.float32),
        mistakes=gallery.show(rows, mistakes),
        right=gallery.show(rows, right),
    )


class ExampleGallery:
    """The examples to show: the worst mistakes, and the first correct ones of each class.

    Each process keeps the candidates among the images of its own part of the batch.
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
        """The rows of the mistakes and of the correct examples to show, the latter one of each class first."""
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

    def show(self, columns: Rows, places: np.ndarray) -> tuple[JudgedExample, ...]:
        """The examples at `places`. One process has each image; all processes get all of them."""
        names = ('label', 'prediction', 'probability', 'label_probability')
        examples = []
        for place in places:
            image = self._images.get(columns['index'][place].item(), self._empty)
            image = multihost_utils.process_allgather(image).sum(axis=0, dtype=np.uint8)
            examples.append(JudgedExample(image, *(columns[name][place].item() for name in names)))
        return tuple(examples)
