"""Learning from a teacher: the loss by hand and by NumPy, what the teacher is shown, and whole runs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from networks import PREPROCESSING, Linear, classification
from tiny_run import CLASSES

from flaxmobile.data.preprocessing import Preprocessing
from flaxmobile.parallel.mesh import make_mesh, replicate, shard_batch
from flaxmobile.runs.folder import load_run
from flaxmobile.runs.teacher import load_teacher
from flaxmobile.runs.training import train
from flaxmobile.tasks.distillation import Distillation, distillation_loss
from flaxmobile.tasks.mixing import Mixing
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.state import create_state
from flaxmobile.training.step import make_train_step

MESH = make_mesh()
TEACHERS = Preprocessing(image_size=4, channels=1, mean=(0.1,), std=(0.2,))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_the_loss_by_hand() -> None:
    """At temperature 2, logits of log 9 and 0 are 3:1 and logits of 0 are even: KL = 3/4 log 3/2 + 1/4 log 1/2."""
    student, teacher, targets = np.zeros((1, 2)), np.array([[np.log(9.0), 0]]), np.array([[0.0, 1.0]])
    divergence = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    for weight in (0.0, 0.25, 1.0):
        expected = (1 - weight) * np.log(2) + weight * 4 * divergence
        np.testing.assert_allclose(distillation_loss(student, targets, teacher, weight, 2.0), [expected], rtol=1e-6)
    np.testing.assert_allclose(distillation_loss(teacher, targets, teacher, 1.0, 1.0), [0], atol=1e-7)


@pytest.mark.parity
@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
def test_the_loss_and_its_gradient_against_torch(temperature: float) -> None:
    import torch
    from torch.nn import functional

    generator = np.random.default_rng(0)
    logits, answers = (3 * generator.normal(size=(6, 10)).astype('float32') for _ in range(2))
    targets = softmax(generator.normal(size=(6, 10)).astype('float32'))
    ours, gradient = jax.value_and_grad(lambda x: distillation_loss(x, targets, answers, 0.3, temperature).mean())(
        logits
    )
    student = torch.tensor(logits, requires_grad=True)
    divergence = torch.nn.KLDivLoss(reduction='batchmean')(
        functional.log_softmax(student / temperature, -1), functional.softmax(torch.tensor(answers) / temperature, -1)
    )
    theirs = 0.7 * functional.cross_entropy(student, torch.tensor(targets)) + 0.3 * temperature**2 * divergence
    theirs.backward()
    assert student.grad is not None
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient, student.grad, rtol=1e-4, atol=1e-7)


def distillation(columns: tuple[int, ...] = (2, 0, 3), **changes: Any) -> Distillation:
    fields = {'weight': 0.4, 'temperature': 2.0} | changes
    return Distillation(Linear(4), variables(4, 1), TEACHERS, columns, PREPROCESSING, **fields)


def make_batch() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        'image': generator.integers(0, 256, (8, 4, 4, 1), dtype=np.uint8),
        'label': generator.integers(0, 3, 8, dtype=np.int32),
    }


def variables(num_classes: int, seed: int) -> dict[str, Any]:
    return Linear(num_classes).init(jax.random.key(seed), np.zeros((1, 4, 4, 1), np.float32))


def step(mixing: Mixing, taught: Distillation, teacher: Any) -> tuple[Any, Any]:
    model, optimizer = Linear(3), optax.sgd(0.5)
    task = classification(3, mixing=mixing, distillation=taught)
    train_step = make_train_step(model, optimizer, task, seed=0, mesh=MESH)
    state = replicate(create_state(model, optimizer, jax.random.key(0), (1, 4, 4, 1), None), MESH)
    return train_step(state, shard_batch(make_batch(), MESH), replicate(teacher, MESH))


@pytest.mark.parametrize('alpha', [0.0, pytest.param(0.8, marks=pytest.mark.slow)])
def test_a_step_of_softmax_regression(alpha: float) -> None:
    """Its gradient is pixels times the difference of probabilities, to the labels' and, at temperature T, T times
    that to the teacher's; the teacher sees the same mixed pixels, by its own mean and deviation, with three classes of
    four, in another order."""
    batch, teacher, params = make_batch(), variables(4, 1)['params'], variables(3, 0)['params']
    pixels, targets = batch['image'] / np.float32(255), np.eye(3, dtype=np.float32)[batch['label']]
    mixing = Mixing(mixup_alpha=alpha)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 0)
    pixels, targets = (np.asarray(mixed, np.float64) for mixed in mixing(pixels, targets, key))

    kernel, bias = (np.asarray(params['classifier'][name], np.float64) for name in ('kernel', 'bias'))
    images, shown = ((pixels.reshape(8, -1) - mean) / std for mean, std in ((0.5, 0.5), (0.1, 0.2)))
    logits = images @ kernel + bias
    answers = (shown @ np.asarray(teacher['classifier']['kernel']) + teacher['classifier']['bias'])[:, [2, 0, 3]]
    student, right = softmax(logits / 2), softmax(answers / 2)
    loss = -0.6 * (targets * np.log(softmax(logits))).sum(1) + 1.6 * (right * np.log(right / student)).sum(1)
    slope = (0.6 * (softmax(logits) - targets) + 0.8 * (student - right)) / 8

    new_state, metrics = step(mixing, distillation(), variables(4, 1))
    np.testing.assert_allclose(metrics['loss'], loss.mean(), rtol=1e-5)
    np.testing.assert_allclose(
        new_state.params['classifier']['kernel'], kernel - 0.5 * images.T @ slope, rtol=1e-4, atol=1e-6
    )


def test_the_teacher_is_an_argument() -> None:
    """Another teacher's variables need no new program and give another loss; none of them is in the state."""
    first, one = step(Mixing(), distillation(), variables(4, 1))
    _, other = step(Mixing(), distillation(), variables(4, 2))
    assert one['loss'] != other['loss']
    assert {leaf.shape for leaf in jax.tree.leaves(first.params)} == {(16, 3), (3,)}


