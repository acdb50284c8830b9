"""Several processes train and evaluate as one program, stop as one, and end where one is lost."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax import tree

from flaxmobile.parallel.processes import LOST
from flaxmobile.tasks.classification import Classification
from flaxmobile.training.metrics import read_metrics
from scripts.launch_local import start

TESTS = Path(__file__).parents[1]
ROOTS = os.pathsep.join([str(TESTS.parent), str(TESTS)])
COMMAND = (sys.executable, str(TESTS / 'tiny_command.py'))
BOUND = 30
"""Seconds in these tests, so that they need not wait as long as people do."""


def without_gloo(printed: str) -> str:
    """What was printed but for Gloo's lines, whose parts several threads may write."""
    return ''.join(line for line in printed.splitlines(keepends=True) if not re.search(r'\[Gloo\]|peer ranks', line))


class Started:
    """Processes of one program, all ended at the end."""

    def __init__(self, count: int, *words: object, code: str = '', **environment: str) -> None:
        flags = '--xla_force_host_platform_device_count=1'
        added = {'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': ROOTS, 'TINY_BOUND': str(BOUND)}
        command = (sys.executable, '-c', code) if code else (*COMMAND, *map(str, words))
        self.processes = start(count, command, added | environment)

    def __enter__(self) -> 'Started':
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def end(self) -> list[tuple[int, str, str]]:
        """The exit status of each, what it printed but for XLA's own lines, and what it printed as errors."""
        printed = [process.communicate(timeout=300) for process in self.processes]
        return [
            (process.returncode, without_gloo(words), errors)
            for process, (words, errors) in zip(self.processes, printed, strict=True)
        ]


def run(count: int, *words: object, **environment: str) -> list[tuple[int, str, str]]:
    with Started(count, *words, **environment) as started:
        return started.end()


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text('from tiny_run import tiny_config\n\nconfig = tiny_config()\n')
    return path


@pytest.fixture(scope='module')
def by_two(config: Path) -> Path:
    """The run of two processes that nothing disturbed."""
    folder = config.parent / 'two'
    for status, _, errors in run(2, 'train', config, '--run-dir', folder, '--log-every', 1):
        assert status == 0, errors
    return folder


def final_arrays(folder: Path) -> list[np.ndarray]:
    """All that the last checkpoint holds, as Orbax alone reads it, for any number of processes."""
    reader = ocp.PyTreeCheckpointer()
    leaves = []
    for item in ('variables', 'ema', 'optimizer'):
        place = folder / 'checkpoints' / '24' / item
        shapes = reader.metadata(place).item_metadata
        as_arrays = tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), dict(shapes))
        leaves += tree.leaves(reader.restore(place, restore_args=as_arrays))
    return leaves


