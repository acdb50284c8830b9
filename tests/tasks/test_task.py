"""A task that is no classification, a number for each image, goes through all that training and evaluation do."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from tiny_run import CLASSES, Blobs, blobs

from flaxmobile.data import Augmentation, Preprocessing, read_image
from flaxmobile.parallel.mesh import make_mesh, replicate, shard_batch
from flaxmobile.runs.plots import curves
from flaxmobile.tasks import Best, Classification, Measure, Scores, Task, evaluate
from flaxmobile.tasks.task import LOSS
from flaxmobile.training import Checkpoints, Learner, Timetable, create_state, make_evaluation_step, read_metrics
from flaxmobile.training.loop import Session, TrainingImages, fit
from flaxmobile.training.metrics import Display, MetricsLog

PREPROCESSING = Preprocessing(image_size=8, channels=1, mean=(0.3,), std=(0.2,), crop_fraction=1.0)
DISTANCE, COUNT = Measure('distance', 'mean distance', 'amount'), Measure('count', 'images', 'count')


@dataclasses.dataclass(frozen=True)
class Means:
    """What an evaluation comes to."""

    metrics: dict[str, float]


class NoPictures:
    def add(self, images: np.ndarray, rows: dict[str, np.ndarray], first: int) -> None:
        """Nothing is shown."""


@dataclasses.dataclass(frozen=True)
class Regression:
    """The number of an image's label as a number, times a factor that is a variable of its own."""

    classes: tuple[str, ...] = CLASSES
    preprocessing: Preprocessing = PREPROCESSING
    variables: Any = None

    logged: ClassVar[tuple[Measure, ...]] = ()
    measured: ClassVar[tuple[Measure, ...]] = (LOSS, DISTANCE, COUNT)
    best: ClassVar[Best] = Best(DISTANCE, highest=False)
    label_layers: ClassVar[frozenset[str]] = frozenset({'number'})
    pictures: ClassVar[tuple[str, ...]] = ()

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array, variables: Any) -> tuple[jax.Array, jax.Array]:
        return self.preprocessing.normalize(batch['image']), variables['factor'] * batch['label'].astype(jnp.float32)

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        return jnp.square(outputs - targets)

    def log(self, outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        return {}

    def score(self, outputs: jax.Array, batch: Mapping[str, jax.Array]) -> Scores:
        distance, mask = jnp.abs(outputs - batch['label']), batch['mask']
        sums = {'count': mask.sum(), 'loss': jnp.sum(mask * distance**2), 'distance': jnp.sum(mask * distance)}
        return Scores(sums, {'distance': distance})

    def check_data(self, classes: Sequence[str]) -> None:
        assert tuple(classes) == self.classes

    def gallery(self, pictures: int) -> NoPictures:
        return NoPictures()

    def summarise(self, rows: dict[str, np.ndarray], sums: Mapping[str, np.ndarray], gallery: Any) -> Means:
        count = round(float(sums['count']))
        assert rows.keys() == {'distance', 'mask', 'index'}
        assert (len(rows['distance']), rows['index'].tolist()) == (count, list(range(count)))
        return Means({name: float(sums[name]) / count for name in ('loss', 'distance')} | {'count': count})

    @staticmethod
    def predict(outputs: jax.Array) -> jax.Array:
        return outputs

    def shown(self) -> tuple[Measure, ...]:
        return (DISTANCE, COUNT)

    def results(self, result: Means) -> dict[str, Any]:
        return {}

    def sections(self, result: Means) -> list[str]:
        return []


class Number(nn.Module):
    """A linear function of the pixels."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return nn.Dense(1, name='number')(images.reshape(len(images), -1))[:, 0]


def learner(**fields: Any) -> Learner:
    task: Task = Regression(variables={'factor': jnp.float32(1)})
    return Learner(Number(), optax.sgd(1e-3), task, make_mesh(jax.devices()[:2]), **fields)


def started(made: Learner) -> Any:
    state = create_state(made.model, made.optimizer, jax.random.key(0), (1, 8, 8, 1), made.ema_decay)
    return replicate(state, made.mesh)


def test_a_step_of_linear_regression() -> None:
    """The gradient of the mean squared distance is twice the distance times the pixels, by hand."""
    made = learner()
    batch = next(blobs('blobs', 'train').train_batches(16, PREPROCESSING, Augmentation(flip=False), seed=0))
    state = started(made)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state.params['number'])
    pixels = (batch['image'].reshape(16, -1) / 255 - 0.3) / 0.2
    for factor in (1.0, 3.0):
        distance = pixels @ params['kernel'][:, 0] + params['bias'] - factor * batch['label']
        variables = replicate({'factor': jnp.float32(factor)}, made.mesh)
        after, metrics = made.train_step()(started(made), shard_batch(batch, made.mesh), variables)
        expected = params['kernel'] - 1e-3 * (2 * pixels.T @ distance / 16)[:, None]
        np.testing.assert_allclose(metrics['loss'], np.mean(distance**2), rtol=1e-5)
        np.testing.assert_allclose(after.params['number']['kernel'], expected, rtol=1e-4, atol=1e-6)
        assert metrics.keys() == {'loss', 'gradient_norm', 'skipped_updates', 'skipped_in_a_row'}


def test_a_step_gets_whatever_targets_a_batch_has() -> None:
    batch = {
        'image': np.zeros((4, 8, 8, 1), np.uint8),
        'boxes': np.arange(64.0).reshape(4, 4, 4),
        'index': np.arange(4),
    }
    placed = shard_batch(batch, make_mesh(jax.devices()[:2]))
    assert placed.keys() == {'image', 'boxes'}
    np.testing.assert_array_equal(placed['boxes'], batch['boxes'])


def test_an_evaluation_by_hand() -> None:
    """Over 37 images in batches of 8, of which the last is filled up."""
    made, state = learner(), started(learner())
    step = make_evaluation_step(made.model, made.task, made.mesh)
    found = evaluate(made.task, step, state.variables, blobs('blobs', 'test'), 8, made.mesh)
    examples = [Blobs('test')[index] for index in range(37)]
    pixels = np.stack([read_image(example.image, 1) for example in examples]).reshape(37, -1)
    params = jax.tree.map(np.asarray, state.params['number'])
    outputs = ((pixels / 255 - 0.3) / 0.2) @ params['kernel'][:, 0] + params['bias']
    distance = np.abs(outputs - [example.label for example in examples])
    np.testing.assert_allclose(found.metrics['distance'], distance.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.metrics['loss'], (distance**2).mean(), rtol=1e-5)
    assert found.metrics['count'] == 37


def test_the_loop_goes_by_the_names_of_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records, lines and the best checkpoint: that of the least distance."""
    made = learner()
    timetable, task = Timetable(6, 3.0, 18, 5, 6, 18), made.task
    data = TrainingImages(blobs('blobs', 'train'), blobs('blobs', 'validation'), 16, Augmentation(flip=False))
    step = make_evaluation_step(made.model, task, made.mesh)
    with (
        closing(Checkpoints(tmp_path, 9, highest=task.best.highest)) as checkpoints,
        closing(MetricsLog(tmp_path, task)) as log,
        Display(task, timetable.total, timetable.epochs) as display,
    ):
        rest = {'checkpoints': checkpoints, 'log': log, 'display': display}
        fit(Session(made, data, timetable, optax.constant_schedule(1e-3), 10, step, **rest), started(made), 0)
        records = read_metrics(tmp_path / 'metrics.jsonl', task)
        distances = {record['step']: record['distance'] for record in records if record['split'] == 'validation'}
        assert list(distances) == [6, 12, 18]
        assert checkpoints.best == min(distances, key=distances.__getitem__)
        checkpoints.validated({6: -1.0})
        assert checkpoints.best == 6
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('validation')]
    assert re.fullmatch(
        r'validation after 1\.0 epochs  loss \d+\.\d{4}  mean distance \d+\.\d{4}  best so far', lines[0]
    )
    with pytest.raises(ValueError, match='no accuracy'):
        read_metrics(tmp_path / 'metrics.jsonl', Classification)
    path = tmp_path / 'metrics.jsonl'
    path.write_text(re.sub(r'"distance": [\d.]+', '"distance": -1', re.sub(r', "sha256": "\w+"', '', path.read_text())))
    with pytest.raises(ValueError, match='distance is -1, not a number, 0 or more'):
        read_metrics(path, task)


class ByLoss(Regression):
    best: ClassVar[Best] = Best(LOSS, highest=False)


def test_a_best_measure_that_is_the_loss_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(ByLoss, 9, 3.0) as display:
        display.validation(1.0, {'loss': 0.5, 'distance': 1.0, 'count': 9}, best=False)
    assert capsys.readouterr().out == 'validation after 1.0 epochs  loss 0.5000\n'
    records = [
        {'split': 'train', 'epoch': 0.5, 'loss': 2.0, 'learning_rate': 0.1},
        {'split': 'validation', 'epoch': 1.0, 'loss': 1.5, 'distance': 1.0},
    ]
    other = DISTANCE._replace(title='mAP at 50')
    titles = [[axes.get_title(loc='left') for axes in curves(records, each).axes] for each in (LOSS, DISTANCE, other)]
    expected = [['Loss', *more, 'Learning rate'] for more in ([], ['Mean distance'], ['MAP at 50'])]
    assert titles == expected