def test_images_are_enlarged_for_the_teacher() -> None:
    """A teacher of 8 pixels sees an even image as even; of the student's 4 the corners keep their order."""
    larger = dataclasses.replace(TEACHERS, image_size=8, interpolation='bilinear')
    images = PREPROCESSING.normalize(np.arange(0, 256, 16, dtype=np.uint8).reshape(1, 4, 4, 1))
    taught = dataclasses.replace(distillation(), preprocessing=larger)
    shown = np.asarray(taught._prepare(images))
    assert shown.shape == (1, 8, 8, 1)
    corners = larger.denormalize(shown)[0, ::7, ::7, 0]
    np.testing.assert_array_equal(corners, [[0, 48], [192, 240]])
    pixels = np.arange(0, 256, 16, dtype=np.uint8).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(distillation()._prepare(images), TEACHERS.normalize(pixels), rtol=1e-5, atol=1e-6)


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**{'model': 'mobilenetv1_025', 'dataset': 'cifar10', **changes})


def test_values_that_are_not_allowed() -> None:
    with pytest.raises(ValueError, match=r'distillation_weight must be a number from 0 to 1, not 1\.5'):
        config(distillation_weight=1.5)
    with pytest.raises(ValueError, match='distillation_temperature must be a number above 0, not 0'):
        config(distillation_temperature=0)


@pytest.mark.slow
def test_a_run_learns_from_another(finished_run: Path, tiny: TrainConfig, tmp_path: Path) -> None:
    """From the teacher's answers alone it becomes about as good; its checkpoints have no place for the teacher."""
    taught = dataclasses.replace(tiny, teacher=str(finished_run), distillation_weight=1.0)
    train(taught, tmp_path / 'run')
    results = json.loads((tmp_path / 'run' / 'results.json').read_text())
    assert results['test']['accuracy'] > 0.5
    shapes = lambda run: [leaf.shape for leaf in jax.tree.leaves(load_run(run).variables)]  # noqa: E731
    assert shapes(tmp_path / 'run') == shapes(finished_run)


def teacher_of(config: TrainConfig, classes: tuple[str, ...]) -> Distillation | None:
    return load_teacher(config.teacher_plan, config.start_plan, classes, config.preprocessing)


def test_a_teacher_of_other_classes_or_channels(finished_run: Path, tiny: TrainConfig) -> None:
    taught = dataclasses.replace(tiny, teacher=str(finished_run))
    found = teacher_of(taught, ('top', 'left'))
    assert found is not None
    assert found.columns == (3, 1)
    assert teacher_of(tiny, ('top', 'left')) is None
    with pytest.raises(ValueError, match=r'teacher: .*does not know 1 of the 2 classes of the data set \(up\)'):
        teacher_of(taught, ('up', 'left'))
    colour = taught.with_options(channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ValueError, match='sees images of 1 channels, and channels is 3'):
        teacher_of(colour, CLASSES)
    with pytest.raises(ValueError, match='is no run, no file and no published weights'):
        teacher_of(dataclasses.replace(tiny, teacher='mobilnet'), CLASSES)
