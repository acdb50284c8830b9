import io
import math
import unicodedata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxmobile.data import Preprocessing, Sample
from flaxmobile.data.dataset import RandomAccessDataset
from flaxmobile.parallel.mesh import make_mesh
from flaxmobile.tasks.classification import Classification
from flaxmobile.tasks.evaluation import evaluate
from flaxmobile.tasks.task import Scores
from flaxmobile.training.step import make_evaluation_step
from flaxmobile.weights.class_names import label_positions

NAMES = ('ant', 'bee', 'cat', 'dog', 'elk', 'fox', 'gnu')
PREPROCESSING = Preprocessing(image_size=1, channels=1, mean=(0.0,), std=(1.0,), crop_fraction=1.0)


class Pixels:
    """Images of one pixel, which is the position in the set; every one whose label is -1 is broken."""

    def __init__(self, labels: list[int]):
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        file = io.BytesIO()
        Image.fromarray(np.full((1, 1), index, np.uint8)).save(file, 'png')
        broken = self.labels[index] < 0
        return Sample(b'broken' if broken else file.getvalue(), max(self.labels[index], 0), f'image {index}')


class Table:
    """A model that answers with row `n` of a table of logits for the image whose pixel is `n`."""

    def __init__(self, logits: np.ndarray):
        self.logits = logits

    def apply(self, variables: Any, images: jax.Array) -> jax.Array:
        return jnp.asarray(self.logits)[jnp.round(images[:, 0, 0, 0] * 255).astype(int)]


def result_of(labels: list[int], logits: np.ndarray, **options: Any) -> Any:
    dataset = RandomAccessDataset('pixels', 'test', options.pop('data_classes', NAMES), Pixels(labels), 0.9)
    mesh = make_mesh(jax.devices()[:2])
    task = Classification(NAMES, PREPROCESSING, positions=tuple(label_positions(dataset.classes, NAMES).tolist()))
    step = make_evaluation_step(Table(logits), task, mesh)  # type: ignore[arg-type]
    return evaluate(task, step, {}, dataset, 4, mesh, **options)


def expected(labels: list[int], logits: np.ndarray) -> dict[str, Any]:
    """The same by loops over Python numbers."""
    correct = top5 = loss = 0.0
    confusion = [[0] * len(NAMES) for _ in NAMES]
    indices = [index for index, label in enumerate(labels) if label >= 0]
    for index in indices:
        row, label = [float(value) for value in logits[index]], labels[index]
        ranked = sorted(range(len(row)), key=lambda k: (-row[k], k))
        correct += ranked[0] == label
        top5 += label in ranked[:5]
        loss += math.log(sum(math.exp(value) for value in row)) - row[label]
        confusion[label][ranked[0]] += 1
    count = len(indices)
    means = {'accuracy': correct / count, 'accuracy_top5': top5 / count, 'loss': loss / count, 'count': count}
    return means | {'confusion': confusion, 'indices': indices}


@settings(max_examples=12, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 6), min_size=1, max_size=19).filter(lambda labels: max(labels) >= 0), data=st.data()
)
def test_every_readable_example_counts_once(labels: list[int], data: st.DataObject) -> None:
    if labels.count(-1) > max(1, int(0.9 * len(labels))):
        labels[0] = 0
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = rng.normal(0, 3, (19, 7)).astype(np.float32)
    result, wanted = result_of(labels, logits), expected(labels, logits)
    for name in ('accuracy', 'accuracy_top5', 'loss'):
        assert getattr(result, name) == pytest.approx(wanted[name], rel=1e-5)
    assert result.count == wanted['count']
    assert result.confusion.tolist() == wanted['confusion']
    assert result.indices.tolist() == wanted['indices']
    assert result.labels.tolist() == [label for label in labels if label >= 0]
    probability = np.exp(logits.max(1)) / np.exp(logits).sum(1)
    np.testing.assert_allclose(result.probabilities, probability[wanted['indices']], rtol=1e-5)


