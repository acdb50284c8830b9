import functools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import CLASSES, blobs

from flaxmobile import cli
from flaxmobile.data import Dataset, read_image
from flaxmobile.parallel.mesh import make_mesh
from flaxmobile.runs.folder import load_run
from flaxmobile.runs.splits import load_splits
from flaxmobile.tasks.probe import (
    PENALTIES,
    Embeddings,
    Probe,
    embed,
    fit_linear,
    linear_probe,
    nearest_neighbours,
    probe,
)
from flaxmobile.training.config import TrainConfig


def clusters(seed: int, count: int = 300, spread: float = 2.0) -> Embeddings:
    """Five classes around points of their own, of 20 features on very different scales."""
    centres = np.random.default_rng(0).normal(size=(5, 20))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, count).astype(np.int32)
    vectors = (centres[labels] + spread * rng.normal(size=(count, 20))) * np.geomspace(0.1, 10, 20) + 3
    return Embeddings(vectors.astype(np.float32), labels)


def standardised(embeddings: Embeddings) -> np.ndarray:
    vectors = embeddings.vectors
    return (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)


@pytest.mark.parametrize('penalty', [1.0, 1e-3])
def test_the_fit_is_where_the_gradient_is_zero(penalty: float) -> None:
    """X'(softmax - targets) / n + penalty * kernel = 0 and the same without penalty for the bias, in NumPy."""
    given = clusters(1)
    vectors = standardised(given)
    kernel, bias = (np.asarray(part, np.float64) for part in fit_linear(vectors, given.labels, 5, penalty))
    logits = vectors @ kernel + bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    slope = (powers / powers.sum(axis=1, keepdims=True) - np.eye(5)[given.labels]) / len(vectors)
    np.testing.assert_allclose(vectors.T @ slope + penalty * kernel, 0, atol=2e-5)
    np.testing.assert_allclose(slope.sum(axis=0), 0, atol=2e-5)
    assert np.abs(kernel).max() > 0.05


def test_neighbours_by_hand() -> None:
    """Cosines 1, 0.8 and 0.6 to the fitted vectors: exp(0.8 / 0.07) + exp(0.6 / 0.07) is less than exp(1 / 0.07)."""
    fitted = Embeddings(np.array([[2.0, 0], [0.8, 0.6], [6, 8]], np.float32), np.array([1, 0, 0], np.int32))
    assert math.exp(0.8 / 0.07) + math.exp(0.6 / 0.07) < math.exp(1 / 0.07)
    # Twice the same direction as the second and the third: 0.96 between them, and 0.8 to the first.
    assert nearest_neighbours(fitted, np.array([[5, 0], [0.8, 0.6]], np.float32), 2).tolist() == [1, 0]


def test_only_the_twenty_nearest_vote() -> None:
    """Twenty of class 0 at cosine 0.99, and a thousand of class 1 a little further away, whose votes would be more."""
    angles = np.concatenate([np.full(20, math.acos(0.99)), np.full(1000, math.acos(0.98))])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    fitted = Embeddings(vectors, np.repeat([0, 1], [20, 1000]).astype(np.int32))
    assert nearest_neighbours(fitted, np.array([[1, 0]], np.float32), 2).tolist() == [0]


@pytest.mark.slow
def test_a_strong_penalty_is_chosen_for_noise_and_a_weak_one_for_what_is_plain() -> None:
    noise = clusters(1, 200)._replace(labels=np.random.default_rng(2).integers(0, 5, 200).astype(np.int32))
    plain = clusters(1, 200, spread=0.1)
    (noisy, _), (clear, predictions) = (linear_probe(given, given.vectors, 5) for given in (noise, plain))
    assert noisy in PENALTIES
    assert clear in PENALTIES
    assert clear < noisy
    assert np.mean(predictions == plain.labels) == 1


@pytest.mark.slow
def test_a_feature_that_does_not_vary_changes_nothing() -> None:
    given, tested = clusters(1), clusters(2)
    padded = (np.pad(part.vectors, [(0, 0), (0, 1)], constant_values=7) for part in (given, tested))
    expected = linear_probe(given, tested.vectors, 5)
    penalty, predictions = linear_probe(Embeddings(next(padded), given.labels), next(padded), 5)
    assert penalty == expected[0]
    np.testing.assert_array_equal(predictions, expected[1])


