import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from damage import mutants
from orbax.checkpoint._src import asyncio_utils

from flaxmobile.training import checkpoints as module
from flaxmobile.training import orbax_mends
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.digests import fault
from flaxmobile.training.state import TrainState


def state_of(seed: int, *, ema: bool = True) -> TrainState:
    def draw(key: int) -> dict[str, dict[str, jax.Array]]:
        return {'stem': {'kernel': jax.random.normal(jax.random.key(seed + key), (3, 4))}}

    params = draw(0)
    average = {'params': draw(1), 'batch_stats': draw(2)} if ema else None
    statistics = {'batch_stats': draw(3)}
    return TrainState(jnp.int32(seed), params, statistics, optax.adam(1e-3).init(params), average, jnp.int32(seed + 1))


def saved(run_dir: Path, *steps: int, keep: int = 9) -> Path:
    """A run's folder with checkpoints of these steps."""
    with closing(Checkpoints(run_dir, keep, description={'config': {'seed': 5}})) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_of(step))
    return run_dir


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob('*') if path.is_file())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def assert_same_bits(ours: TrainState, theirs: TrainState) -> None:
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def folders_of(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.folder.iterdir() if path.is_dir())


def test_the_last_and_the_best_stay(tmp_path: Path) -> None:
    checkpoints, accuracies = Checkpoints(tmp_path, keep=2), {}
    for step, accuracy in enumerate([0.5, 0.9, 0.7, 0.8, 0.6], 1):
        checkpoints.save(step, state_of(step))
        assert checkpoints.value(step) is None
        checkpoints.validated({step: accuracy})
        accuracies[step] = accuracy
    assert (checkpoints.last, checkpoints.best) == (5, 2)
    assert checkpoints.value(2) == 0.9
    assert folders_of(checkpoints) == ['2', '4', '5']
    checkpoints.save(6, state_of(6))
    assert (checkpoints.last, checkpoints.best, checkpoints.value(6)) == (6, 2, None)
    checkpoints.save(7, state_of(7))
    checkpoints.validated({7: 0.9})
    assert checkpoints.best == 7
    checkpoints.close()
    reopened = Checkpoints(tmp_path, keep=2)
    reopened.validated(accuracies | {7: 0.9})
    assert (reopened.last, reopened.best) == (7, 7)
    assert folders_of(reopened) == ['2', '6', '7']
    reopened.save(8, state_of(8))
    reopened.close()
    assert folders_of(reopened) == ['7', '8']


@pytest.mark.parametrize('ema', [True, False])
def test_a_state_comes_back_to_the_bit(tmp_path: Path, ema: bool) -> None:
    state = state_of(3, ema=ema)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(3, state)
    opened = Checkpoints(tmp_path)
    assert_same_bits(opened.restore_latest(state_of(99, ema=ema)), state)
    chex.assert_trees_all_equal(opened.restore_variables(3, state.variables), state.evaluation_variables)


@pytest.mark.parametrize('names', [(), ('ranges',), ('batch_stats', 'ranges')])
@pytest.mark.parametrize('ema', [True, False])
def test_whatever_a_network_keeps_comes_back(tmp_path: Path, names: tuple[str, ...], ema: bool) -> None:
    def state_with(seed: int) -> TrainState:
        state = state_of(seed, ema=ema)
        collections = {name: {'stem': jax.random.normal(jax.random.key(seed), 3)} for name in names}
        average = {'params': state.params, **collections} if ema else None
        return state.replace(model_state=collections, ema=average)

    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(3, state_with(3))
        assert_same_bits(checkpoints.restore_latest(state_with(9)), state_with(3))
        again = checkpoints.restore_variables(3, state_with(9).variables)
    assert set(again) == {'params', *names}
    chex.assert_trees_all_equal(again, state_with(3).evaluation_variables)


def test_nothing_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.last is None
    assert checkpoints.best is None
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        checkpoints.restore_latest(state_of(0))


def test_a_checkpoint_without_a_validation_is_not_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1))
    assert (checkpoints.last, checkpoints.best) == (1, None)


