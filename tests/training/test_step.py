from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import Linear, Normalized, Ranged, classification

from benchmarks.random_variables import random_variables
from flaxmobile.data import Preprocessing
from flaxmobile.models import MobileNetV1
from flaxmobile.parallel.mesh import make_mesh, replicate, shard_batch
from flaxmobile.training.state import TrainState, create_state
from flaxmobile.training.step import make_evaluation_step, make_train_step

MESH = make_mesh()


def make_batch(seed: int = 0, size: int = 8, num_classes: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        'image': generator.integers(0, 256, (size, 4, 4, 1), dtype=np.uint8),
        'label': generator.integers(0, num_classes, size, dtype=np.int32),
        'mask': np.ones(size, bool),
        'index': np.arange(size),
    }


def make_state(model: Any, optimizer: Any, ema_decay: float | None = None) -> TrainState:
    return replicate(create_state(model, optimizer, jax.random.key(0), (1, 4, 4, 1), ema_decay), MESH)


def make_step(model: Any, optimizer: Any, **changes: Any) -> Any:
    task = classification(changes.pop('num_classes', model.num_classes), label_smoothing=changes.pop('smoothing', 0.0))
    return make_train_step(model, optimizer, task, **{'seed': 0, 'mesh': MESH, **changes})


def evaluated(model: Any, variables: Any, batch: dict[str, np.ndarray]) -> Any:
    step = make_evaluation_step(model, classification(model.num_classes), MESH)
    return step(variables, shard_batch(batch, MESH))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize('smoothing', [0.0, 0.3])
def test_a_step_of_softmax_regression(smoothing: float):
    """Its gradient is known: pixels times (probabilities - targets), over the batch; smoothing reaches both."""
    model, optimizer, batch = Linear(), optax.sgd(0.5), make_batch()
    state = make_state(model, optimizer, 0.9)
    kernel, bias = (np.asarray(state.params['classifier'][name], np.float64) for name in ('kernel', 'bias'))
    new_state, metrics = make_step(model, optimizer, smoothing=smoothing, ema_decay=0.9)(
        state, shard_batch(batch, MESH)
    )

    pixels = batch['image'].reshape(8, -1) / 127.5 - 1
    probabilities = softmax(pixels @ kernel + bias)
    targets = (1 - smoothing) * np.eye(3)[batch['label']] + smoothing / 3
    slope = (probabilities - targets) / 8
    kernel_gradient, bias_gradient = pixels.T @ slope, slope.sum(axis=0)
    norm = np.sqrt((kernel_gradient**2).sum() + (bias_gradient**2).sum())
    params = new_state.params['classifier']
    np.testing.assert_allclose(metrics['loss'], -(targets * np.log(probabilities)).sum(axis=1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics['accuracy'], (probabilities.argmax(axis=1) == batch['label']).mean())
    np.testing.assert_allclose(metrics['gradient_norm'], norm, rtol=1e-5)
    np.testing.assert_allclose(params['kernel'], kernel - 0.5 * kernel_gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(params['bias'], bias - 0.5 * bias_gradient, rtol=1e-4, atol=1e-6)
    average = new_state.ema['params']['classifier']['bias']
    np.testing.assert_allclose(average, 0.1 * bias + 0.9 * (bias - 0.5 * bias_gradient), rtol=1e-4, atol=1e-6)
    assert new_state.step == 1


def test_statistics_and_their_average():
    """Running mean 0.9 * 0 + 0.1 * batch mean; the first update's average decays with 0.1."""
    model, optimizer, batch = Normalized(), optax.sgd(0.1), make_batch()
    state, _ = make_step(model, optimizer, ema_decay=0.99)(make_state(model, optimizer, 0.99), shard_batch(batch, MESH))
    mean = (batch['image'] / 127.5 - 1).mean()
    np.testing.assert_allclose(state.model_state['batch_stats']['norm']['mean'], [0.1 * mean], rtol=1e-4)
    np.testing.assert_allclose(state.evaluation_variables['batch_stats']['norm']['mean'], [0.09 * mean], rtol=1e-4)


def test_collections_of_any_name_are_kept():
    """The greatest output so far, as quantisation keeps ranges: a collection that no other code knows."""
    model, optimizer = Ranged(), optax.sgd(0.0)
    state = make_state(model, optimizer, 0.9)
    assert state.model_state == {'ranges': {'greatest': 0}}
    kernel = np.asarray(state.params['classifier']['kernel'], np.float64)
    step, seen = make_step(model, optimizer, ema_decay=0.9), 0.0
    for number in range(2):
        batch = make_batch(number)
        state, metrics = step(state, shard_batch(batch, MESH))
        seen = max(seen, ((batch['image'].reshape(8, -1) / 127.5 - 1) @ kernel).max())
        np.testing.assert_allclose(state.model_state['ranges']['greatest'], seen, rtol=1e-5)
        assert metrics['skipped_updates'] == 0
    assert 0 < state.evaluation_variables['ranges']['greatest'] < seen


def test_a_network_that_keeps_nothing_trains():
    """One more collection, `batch_stats` that are empty, would be another network's."""
    state, _ = make_step(Linear(), optax.sgd(0.1))(
        make_state(Linear(), optax.sgd(0.1)), shard_batch(make_batch(), MESH)
    )
    assert state.model_state == {}
    assert state.variables.keys() == state.evaluation_variables.keys() == {'params'}


def test_the_old_state_is_consumed():
    model, optimizer = Linear(), optax.sgd(0.1, momentum=0.9)
    state = make_state(model, optimizer, 0.9)
    make_step(model, optimizer, ema_decay=0.9)(state, shard_batch(make_batch(), MESH))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state, state.ema)))