def test_embeddings_are_the_classifiers_input_in_the_order_of_the_split(tiny: TrainConfig, finished_run: Path) -> None:
    loaded, images = load_run(finished_run), blobs('blobs', 'test')
    found = embed(loaded.module, loaded.variables, loaded.preprocessing, images, 8, make_mesh())
    examples = [images._examples[index] for index in range(37)]  # type: ignore[attr-defined]
    assert found.labels.tolist() == [example.label for example in examples]
    pixels = np.stack([read_image(example.image, 1) for example in examples])
    logits = jax.jit(loaded.module.apply)(loaded.variables, loaded.preprocessing.normalize(pixels))
    head = loaded.variables['params']['classifier']
    np.testing.assert_allclose(found.vectors @ head['kernel'] + head['bias'], logits, rtol=1e-4, atol=1e-4)


def probed(loaded: Any, train: Dataset, test: Dataset) -> Probe:
    return probe(loaded.module, loaded.variables, loaded.preprocessing, train, test, 8, make_mesh())


@functools.cache
def of_the_run(run_dir: Path, plan: Any) -> Probe:
    """The fits to a run's embeddings, which cost the most here."""
    splits = load_splits(plan)
    return probed(load_run(run_dir), splits.train, splits.test)


def test_a_probe_of_a_run(tiny: TrainConfig, finished_run: Path) -> None:
    """Of the 37 test images 34 are labelled rightly, which a run that learnt all there is can tell."""
    found = of_the_run(finished_run, tiny.data_plan)
    assert (found.train_images, found.test_images) == (96, 37)
    assert 31 <= 37 * found.linear_accuracy <= 34.001
    assert 31 <= 37 * found.knn_accuracy <= 34.001
    untrained, splits = load_run(finished_run), load_splits(tiny.data_plan)
    zeros = jax.tree.map(np.zeros_like, untrained.variables)
    train, test = (
        embed(untrained.module, zeros, untrained.preprocessing, images, 8, make_mesh())
        for images in (splits.train, splits.test)
    )
    assert np.mean(nearest_neighbours(train, test.vectors, 4) == test.labels) < 0.5


def test_the_command_probes_a_run(tiny: TrainConfig, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(['probe', str(finished_run), '--batch-size', '8'])
    assert ended.value.code == 0
    title, neighbours, linear = capsys.readouterr().out.splitlines()
    assert 'on blobs: fitted to 96 images of train, tested on 37 of test, at 8 pixels' in title
    found = of_the_run(finished_run, tiny.data_plan)
    assert neighbours == f'20 nearest neighbours {found.knn_accuracy:.2%}'
    assert linear == f'linear probe {found.linear_accuracy:.2%} (penalty {found.penalty:g})'


def test_what_cannot_be_probed(tiny: TrainConfig, finished_run: Path) -> None:
    loaded, one, other = load_run(finished_run), blobs('blobs', 'train'), blobs('blobs', 'test')
    other.classes = CLASSES[::-1]
    with pytest.raises(ValueError, match=r'classes of blobs \(train\) and of blobs \(test\) differ'):
        probed(loaded, one, other)
    one.parts = other.parts = (('train', range(40, 60)),)
    other.classes = CLASSES
    with pytest.raises(ValueError, match="20 images of 'test' are also in 'train'"):
        probed(loaded, one, other)


@pytest.mark.parity
@pytest.mark.parametrize('penalty', [1.0, 0.1, 0.01])
def test_logistic_regression_against_scikit_learn(penalty: float) -> None:
    from sklearn.linear_model import LogisticRegression

    given, tested = clusters(1), clusters(2)
    vectors = standardised(given)
    theirs = LogisticRegression(C=1 / (penalty * len(vectors)), tol=1e-9, max_iter=10_000)
    theirs.fit(vectors.astype(np.float64), given.labels)
    ours = fit_linear(vectors, given.labels, 5, penalty)
    np.testing.assert_allclose(np.asarray(ours.kernel).T, theirs.coef_, atol=2e-4)
    rows = standardised(tested).astype(np.float64)
    np.testing.assert_array_equal(np.argmax(rows @ ours.kernel + ours.bias, axis=1), theirs.predict(rows))


@pytest.mark.parity
def test_neighbours_against_scikit_learn() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    given, tested = clusters(1), clusters(2)
    theirs = KNeighborsClassifier(20, metric='cosine', weights=lambda distance: np.exp((1 - distance) / 0.07))
    theirs.fit(given.vectors, given.labels)
    ours = nearest_neighbours(given, tested.vectors, 5)
    np.testing.assert_array_equal(ours, theirs.predict(tested.vectors))
    assert 0.5 < np.mean(ours == tested.labels) < 1
