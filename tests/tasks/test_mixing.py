"""Mixup and CutMix against cases worked by hand and the distributions their papers give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from networks import Linear, classification
from scipy import stats

from flaxmobile.parallel.mesh import make_mesh, replicate, shard_batch
from flaxmobile.tasks.losses import smooth_targets
from flaxmobile.tasks.mixing import UNMIXED, Mixing, rectangle
from flaxmobile.training.state import create_state
from flaxmobile.training.step import make_train_step

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(8, 12, 10, 3)), jnp.float32)
TARGETS = smooth_targets(jnp.arange(8) % 5, 5, 0.1)


def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


DRAWS, SIDE = 8000, 32


def draw(mixing: Mixing) -> tuple[np.ndarray, np.ndarray]:
    """The shares of many batches, and whether CutMix was drawn."""

    def one(key: jax.Array) -> tuple[jax.Array, ...]:
        mixture = mixing.draw(key, SIDE, SIDE)
        return mixture.share, mixture.cutmix, mixture.weights.mean()

    shares, cutmix, weights = (np.asarray(values) for values in jax.jit(jax.vmap(one))(keys(DRAWS)))
    np.testing.assert_allclose(weights, shares, atol=1e-6)
    return shares, cutmix


@pytest.fixture(scope='module')
def both() -> tuple[np.ndarray, np.ndarray]:
    return draw(Mixing(0.2, 1.0))


def test_mixup_by_hand():
    mixing = Mixing(mixup_alpha=0.4)
    mix, share_of = jax.jit(mixing), jax.jit(lambda key: mixing.draw(key, 12, 10).share)
    for key in keys(5):
        share, before = float(share_of(key)), [7, 0, 1, 2, 3, 4, 5, 6]
        for mixed, own in zip(mix(IMAGES, TARGETS, key), map(np.asarray, (IMAGES, TARGETS)), strict=True):
            np.testing.assert_allclose(mixed, share * own + (1 - share) * own[before], atol=1e-6)


def test_cutmix_by_hand():
    """Within the rectangle every pixel is the partner's, around it the image's own; the targets go by its area."""
    mix, pasted = jax.jit(Mixing(cutmix_alpha=1.0)), set()
    for key in keys(30):
        images, targets = map(np.asarray, mix(IMAGES, TARGETS, key))
        own = np.all(images == np.asarray(IMAGES), axis=(0, 3))
        partners = np.all(images == np.roll(IMAGES, 1, axis=0), axis=(0, 3))
        assert np.all(own != partners)
        rows, columns = np.flatnonzero(partners.any(axis=1)), np.flatnonzero(partners.any(axis=0))
        assert partners.sum() == len(rows) * len(columns)
        if len(rows):
            assert partners[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        share = own.mean()
        whole = np.asarray(TARGETS)
        np.testing.assert_allclose(targets, share * whole + (1 - share) * np.roll(whole, 1, axis=0), atol=1e-6)
        pasted.add(int(partners.sum()))
    assert len(pasted) > 10


@pytest.mark.parametrize(
    ('share', 'center', 'expected'),
    [
        (0.75, (4, 5), (slice(2, 6), slice(3, 7))),  # Half the sides, 4 of 8 and 5 of 10; 5 is cut down to 4.
        (0.0, (4, 5), (slice(0, 8), slice(0, 10))),
        (1.0, (4, 5), (slice(0, 0), slice(0, 0))),
        (0.75, (0, 9), (slice(0, 2), slice(7, 10))),  # What lies outside is cut off.
    ],
)
def test_the_rectangle_by_hand(share, center, expected):
    mask = np.zeros((8, 10))
    mask[expected] = 1
    np.testing.assert_array_equal(rectangle(jnp.float32(share), jnp.array(center), 8, 10), mask)


def assert_beta(shares: np.ndarray, alpha: float) -> None:
    # The lower half alone, of the distribution's two alike ones: near 1 float32 has too few numbers for a small alpha.
    low = shares[shares < 0.5]
    assert stats.binomtest(len(low), len(shares), 0.5).pvalue > 1e-3
    assert stats.kstest(low, lambda share: 2 * stats.beta(alpha, alpha).cdf(share)).pvalue > 1e-3
    variance = 1 / (4 * (2 * alpha + 1))
    assert abs(shares.mean() - 0.5) < 4 * (variance / len(shares)) ** 0.5
    assert abs(shares.var() / variance - 1) < 0.08


def test_of_both_one_is_drawn_evenly(both):
    assert stats.binomtest(int(both[1].sum()), DRAWS, 0.5).pvalue > 1e-3


def test_the_share_of_mixup_has_the_beta_distribution(both):
    shares, cutmix = both
    assert_beta(shares[~cutmix], 0.2)
    shares, cutmix = draw(Mixing(mixup_alpha=2.5))
    assert not cutmix.any()
    assert_beta(shares, 2.5)


def test_the_share_of_cutmix_is_corrected_for_what_is_cut_off(both):
    """Beta(1, 1): sides of sqrt(1 - share) about an even place, against the same drawn by NumPy in float64."""
    shares, cutmix = both
    shares = shares[cutmix]
    rng = np.random.default_rng(0)
    half = np.floor(0.5 * np.sqrt(1 - rng.random(100_000)) * SIDE)
    sides = []
    for _ in range(2):
        middle = rng.integers(SIDE, size=100_000)
        sides.append(np.clip(middle + half, 0, SIDE) - np.clip(middle - half, 0, SIDE))
    expected = 1 - sides[0] * sides[1] / SIDE**2
    places = np.sort(np.concatenate([shares, expected]))
    ranks = [np.searchsorted(np.sort(values), places, 'right') / len(values) for values in (shares, expected)]
    # Kolmogorov-Smirnov at 0.1 %.
    assert np.abs(ranks[0] - ranks[1]).max() < 1.95 * (1 / len(shares) + 1 / 100_000) ** 0.5


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0, 3).filter(lambda alpha: alpha == 0 or alpha > 0.02),
    st.floats(0, 3).filter(lambda alpha: alpha == 0 or alpha > 0.02),
    st.integers(0, 2**31),
)
def test_targets_stay_probabilities_and_images_between_theirs(mixup, cutmix, seed):
    images, targets = Mixing(mixup, cutmix)(IMAGES, TARGETS, jax.random.key(seed))
    assert images.dtype == targets.dtype == jnp.float32
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    assert targets.min() >= 0
    low, high = (function(IMAGES, jnp.roll(IMAGES, 1, axis=0)) for function in (jnp.minimum, jnp.maximum))
    assert jnp.all((images >= low - 1e-6) & (images <= high + 1e-6))


def test_without_an_alpha_nothing_is_done():
    images, targets = UNMIXED(IMAGES, TARGETS, jax.random.key(0))
    assert images is IMAGES
    assert targets is TARGETS


def test_the_copies_of_an_image_are_not_mixed_with_each_other():
    copies = jnp.repeat(IMAGES[:4], 2, axis=0)
    key = jax.random.key(1)
    mixed, _ = Mixing(1.0, distance=2)(copies, TARGETS, key)
    share = Mixing(1.0).draw(key, 12, 10).share
    expected = share * IMAGES[:4] + (1 - share) * IMAGES[jnp.array([3, 0, 1, 2])]
    np.testing.assert_allclose(mixed, jnp.repeat(expected, 2, axis=0), atol=1e-6)


@pytest.mark.parametrize('value', [-0.1, float('inf'), float('nan'), '1'])
def test_an_alpha_that_cannot_be(value):
    with pytest.raises(ValueError, match='cutmix_alpha must be a number, 0 or more'):
        Mixing(cutmix_alpha=value)


def test_eight_devices_mix_as_one_and_send_no_more_than_the_partners():
    mixing, mesh = Mixing(0.2, 1.0), make_mesh()
    sharding, whole = NamedSharding(mesh, PartitionSpec('data')), NamedSharding(mesh, PartitionSpec())
    images, targets = jnp.tile(IMAGES, (8, 1, 1, 1)), jnp.tile(TARGETS, (8, 1))
    one = jax.jit(mixing)
    sharded = jax.jit(mixing, in_shardings=(sharding, sharding, None), out_shardings=(sharding, sharding))
    eight = sharded.lower(images, targets, jax.random.key(0)).compile()
    images, targets = jax.device_put((images, targets), sharding)
    for key in keys(6):
        expected = one(*jax.device_get((images, targets)), key)
        for ours, theirs in zip(eight(images, targets, jax.device_put(key, whole)), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    text = eight.as_text()
    assert 'collective-permute' in text
    assert 'all-gather' not in text
    assert 'all-to-all' not in text
    # One image of 12x10x3 a device, where it has eight.
    assert 'f32[1,12,10,3]{3,2,1,0} collective-permute' in text


def batch(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        'image': generator.integers(0, 256, (8, 4, 4, 1), dtype=np.uint8),
        'label': generator.integers(0, 3, 8, dtype=np.int32),
    }


@pytest.mark.slow
def test_a_step_mixes_by_seed_and_step_alone():
    """Anew or on eight devices three steps have the same losses; they differ by step on one batch."""
    model, optimizer = Linear(), optax.sgd(0.0)
    task = classification(3, label_smoothing=0.1, mixing=Mixing(0.5, 1.0))
    losses = []
    for devices in (1, 8):
        mesh = make_mesh(jax.devices()[:devices])
        step = make_train_step(model, optimizer, task, seed=0, mesh=mesh)
        for _ in range(2):
            state, found = create_state(model, optimizer, jax.random.key(0), (1, 4, 4, 1), None), []
            state = replicate(state, mesh)
            for _ in range(3):
                state, metrics = step(state, shard_batch(batch(0), mesh))
                found.append(float(metrics['loss']))
            losses.append(found)
    assert losses[0] == losses[1]
    assert losses[2] == losses[3]
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-5)
    assert len(set(losses[0])) > 1


def test_a_step_of_softmax_regression_on_mixed_images():
    """The loss and the accuracy worked out in NumPy from the mixture that the step's key draws."""
    model, optimizer, mesh, mixing = Linear(), optax.sgd(0.5), make_mesh(), Mixing(mixup_alpha=1.0)
    state = create_state(model, optimizer, jax.random.key(0), (1, 4, 4, 1), None)
    kernel, bias = (np.asarray(state.params['classifier'][name], np.float64) for name in ('kernel', 'bias'))
    task = classification(3, label_smoothing=0.3, mixing=mixing)
    step = make_train_step(model, optimizer, task, seed=4, mesh=mesh)
    _, metrics = step(replicate(state, mesh), shard_batch(batch(0), mesh))

    key = functools.reduce(jax.random.fold_in, (0, 0), jax.random.key(4))
    share = float(jax.jit(lambda key: mixing.draw(key, 4, 4).share)(key))
    assert 0.05 < share < 0.95
    pixels, targets = batch(0)['image'].reshape(8, -1) / 127.5 - 1, 0.7 * np.eye(3)[batch(0)['label']] + 0.1
    pixels, targets = (share * own + (1 - share) * np.roll(own, 1, axis=0) for own in (pixels, targets))
    logits = pixels @ kernel + bias
    losses = np.log(np.exp(logits).sum(axis=1)) - (targets * logits).sum(axis=1)
    np.testing.assert_allclose(metrics['loss'], losses.mean(), rtol=1e-5)
    assert metrics['accuracy'] == (logits.argmax(axis=1) == targets.argmax(axis=1)).mean()
