"""The parts of a report on a classifier."""

from collections.abc import Iterator, Sequence

import numpy as np

from flaxmobile.markdown import literal, table
from flaxmobile.tasks.classification import pictures
from flaxmobile.tasks.classification.summary import Evaluation
from flaxmobile.tasks.task import Picture

SHOWN_CLASSES = 200
SHOWN_CONFUSIONS = 10


def sections(test: Evaluation, classes: Sequence[str]) -> Iterator[str | Picture]:
    """The parts, in order; empty where there is nothing to say."""
    yield Picture(
        'predictions.png',
        'Test images with their predictions',
        lambda: pictures.predictions(test.mistakes, test.right, classes),
    )
    yield Picture('confusion.png', 'Confusion of the classes', lambda: pictures.confusion(test.confusion, classes))
    yield _per_class(test, classes)
    yield _confused(test.confusion, classes)


def _per_class(test: Evaluation, classes: Sequence[str]) -> str:
    hits = np.diag(test.confusion)
    recall = hits / np.maximum(test.confusion.sum(axis=1), 1)
    precision = hits / np.maximum(test.confusion.sum(axis=0), 1)
    order = np.argsort(recall, kind='stable')
    rows = [
        [
            literal(classes[number]),
            f'{recall[number]:.1%}',
            f'{precision[number]:.1%}',
            f'{test.confusion[number].sum():,}',
        ]
        for number in order[:SHOWN_CLASSES]
    ]
    left = f'\n\nThe {len(classes) - SHOWN_CLASSES} best classes are left out.' if len(classes) > SHOWN_CLASSES else ''
    return f'## By class, the worst first\n\n{table(["class", "recall", "precision", "test images"], rows)}{left}'


def _confused(confusion: np.ndarray, classes: Sequence[str]) -> str:
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(wrong, axis=None, kind='stable')[::-1][:SHOWN_CONFUSIONS]
    pairs = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place]]
    rows = [[literal(classes[true]), literal(classes[predicted]), wrong[true, predicted]] for true, predicted in pairs]
    return f'## Confused most often\n\n{table(["true", "predicted", "test images"], rows)}' if rows else ''