def test_the_description_lies_in_every_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path, 4) / 'checkpoints/4/run'
    assert ocp.JsonCheckpointHandler().restore(path) == {'config': {'seed': 5}}


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is donated to the next steps at once, and what is written is what it was."""
    release, write = threading.Event(), module.write_digests
    monkeypatch.setattr(module, 'write_digests', lambda folder: (release.wait(60), write(folder)))
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf + 1, tree), donate_argnums=0)
    state = state_of(1).replace(params={'large': jax.random.normal(jax.random.key(5), (3000, 3000))})
    expected = jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, state)
        changed = jax.block_until_ready(step(step(state)))
        assert not (tmp_path / 'checkpoints/1').exists()
        release.set()
        assert checkpoints.last == 1
        assert_same_bits(checkpoints.restore_latest(changed), expected)


def test_an_error_of_the_writing_comes_out_at_the_next_opportunity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.EDQUOT, 'Disk quota exceeded')

    checkpoints = Checkpoints(saved(tmp_path, 1))
    words = r'step 2 was not written \(.*Disk quota exceeded\); the last good one is step 1'
    for ask in (
        lambda: checkpoints.save(3, state_of(3)),
        lambda: checkpoints.last,
        lambda: checkpoints.best,
        checkpoints.wait,
        checkpoints.close,
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, 'write_digests', fail)
            checkpoints.save(2, state_of(2))
            with pytest.raises(OSError, match=words) as raised:
                ask()
        assert raised.value.errno == errno.EDQUOT
    assert_same_bits(Checkpoints(tmp_path).restore_latest(state_of(9)), state_of(1))


def test_any_damage_to_any_file_is_found_or_harmless(tmp_path: Path) -> None:
    """Harmless: what is read back is what was written, to the bit."""
    folder = saved(tmp_path, 4) / 'checkpoints/4'
    assert fault(folder) is None
    found = harmless = 0
    for path in files_of(folder):
        content = path.read_bytes()
        for how, damaged in [('missing', None), *mutants(content, 12, seed=len(content))]:
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            if fault(folder):
                found += 1
            else:
                harmless += 1
                assert path.parent == folder, f'{path}: {how}'
                assert_same_bits(Checkpoints(tmp_path, read_only=True).restore_latest(state_of(0)), state_of(4))
            path.write_bytes(content)
    assert fault(folder) is None
    assert found > 10 * harmless


@pytest.mark.parametrize('how', ['flipped', 'cut', 'missing'])
def test_a_damaged_checkpoint_is_named_left_and_passed_over(tmp_path: Path, how: str) -> None:
    folder = saved(tmp_path, 4, 6) / 'checkpoints/6'
    victim = max(files_of(folder / 'variables'), key=lambda path: path.stat().st_size)
    {
        'flipped': lambda: flip(victim),
        'cut': lambda: victim.write_bytes(victim.read_bytes()[:-9]),
        'missing': victim.unlink,
    }[how]()
    before = {path: path.read_bytes() for path in files_of(folder)}
    with closing(Checkpoints(tmp_path, keep=1)) as checkpoints:
        checkpoints.validated({4: 0.4, 6: 0.6})
        assert list(checkpoints.damaged) == [6]
        words = 'is missing' if how == 'missing' else 'is not as it was written'
        assert f'checkpoints/6 is damaged: {victim.relative_to(folder).as_posix()} {words}' in checkpoints.tell_damage()
        assert 'the last good one is step 4' in checkpoints.tell_damage()
        assert (checkpoints.last, checkpoints.best) == (4, 4)
        assert_same_bits(checkpoints.restore_latest(state_of(0)), state_of(4))
        checkpoints.save(5, state_of(5))
        assert {path: path.read_bytes() for path in files_of(folder)} == before
        checkpoints.save(6, state_of(6))
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['4', '6', '6.damaged']
    reopened = Checkpoints(tmp_path)
    assert (reopened.damaged, reopened.last) == ({}, 6)


def test_another_network_does_not_fit(tmp_path: Path) -> None:
    saved(tmp_path, 4)
    other = state_of(4)
    other = other.replace(params={'stem': {'kernel': jnp.zeros((3, 5))}})
    with pytest.raises(ValueError, match='does not fit'):
        Checkpoints(tmp_path).restore(4, other)


def test_a_save_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    saved(tmp_path, 1)
    half = tmp_path / 'checkpoints/2.orbax-checkpoint-tmp-123/variables'
    half.mkdir(parents=True)
    (half / 'manifest.ocdbt').write_bytes(b'half')
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.last == 1
    checkpoints.save(2, state_of(2))
    assert checkpoints.last == 2


@pytest.mark.parametrize(
    'error',
    [OSError(errno.ENOSPC, 'No space left on device'), ValueError('RESOURCE_EXHAUSTED: ...: No space left on device')],
)
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1))

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(ocp.CheckpointManager, 'save', fail)
        with pytest.raises(
            OSError, match=r'step 2 was not written \(the disk is full\); the last good one is step 1'
        ) as e:
            checkpoints.save(2, state_of(2))
    assert e.value.errno == errno.ENOSPC
    chex.assert_trees_all_equal(checkpoints.restore_latest(state_of(9)), state_of(1))


HARMLESS = (
    *(
        "it's",
        '"',
        'a b',
        ' ',
        'café',
        'cafe\u0301',
        '漢字',
        '😀',
        '{a}',
        '~',
        '%41',
        '#',
        '$HOME',
        '-x',
        'a\nb',
        '\x1b[1m',
    ),
    *('a.', '...', 'a' * 255, 's3:', 'file:', 'a|b', 'a^b', '<a>'),
)


@pytest.mark.parametrize(
    'name', ['/'.join(HARMLESS), 'run [1]', '[ab]*', '?', '**', 'a\\b', 'gs:', os.fsdecode(b'caf\xe9')], ids=ascii
)
def test_a_folder_of_any_name_keeps_checkpoints(tmp_path: Path, name: str) -> None:
    saved(tmp_path / name, 1)
    with closing(Checkpoints(tmp_path / name)) as checkpoints:
        assert checkpoints.damaged == {}
        assert_same_bits(checkpoints.restore_latest(state_of(9)), state_of(1))
        checkpoints.save(2, state_of(2))
        assert (checkpoints.last, folders_of(checkpoints)) == (2, ['2'])
    assert os.listdir(tmp_path) == [name.split('/')[0]]


def test_a_folder_whose_name_is_a_pattern_takes_nothing_from_the_others(tmp_path: Path) -> None:
    """Another folder that the pattern fits holds the files of the same step, half-written."""
    other = Path('checkpoints/1.orbax-checkpoint-tmp/variables.orbax-checkpoint-tmp/ocdbt.process_0')
    (tmp_path / 'ab' / other).mkdir(parents=True)
    (tmp_path / 'ab' / other / 'manifest.ocdbt').write_bytes(b'half')
    with closing(Checkpoints(saved(tmp_path / 'a*', 1))) as checkpoints:
        assert_same_bits(checkpoints.restore_latest(state_of(9)), state_of(1))


def test_a_folder_that_cannot_keep_checkpoints_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orbax_mends, 'OPEN_FILES', tmp_path / 'none')
    with pytest.raises(ValueError, match=r'cannot be kept in .*: Orbax does not take \[ \] in a path here'):
        Checkpoints(tmp_path / '[1]')
    with closing(Checkpoints(tmp_path / 'plain')):
        pass


def test_an_open_folder_is_let_go(tmp_path: Path) -> None:
    for step in range(3):
        saved(tmp_path / '[1]', step)
        Checkpoints(tmp_path / '[1]', read_only=True)  # Not closed.
        gc.collect()
    opened = [os.path.realpath(f'/proc/self/fd/{number}') for number in os.listdir('/proc/self/fd')]
    assert not [path for path in opened if path.endswith('[1]/checkpoints')]


def test_writes_that_fail_say_so_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file may grow beyond a hundred kilobytes; the arrays that are still being written then fail too."""
    params = {str(number): jax.random.normal(jax.random.key(number), 3000) for number in range(160)}
    state = TrainState(jnp.int32(1), params, {'batch_stats': params}, optax.adam(1e-3).init(params), None)
    told: list[str] = []
    monkeypatch.setattr(sys, 'unraisablehook', lambda error: told.append(str(error.exc_value)))
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    checkpoints = Checkpoints(saved(tmp_path, 1))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, limits[1]))
        checkpoints.save(2, state)
        with pytest.raises(OSError, match=r'the checkpoint of step 2 was not written \(File too large\); '):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    checkpoints.close()
    gc.collect()
    assert (told, *capfd.readouterr()) == ([], '', '')


def test_what_orbax_does_at_once_ends_with_the_first_error() -> None:
    """What TensorStore still has to tell finds no event loop otherwise, and is a traceback on the terminal."""
    ended = []

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append('wait')

    async def fail() -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    async def both() -> None:
        await asyncio.gather(wait(), fail())

    with pytest.raises(OSError, match='No space left'):
        asyncio_utils.run_sync(both())
    assert ended == ['wait']


def test_only_orbax_is_hushed_and_only_while_it_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger('absl')
    monkeypatch.setattr(logger, 'filters', [])  # Of those that other tests did not close.
    caplog.set_level(logging.DEBUG, logger='absl')
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, state_of(1))
        checkpoints.wait()
        logger.warning('another library')
    assert [record.getMessage() for record in caplog.records] == ['another library']
    with ocp.StandardCheckpointer() as others:
        others.save(tmp_path / 'other', {'a': np.zeros(3)})
    assert any('/orbax/' in record.pathname for record in caplog.records)
    assert logger.level == logging.DEBUG
