import dataclasses
import functools
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from networks import Normalized, classification
from PIL import Image
from tiny_run import CLASSES, Blobs, TinyNet

from flaxmobile.data import Sample
from flaxmobile.data.dataset import RandomAccessDataset
from flaxmobile.parallel.mesh import make_mesh, replicate, shard_batch
from flaxmobile.runs import splits
from flaxmobile.runs.training import train
from flaxmobile.tasks.classification import Classification
from flaxmobile.training import loop as engine
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.metrics import Window, read_metrics
from flaxmobile.training.skipping import Taken, not_finite, write_batch
from flaxmobile.training.state import TrainState, create_state
from flaxmobile.training.step import make_train_step

MESH = make_mesh()
WHITE = 40
SMALL, HUGE = optax.sgd(0.1), optax.sgd(3e38)


@jax.custom_vjp
def broken(values: jax.Array, forward: jax.Array, backward: jax.Array) -> jax.Array:
    """`values * forward`, whose gradient is that of the identity times `backward`."""
    return values * forward


broken.defvjp(
    lambda values, forward, backward: (values * forward, backward),
    lambda backward, slope: (slope * backward, jnp.zeros(()), jnp.zeros(())),
)


class Fragile(nn.Module):
    """As `Normalized`, but a batch with 255 in its first pixel has no finite loss, in its second no finite gradient."""

    num_classes: int = 6

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        forward, backward = (jnp.where(images[0, 0, place, 0] > 0.996, jnp.inf, 1.0) for place in (0, 1))
        return broken(Normalized(self.num_classes, name='inside')(images, train=train), forward, backward)


def make_batch(seed: int, bad: str = '') -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 255, (8, 4, 4, 1), dtype=np.uint8)
    if bad:
        images[0, 0, ('loss', 'gradient').index(bad), 0] = 255
    return {'image': images, 'label': generator.integers(0, 6, 8, dtype=np.int32), 'mask': np.ones(8, bool)}


@functools.cache
def started(optimizer: Any) -> tuple[TrainState, Any]:
    """A state, and the step that several tests compile once."""
    state = create_state(Fragile(), optimizer, jax.random.key(0), (1, 4, 4, 1), 0.9)
    step = make_train_step(Fragile(), optimizer, classification(6), ema_decay=0.9, seed=0, mesh=MESH)
    return jax.device_get(state), step


def run(optimizer: Any, batches: list[dict[str, np.ndarray]]) -> tuple[TrainState, list[Any]]:
    (state, step), metrics = started(optimizer), []
    state = replicate(state, MESH)
    for batch in batches:
        state, found = step(state, shard_batch(batch, MESH))
        metrics.append(found)
    return state, jax.device_get(metrics)


@pytest.mark.parametrize(
    'optimizer',
    [optax.sgd(0.1, momentum=0.9), optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation()],
    ids=['sgd', 'accumulating'],
)
def test_a_skipped_step_might_as_well_not_have_been(optimizer: Any):
    """All but the counts is what it is where the bad batches are left out, to the bit."""
    good, (no_loss, no_gradient) = (
        [make_batch(seed) for seed in range(3)],
        (make_batch(7, 'loss'), make_batch(8, 'gradient')),
    )
    state, metrics = run(optimizer, [good[0], no_loss, *good[1:], no_loss, no_gradient])
    expected, _ = run(optimizer, good)
    assert [int(found['skipped_in_a_row']) for found in metrics] == [0, 1, 0, 0, 1, 2]
    assert [int(found['skipped_updates']) for found in metrics] == [0, 1, 1, 1, 2, 3]
    assert not np.isfinite(metrics[1]['loss'])
    assert np.isfinite(metrics[-1]['loss'])
    assert not np.isfinite(metrics[-1]['gradient_norm'])
    assert (state.step, state.skipped_updates, state.skipped_in_a_row) == (6, 3, 2)
    for name in ('params', 'model_state', 'opt_state', 'ema'):
        chex.assert_trees_all_equal(getattr(state, name), getattr(expected, name))


def test_an_update_that_overflows_is_skipped():
    """The gradient is finite, the rate times it is not."""
    state, metrics = run(HUGE, [make_batch(seed) for seed in range(3)])
    start, _ = run(HUGE, [])
    assert np.isfinite(metrics[0]['gradient_norm'])
    assert state.skipped_in_a_row == 3
    chex.assert_trees_all_equal(state.params, start.params)


def test_a_window_leaves_skipped_steps_out():
    def metrics(loss: float, skipped: int, row: int) -> dict[str, jax.Array]:
        return {'loss': jnp.float32(loss), 'skipped_updates': jnp.int32(skipped), 'skipped_in_a_row': jnp.int32(row)}

    window = Window(batch_size=32)
    for values in ((1.0, 4, 0), (np.nan, 5, 1), (3.0, 5, 0)):
        window.add(metrics(*values))
    means = window.close()
    assert (means['loss'], means['skipped_updates']) == (2.0, 5)
    assert 'skipped_in_a_row' not in means
    window.add(metrics(np.inf, 6, 1))
    assert 'loss' not in window.close()


