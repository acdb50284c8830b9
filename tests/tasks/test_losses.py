import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmobile.tasks.losses import cross_entropy, smooth_targets


def test_targets_by_hand():
    expected = [[0.025, 0.925, 0.025, 0.025], [0.925, 0.025, 0.025, 0.025]]
    np.testing.assert_allclose(smooth_targets(jnp.array([1, 0]), 4, 0.1), expected, rtol=1e-6)


def test_smoothed_loss_by_hand():
    """Softmax of (log 1, log 2, log 5) is (1/8, 2/8, 5/8); 0.3 of the target is spread over three classes."""
    logits = jnp.log(jnp.array([[1.0, 2.0, 5.0]]))
    expected = -(0.1 * math.log(1 / 8) + 0.1 * math.log(2 / 8) + 0.8 * math.log(5 / 8))
    loss = cross_entropy(logits, smooth_targets(jnp.array([2]), 3, 0.3))
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31 - 1), st.floats(0, 0.9), st.sampled_from([(4, 3), (4, 1000)]))
def test_against_float64_numpy(seed: int, smoothing: float, shape: tuple[int, int]):
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(0, 10, shape), generator.integers(0, shape[1], shape[0])
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    expected = -(1 - smoothing) * log_probabilities[np.arange(shape[0]), labels] - smoothing * log_probabilities.mean(1)
    loss = cross_entropy(jnp.asarray(logits, jnp.float32), smooth_targets(jnp.asarray(labels), shape[1], smoothing))
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_logits_lose_nothing_in_the_loss():
    """In bfloat16, log(1000) = 6.9078 would become 6.90625 and a sum of a thousand terms much worse."""
    logits = jnp.zeros((1, 1000), jnp.bfloat16)
    loss = cross_entropy(logits, smooth_targets(jnp.array([3]), 1000, 0.1))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [math.log(1000)], rtol=1e-5)


def test_float64_stays_float64():
    with jax.enable_x64(True):
        logits = np.array([[0.3, -1.2, 2.5]])
        loss = cross_entropy(jnp.asarray(logits), smooth_targets(jnp.array([0]), 3, 0.0))
        assert loss.dtype == jnp.float64
        np.testing.assert_allclose(loss, [np.log(np.exp(logits).sum()) - 0.3], rtol=1e-15)


def test_other_number_of_classes():
    with pytest.raises(ValueError, match=r'answers \(2, 10\).*targets are \(2, 7\)'):
        cross_entropy(jnp.zeros((2, 10)), smooth_targets(jnp.array([1, 2]), 7, 0.0))


def test_agrees_with_optax():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)
    targets = optax.smooth_labels(jax.nn.one_hot(jnp.arange(5), 6), 0.2)
    expected = optax.softmax_cross_entropy(logits, targets)
    np.testing.assert_allclose(cross_entropy(logits, smooth_targets(jnp.arange(5), 6, 0.2)), expected, rtol=1e-6)
