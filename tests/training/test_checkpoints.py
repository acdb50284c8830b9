import errno
import gc
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.state import TrainState


def state_of(seed: int, *, ema: bool = True) -> TrainState:
    def draw(key: int) -> dict[str, dict[str, jax.Array]]:
        return {'stem': {'kernel': jax.random.normal(jax.random.key(seed + key), (3, 4))}}

    params = draw(0)
    average = {'params': draw(1), 'batch_stats': draw(2)} if ema else None
    return TrainState(jnp.int32(seed), params, draw(3), optax.adam(1e-3).init(params), average)


def test_the_last_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, accuracy in enumerate([0.5, 0.9, 0.7, 0.8, 0.6], 1):
        checkpoints.save(step, state_of(step), accuracy)
    assert (checkpoints.last, checkpoints.best) == (5, 2)
    assert checkpoints.accuracy(2) == 0.9
    assert sorted(path.name for path in checkpoints.folder.iterdir() if path.is_dir()) == ['2', '4', '5']
    checkpoints.save(6, state_of(6), None)
    assert (checkpoints.last, checkpoints.best, checkpoints.accuracy(6)) == (6, 2, None)
    checkpoints.save(7, state_of(7), 0.9)
    assert checkpoints.best == 7
    reopened = Checkpoints(tmp_path, keep=2)
    assert (reopened.last, reopened.best) == (7, 7)
    assert sorted(path.name for path in checkpoints.folder.iterdir() if path.is_dir()) == ['6', '7']


@pytest.mark.parametrize('ema', [True, False])
def test_a_state_comes_back_to_the_bit(tmp_path: Path, ema: bool) -> None:
    state = state_of(3, ema=ema)
    Checkpoints(tmp_path).save(3, state, None)
    opened = Checkpoints(tmp_path)
    back = opened.restore_latest(state_of(99, ema=ema))
    chex.assert_trees_all_equal_shapes_and_dtypes(back, state)
    for ours, theirs in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
    chex.assert_trees_all_equal(opened.restore_variables(3, state.variables), state.evaluation_variables)


def test_nothing_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.last is None
    assert checkpoints.best is None
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        checkpoints.restore_latest(state_of(0))


def test_a_checkpoint_without_a_validation_is_not_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1), None)
    assert (checkpoints.last, checkpoints.best) == (1, None)


def test_damage_is_named_and_left(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(4, state_of(4), 0.5)
    arrays = [path for path in (tmp_path / 'checkpoints/4/variables').rglob('*') if path.is_file()]
    for path in arrays:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r'checkpoints.4 is damaged'):
        Checkpoints(tmp_path).restore(4, state_of(0))
    assert all(path.exists() for path in arrays)


@pytest.mark.filterwarnings('ignore')  # Orbax leaves its other reads unawaited.
def test_another_network_does_not_fit(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(4, state_of(4), 0.5)
    other = state_of(4)
    other = other.replace(params={'stem': {'kernel': jnp.zeros((3, 5))}})
    with pytest.raises(ValueError, match='does not fit'):
        Checkpoints(tmp_path).restore(4, other)
    gc.collect()


def test_a_save_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(1, state_of(1), 0.5)
    half = tmp_path / 'checkpoints/2.orbax-checkpoint-tmp-123/variables'
    half.mkdir(parents=True)
    (half / 'manifest.ocdbt').write_bytes(b'half')
    checkpoints = Checkpoints(tmp_path)
    assert (checkpoints.last, checkpoints.best) == (1, 1)
    checkpoints.save(2, state_of(2), 0.6)
    assert checkpoints.last == 2


@pytest.mark.parametrize(
    'error',
    [OSError(errno.ENOSPC, 'No space left on device'), ValueError('RESOURCE_EXHAUSTED: ...: No space left on device')],
)
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1), 0.5)

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(ocp.CheckpointManager, 'save', fail)
        with pytest.raises(
            OSError, match=r'step 2 was not written \(the disk is full\); the last good one is step 1'
        ) as e:
            checkpoints.save(2, state_of(2), 0.6)
    assert e.value.errno == errno.ENOSPC
    chex.assert_trees_all_equal(checkpoints.restore_latest(state_of(9)), state_of(1))