def test_the_worst_mistakes_come_first() -> None:
    logits = np.zeros((9, 7), np.float32)
    # Images 0 to 3 are taken for the bee with growing conviction; the others are right.
    labels = [0, 0, 0, 0, 1, 1, 2, 2, 3]
    for image, (winner, by) in enumerate([(1, 1), (1, 4), (1, 2), (1, 3), (1, 1), (1, 1), (2, 1), (2, 1), (3, 1)]):
        logits[image, winner] = by
    result = result_of(labels, logits, pictures=3)
    assert [example.image.item() for example in result.mistakes] == [1, 3, 2]
    assert [(example.label, example.prediction) for example in result.mistakes] == [(0, 1)] * 3
    worst = result.mistakes[0]
    assert worst.probability == pytest.approx(math.exp(4) / (math.exp(4) + 6), rel=1e-5)
    assert worst.label_probability == pytest.approx(1 / (math.exp(4) + 6), rel=1e-5)
    # One of each class before a second of any.
    assert [example.image.item() for example in result.right] == [4, 6, 8]


def test_classes_are_matched_by_name() -> None:
    logits = np.zeros((3, 7), np.float32)
    logits[[0, 1, 2], [5, 0, 5]] = 9
    result = result_of([0, 1, 1], logits, data_classes=('fox', 'ant'))
    # fox as fox, ant as ant, ant as fox.
    assert result.accuracy == pytest.approx(2 / 3)
    assert (result.confusion[5, 5], result.confusion[0, 0], result.confusion[0, 5]) == (1, 1, 1)
    assert label_positions(('fox', 'ant'), NAMES).tolist() == [5, 0]
    with pytest.raises(
        ValueError, match=r'does not know 2 of the 3 classes of the data set \(hen, owl\); it knows ant'
    ):
        label_positions(('hen', 'ant', 'owl'), NAMES)


def test_an_accent_that_an_older_run_wrote_apart() -> None:
    composed, apart = (unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD'))
    assert label_positions((composed, 'ant'), ('ant', apart)).tolist() == [1, 0]
    assert label_positions((composed,), (composed, apart)).tolist() == [0]


def test_labels_of_other_classes_are_no_labels_of_the_task() -> None:
    task, mesh = Classification(NAMES, PREPROCESSING), make_mesh(jax.devices()[:2])
    logits = np.eye(7, dtype=np.float32)
    step = make_evaluation_step(Table(logits), task, mesh)  # type: ignore[arg-type]
    for classes in (NAMES[::-1], NAMES[:3], ('hen', *NAMES[1:])):
        dataset = RandomAccessDataset('pixels', 'test', classes, Pixels([0, 1, 2]), 0.9)
        with pytest.raises(ValueError, match='in another order: give positions'):
            evaluate(task, step, {}, dataset, 4, mesh)
    with pytest.raises(ValueError, match='positions are for 2 classes and the data has 3'):
        Classification(NAMES, PREPROCESSING, positions=(5, 0)).check_data(NAMES[:3])
    composed, apart = (unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD'))
    Classification((composed, 'tea'), PREPROCESSING).check_data((apart, 'tea'))


def test_a_row_that_is_called_as_those_of_the_batch_is_refused() -> None:
    class Masked(Classification):
        def score(self, outputs: jax.Array, batch: Any) -> Scores:
            return Scores({'count': batch['mask'].sum()}, {'mask': outputs})

    task, mesh = Masked(NAMES, PREPROCESSING), make_mesh(jax.devices()[:2])
    step = make_evaluation_step(Table(np.eye(7, dtype=np.float32)), task, mesh)  # type: ignore[arg-type]
    dataset = RandomAccessDataset('pixels', 'test', NAMES, Pixels([0, 1]), 0.9)
    with pytest.raises(ValueError, match='the scores of Masked have rows named mask: rename them'):
        evaluate(task, step, {}, dataset, 4, mesh)