def test_dropout_depends_on_seed_and_step_alone():
    """A state taken up again after two steps goes on as the one that was never put down; another seed does not."""
    model, optimizer = Normalized(dropout_rate=0.5), optax.sgd(0.1)
    step, other = make_step(model, optimizer), make_step(model, optimizer, seed=1)
    state, losses, saved = make_state(model, optimizer), [], None
    for number in range(4):
        saved = jax.device_get(state) if number == 2 else saved
        state, metrics = step(state, shard_batch(make_batch(), MESH))
        losses.append(float(metrics['loss']))
    resumed, again = replicate(saved, MESH), []
    for _ in range(2):
        resumed, metrics = step(resumed, shard_batch(make_batch(), MESH))
        again.append(float(metrics['loss']))
    assert again == losses[2:]
    chex.assert_trees_all_equal(resumed, state)
    assert float(other(make_state(model, optimizer), shard_batch(make_batch(), MESH))[1]['loss']) != losses[0]


def test_every_step_drops_others():
    """With a rate of 0 and the same batch, only dropout can change the loss."""
    model, optimizer, batch = Normalized(dropout_rate=0.5), optax.sgd(0.0), shard_batch(make_batch(), MESH)
    step = make_step(model, optimizer)
    state, first = step(make_state(model, optimizer), batch)
    _, second = step(state, batch)
    assert first['loss'] != second['loss']


def test_bfloat16_computes_and_float32_stores():
    model, optimizer, batch = Normalized(dtype=jnp.bfloat16), optax.sgd(0.1), shard_batch(make_batch(), MESH)
    state, metrics = make_step(model, optimizer)(make_state(model, optimizer), batch)
    floats = (state.variables, [metrics[name] for name in ('loss', 'accuracy', 'gradient_norm')])
    assert {leaf.dtype for leaf in jax.tree.leaves(floats)} == {jnp.dtype('float32')}
    text = str(jax.make_jaxpr(make_step(model, optimizer))(state, batch))
    assert 'bf16[8,6] = dot_general' in text.replace(':', '').replace('  ', ' ')
    reference = Normalized()
    _, expected = make_step(reference, optimizer)(make_state(reference, optimizer), batch)
    np.testing.assert_allclose(metrics['loss'], expected['loss'], rtol=2e-2)
    assert metrics['loss'] != expected['loss']