def wait_for_steps(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(read_metrics(folder / 'metrics.jsonl', Classification)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_two_processes_train_as_one(config: Path, by_two: Path) -> None:
    folder = config.parent / 'one'
    [(status, printed, errors)] = run(1, 'train', config, '--run-dir', folder, '--log-every', 1)
    assert status == 0, errors
    assert 'test accuracy' in printed
    assert {path.name for path in folder.iterdir()} == {path.name for path in by_two.iterdir()}
    ours, theirs = (read_metrics(place / 'metrics.jsonl', Classification) for place in (by_two, folder))
    assert [(record['split'], record['step']) for record in ours] == [
        (record['split'], record['step']) for record in theirs
    ]
    np.testing.assert_allclose(ours[0]['loss'], theirs[0]['loss'], rtol=1e-5)
    np.testing.assert_allclose([one['loss'] for one in ours], [one['loss'] for one in theirs], rtol=1e-2)
    results, expected = (json.loads((place / 'results.json').read_text()) for place in (by_two, folder))
    assert results['test']['count'] == expected['test']['count'] == 37
    assert np.array(results['confusion']).sum() == 37


@pytest.mark.slow
def test_processes_evaluate_an_uneven_set_as_one(by_two: Path) -> None:
    """37 images: 19 and 18, or 10 and 10 and 10 and 7."""
    [(_, expected, _)], *more = (run(count, 'evaluate', by_two) for count in (1, 2, 4))
    assert '37 images' in expected
    for printed in more:
        assert [status for status, _, _ in printed] == [0] * len(printed)
        assert [words for _, words, _ in printed] == [expected] + [''] * (len(printed) - 1)


@pytest.mark.slow
@pytest.mark.parametrize(('number', 'statuses'), [(signal.SIGTERM, [143, 143]), (signal.SIGINT, [143, 130])])
def test_a_signal_to_one_process_stops_all_at_one_step(
    number: signal.Signals, statuses: list[int], config: Path, by_two: Path, tmp_path: Path
) -> None:
    folder = tmp_path / 'run'
    words = ('train', config, '--run-dir', folder, '--log-every', 1)
    with Started(2, *words, TINY_PAUSE='0.3') as started:
        wait_for_steps(folder, 2)
        started.processes[1].send_signal(number)
        ended = started.end()
    assert [status for status, _, _ in ended] == statuses, ended
    [step] = {int(found) for _, _, errors in ended for found in re.findall(r'at step (\d+), which is saved', errors)}
    assert 2 <= step < 24
    assert (folder / 'checkpoints' / str(step)).is_dir()
    for status, _, errors in run(2, *words, '--resume'):
        assert status == 0, errors
    for ours, theirs in zip(final_arrays(folder), final_arrays(by_two), strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(('before', 'after'), [(2, 1), (1, 4)])
def test_another_number_of_processes_goes_on(
    before: int, after: int, config: Path, by_two: Path, tmp_path: Path
) -> None:
    folder = tmp_path / 'run'
    words = ('train', config, '--run-dir', folder, '--log-every', 1)
    with Started(before, *words, TINY_PAUSE='0.3') as started:
        wait_for_steps(folder, 8)  # Past the first validation, whose accuracy all processes of the next run go by.
        started.processes[0].send_signal(signal.SIGTERM)
        assert [status for status, _, _ in started.end()] == [143] * before
    for status, _, errors in run(after, *words, '--resume'):
        assert status == 0, errors
    ours, theirs = (read_metrics(place / 'metrics.jsonl', Classification) for place in (folder, by_two))
    assert [(one['split'], one['step']) for one in ours] == [(one['split'], one['step']) for one in theirs]
    np.testing.assert_allclose([one['loss'] for one in ours], [one['loss'] for one in theirs], rtol=1e-2)
    best = max((one for one in ours if one['split'] == 'validation'), key=lambda one: (one['accuracy'], one['step']))
    assert json.loads((folder / 'results.json').read_text())['best_step'] == best['step']


GATHER = """
import numpy as np
from jax.experimental import multihost_utils
from flaxmobile.parallel import processes as distributed
distributed.BOUND = 10
with distributed.joined(lambda error: (2, f'raised {error}'), '; go on'):
    multihost_utils.process_allgather(np.ones(1))
    print('ready', flush=True)
    while True:
        multihost_utils.process_allgather(np.ones(1))
"""


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_kill_within_an_exchange_is_told_by_name(victim: int) -> None:
    """Gloo says that a connection is gone before anyone can know which process is, and JAX makes a ValueError of it."""
    with Started(2, code=GATHER) as started:
        lost, left = started.processes[victim], started.processes[1 - victim]
        assert left.stdout
        while left.stdout.readline() != 'ready\n':
            pass
        lost.kill()
        _, errors = left.communicate(timeout=60)
    assert left.returncode == LOST, errors
    assert re.search(rf'^flaxmobile: process {victim} of 2 on .+ died or hangs: .+; go on', errors, re.MULTILINE), (
        errors
    )


@pytest.fixture(
    params=[
        (signal.SIGKILL, 1, BOUND),
        (signal.SIGSTOP, 1, BOUND),
        (signal.SIGSTOP, 0, BOUND),
        (signal.SIGKILL, 0, 100),
    ]
)
def lost(request: pytest.FixtureRequest, config: Path, tmp_path: Path) -> Iterator[tuple[int, float, tuple]]:
    """The number of the process that was lost, the seconds that the other needed to end, and its end."""
    number, process, bound = request.param
    options = {'TINY_PAUSE': '0.5', 'TINY_BOUND': str(bound)}
    with Started(2, 'train', config, '--run-dir', tmp_path, '--log-every', 1, **options) as started:
        wait_for_steps(tmp_path, 2)
        started.processes[process].send_signal(number)
        before = time.monotonic()
        left = started.processes[1 - process]
        printed, errors = left.communicate(timeout=300)
        yield process, time.monotonic() - before, (left.returncode, printed, errors)


@pytest.mark.slow
def test_a_lost_process_ends_the_other_within_the_bound(lost: tuple[int, float, tuple]) -> None:
    number, seconds, (status, _, errors) = lost
    assert status == LOST, errors
    assert re.search(rf'process {number} of 2 on .+ died or hangs.* with --resume', errors), errors
    assert seconds < BOUND + 10


@pytest.mark.slow
def test_what_only_one_process_lacks_ends_all_and_changes_nothing(config: Path, tmp_path: Path) -> None:
    (tmp_path / 'run.json').write_text('an old run')
    before = time.monotonic()
    ended = run(2, 'train', config, '--run-dir', tmp_path, '--overwrite', TINY_MISSING='1')
    assert [status for status, _, _ in ended] == [LOST, 2], ended
    assert 'blobs is not prepared here' in ended[1][2]
    assert re.search('process 1 of 2 on .+ failed: .*blobs is not prepared here', ended[0][2])
    assert time.monotonic() - before < 60
    assert [path.name for path in tmp_path.iterdir()] == ['run.json']


@pytest.mark.slow
def test_processes_with_other_commands_do_not_start(config: Path, tmp_path: Path) -> None:
    ended = run(2, 'train', config, '--run-dir', tmp_path, TINY_SEED='1')
    assert {status for status, _, _ in ended} <= {2, LOST}
    assert all('different configuration' in errors for _, _, errors in ended), ended
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('number', ['0', '1'])
def test_a_process_that_stays_alone_says_so(number: str, config: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    place = {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': number}
    done = subprocess.run(
        [*COMMAND, 'train', config, '--run-dir', tmp_path / 'run'],
        env={**os.environ, **place, 'PYTHONPATH': ROOTS, 'TINY_BOUND': '2'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == LOST, done.stderr
    assert f'not all processes came to {address} within 6 seconds' in done.stderr
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_the_launcher(config: Path, tmp_path: Path) -> None:
    script = TESTS.parent / 'scripts' / 'launch_local.py'
    command = [sys.executable, script, '2', *COMMAND, 'train', config, '--run-dir', tmp_path / 'run']
    done = subprocess.run(command, env={**os.environ, 'PYTHONPATH': ROOTS}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert '[0] test accuracy' in done.stdout
    assert '[1]' not in without_gloo(done.stdout)


ABORT = """
import ctypes, threading, time
from flaxmobile.parallel import processes as distributed
distributed._delay_abort()
threading.Timer(1, print, ['said'], {'flush': True}).start()
ctypes.CDLL(None).abort()
"""


@pytest.mark.slow
def test_an_abort_leaves_threads_the_time_to_speak_and_still_ends_the_process() -> None:
    """No Python runs in the signal's handler. JAX's runtime aborts by this call when it has lost process 0."""
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, '-c', ABORT],
        env={**os.environ, 'PYTHONPATH': ROOTS},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGABRT, 'said\n'), done.stderr
    assert time.monotonic() - before > signal.SIGABRT