def test_the_batch_comes_back_from_all_devices(tmp_path: Path):
    batch = make_batch(3)
    path = write_batch(tmp_path, Taken(17, shard_batch(batch, MESH), {}))
    assert MESH.size > 1
    with np.load(path) as found:
        assert found['step'] == 17
        for name, array in batch.items():
            np.testing.assert_array_equal(found[name], array)


class Whitened(Blobs):
    """One training image is white all over."""

    def __getitem__(self, index: int) -> Sample:
        example = super().__getitem__(index)
        if len(self) != 96 or index != WHITE:
            return example
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8), 255, np.uint8)).save(file, 'png')
        return dataclasses.replace(example, image=file.getvalue())


class Snowblind(TinyNet):
    """Answers with infinity where one of the images is white all over."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        white = (images == images.max()).all(axis=(1, 2, 3)) & (images.max() > 3)
        return super().__call__(images, train) * jnp.where(white.any(), jnp.inf, 1)


@pytest.fixture
def snow(tiny: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A configuration with a bad batch in every epoch."""

    def load(name: str, split: str, **_: object) -> RandomAccessDataset:
        return RandomAccessDataset(name, split, CLASSES, Whitened(split), 0.01)

    monkeypatch.setattr(splits, 'load_dataset', load)
    monkeypatch.setattr(TrainConfig, 'build_model', lambda self, num_classes: Snowblind(num_classes))
    return dataclasses.replace(tiny, epochs=2)


def test_a_run_gets_over_a_bad_batch(snow: TrainConfig, tmp_path: Path):
    train(snow, tmp_path / 'run')
    records = [
        record for record in read_metrics(tmp_path / 'run/metrics.jsonl', Classification) if record['split'] == 'train'
    ]
    assert records[-1]['skipped_updates'] == 2
    assert all(np.isfinite(record['loss']) for record in records)
    assert not (tmp_path / 'run/skipped_batch.npz').exists()
    assert '2 updates were skipped' in (tmp_path / 'run/report.md').read_text()


def test_the_batch_of_one_too_many_is_kept(snow: TrainConfig, tmp_path: Path):
    with pytest.raises(FloatingPointError, match=r'1 steps in a row.*there is no checkpoint yet.*skipped_batch\.npz'):
        train(dataclasses.replace(snow, max_skipped_updates=1), tmp_path / 'run')
    with np.load(tmp_path / 'run/skipped_batch.npz') as found:
        assert found['image'].shape == (16, 8, 8, 1)
        assert (found['image'] == 255).all(axis=(1, 2, 3)).sum() == 1


@pytest.mark.parametrize(
    ('bad', 'optimizer', 'words'),
    [
        ('loss', SMALL, r'the loss was not finite \(loss (inf|nan), '),
        ('gradient', SMALL, r'the gradient was not finite \(loss \d.*, gradient norm (inf|nan)\)'),
        ('', HUGE, r'loss and gradient were finite \(loss \d.*, gradient norm \d.*\), and the update or '),
    ],
)
def test_what_was_not_finite_is_said(bad: str, optimizer: Any, words: str):
    _, metrics = run(optimizer, [make_batch(0, bad)])
    assert re.match(words, not_finite(Taken(1, {}, metrics[0])))


def test_a_run_whose_updates_were_all_skipped_has_no_report(snow: TrainConfig, tmp_path: Path):
    """Six steps an epoch, one of them bad, are one gradient too few for an update of six."""
    config = dataclasses.replace(snow, epochs=1, accumulation_steps=6)
    for resume in (False, True):
        with pytest.raises(FloatingPointError, match=r'no update was made in 6 steps: .* not finite in 1 of them'):
            train(config, tmp_path / 'run', resume=resume)
    assert not (tmp_path / 'run/report.md').exists()
    assert not (tmp_path / 'run/results.json').exists()


def test_too_many_in_a_row_stop_the_run(tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make: Callable[..., Any] = engine.compiled_step

    def breaking(*arguments: Any, **options: Any) -> Any:
        step, taken = make(*arguments, **options), []

        def taking(state: TrainState, batch: Any) -> Any:
            taken.append(None)
            if len(taken) in (3, 8, 9, 10):
                params = jax.tree.map(jnp.copy, state.params)
                state, metrics = step(state.replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, params)), batch)
                return state.replace(params=params), metrics
            return step(state, batch)

        return taking

    monkeypatch.setattr(engine, 'compiled_step', breaking)
    with pytest.raises(FloatingPointError, match=r'3 steps in a row .* step 10, .*the checkpoint of step 6 is good'):
        train(dataclasses.replace(tiny, max_skipped_updates=3), tmp_path / 'run')
    checkpoints = Checkpoints(tmp_path / 'run')
    assert (checkpoints.last, checkpoints.damaged) == (6, {})
    assert max(record['step'] for record in read_metrics(tmp_path / 'run/metrics.jsonl', Classification)) == 6