def test_a_network_with_other_classes_than_the_data():
    model, optimizer = Linear(num_classes=10), optax.sgd(0.1)
    step = make_step(model, optimizer, num_classes=7)
    with pytest.raises(ValueError, match=r'answers \(8, 10\).*targets are \(8, 7\)'):
        step(make_state(model, optimizer), shard_batch(make_batch(), MESH))


def test_evaluation_against_numpy():
    """Six classes, so that the top five leave one out; three images are masked, one with an impossible label."""
    model, batch = Normalized(), make_batch(size=40, num_classes=6)
    batch['mask'][-3:], batch['label'][-1] = False, -1
    state = make_state(model, optax.sgd(0.1))
    sums, rows = evaluated(model, state.variables, batch)

    pixels = (batch['image'].reshape(40, -1) / 127.5 - 1) / np.sqrt(1 + 1e-5)
    classifier = {name: np.asarray(value, np.float64) for name, value in state.params['classifier'].items()}
    probabilities = softmax(np.tanh(pixels) @ classifier['kernel'] + classifier['bias'])
    order, labels, every = np.argsort(-probabilities, axis=1)[:37], batch['label'][:37], np.arange(37)
    np.testing.assert_array_equal(rows['label'], batch['label'])
    np.testing.assert_array_equal(rows['prediction'], probabilities.argmax(axis=1))
    np.testing.assert_allclose(rows['probability'], probabilities.max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(rows['label_probability'][:37], probabilities[every, labels], rtol=1e-4)
    assert sums['count'] == 37
    assert sums['correct'] == (order[:, 0] == labels).sum()
    assert sums['correct_top5'] == (order[:, :5] == labels[:, None]).sum() < 37
    np.testing.assert_allclose(sums['loss'], -np.log(probabilities[every, labels]).sum(), rtol=1e-5)


def test_evaluation_of_fewer_than_five_classes():
    model, batch = Linear(), make_batch()
    sums, rows = evaluated(model, make_state(model, optax.sgd(0.1)).variables, batch)
    assert sums['correct_top5'] == 8
    assert {column.shape for column in rows.values()} == {(8,)}  # No probability of every class.


def test_a_run_learns():
    """Two classes told apart by brightness: the loss falls well below log 2 = 0.69 in 60 steps."""
    model, optimizer = Normalized(num_classes=2), optax.adam(0.02)
    step, state = make_step(model, optimizer, ema_decay=0.9), make_state(model, optimizer, 0.9)
    for number in range(60):
        batch = make_batch(number, num_classes=2)
        batch['image'] = (batch['image'] // 2 + 100 * batch['label'][:, None, None, None]).astype(np.uint8)
        state, metrics = step(state, shard_batch(batch, MESH))
    assert metrics['loss'] < 0.3
    assert evaluated(model, state.evaluation_variables, batch).sums['correct'] == 8


class FirstBlocks(MobileNetV1):
    def stages(self):
        return super().stages()[:1]


def test_evaluation_of_a_network_equals_its_logits():
    """The step folds BatchNorm; on one device it takes the images in groups, on several it leaves them in place."""
    model = FirstBlocks(num_classes=6, width_multiplier=0.1)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    preprocessing = Preprocessing(image_size=32)
    variables = random_variables(model, images.shape)
    expected = softmax(np.asarray(jax.jit(model.apply)(variables, preprocessing.normalize(images))))
    for mesh in (MESH, make_mesh(jax.devices()[:1])):
        labels = np.arange(8, dtype=np.int32) % 6
        batch = shard_batch({'image': images, 'label': labels, 'mask': np.ones(8, bool)}, mesh)
        step = make_evaluation_step(model, classification(6, preprocessing), mesh)
        rows = step(replicate(variables, mesh), batch).rows
        np.testing.assert_allclose(rows['label_probability'], expected[np.arange(8), labels], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(rows['probability'], expected.max(axis=1), rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(rows['prediction'], expected.argmax(axis=1))
