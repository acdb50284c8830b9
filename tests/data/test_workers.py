"""Worker processes: the same batches, errors that arrive, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import active_children
from pathlib import Path

import pytest
from numbered_images import numbered_images
from test_batches import SMALL, assert_same, take

from flaxmobile.data import Augmentation, UnreadableImages

CROPS = Augmentation((0.2, 1.0))
HERE = Path(__file__).parent
PROGRAM = """
import os, signal, sys, time
sys.path.insert(0, {here!r})
from numbered_images import numbered_images
from flaxmobile.data import Augmentation, Preprocessing
from multiprocessing import active_children

if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell has its background jobs ignore it.
    batches = numbered_images(50).train_batches(
        4, Preprocessing(4, 1, (0.5,), (0.5,), 1.0), Augmentation(), seed=0, workers=2
    )
    {first}
    next(batches)
    print(*(child.pid for child in active_children()), flush=True)
    {then}
"""


def test_batches_errors_and_resuming_are_those_of_threads():
    share = {'process_index': 1, 'process_count': 2}
    threads, processes = numbered_images(60, broken=(7, 8), max_unreadable=0.1), numbered_images(60, (7, 8), 0.1)
    expected = take(16, threads.train_batches(6, SMALL, CROPS, seed=3, **share))
    batches = processes.train_batches(6, SMALL, CROPS, seed=3, **share, start_step=4, workers=2)
    assert_same(take(12, batches), expected[4:])
    batches.close()
    assert not active_children()
    assert sorted(processes.unreadable) == ['number 7', 'number 8']
    too_many = numbered_images(60, range(0, 60, 2), 0.1)
    with pytest.raises(UnreadableImages, match=r'7 of 60 images cannot be read, and 6 may be: number') as raised:
        take(20, too_many.train_batches(6, SMALL, CROPS, seed=3, workers=1))
    again = numbered_images(60, range(0, 60, 2), 0.1)
    with pytest.raises(UnreadableImages) as by_threads:
        take(20, again.train_batches(6, SMALL, CROPS, seed=3))
    messages = [str(error.value).split('. ')[0] for error in (raised, by_threads)]  # The rest has an address in memory.
    assert messages[0] == messages[1]


def program(tmp_path: Path, then: str, first: str = '') -> subprocess.Popen:
    path = tmp_path / 'program.py'
    path.write_text(PROGRAM.format(here=str(HERE), first=first, then=then))
    root = HERE.parent.parent
    environment = os.environ | {'PYTHONPATH': f'{root}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'}
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE}
    return subprocess.Popen([sys.executable, str(path)], env=environment, text=True, start_new_session=True, **pipes)


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 20
    while alive := [process for process in processes if Path(f'/proc/{process}').exists()]:
        assert time.monotonic() < deadline, f'{alive} are left behind'
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self').exists(), reason='looks for processes in /proc')
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_the_program(tmp_path, number):
    process = program(tmp_path, 'time.sleep(60)')
    workers = [int(word) for word in process.stdout.readline().split()]
    assert len(workers) == 2
    os.kill(process.pid, number)
    wait_until_gone(workers)
    process.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize('then', ['pass', 'del batches', 'raise SystemExit(0)', 'kept = [batches]; sys.kept = kept'])
def test_a_program_that_ends_does_not_wait_for_workers(tmp_path, then):
    process = program(tmp_path, then)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, '')
    wait_until_gone([int(word) for word in out.split()])


@pytest.mark.slow
def test_signals_to_the_whole_group_are_the_programs_alone(tmp_path):
    then = 'signal.signal(signal.SIGINT, lambda *_: None); signal.signal(signal.SIGTERM, lambda *_: None)'
    then += (
        '; print("ready", flush=True); time.sleep(1); time.sleep(1); [next(batches) for _ in range(20)]; print("ok")'
    )
    process = program(tmp_path, then)
    process.stdout.readline()
    assert process.stdout.readline() == 'ready\n'
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, 'ok\n', '')


@pytest.mark.slow
def test_signals_do_not_end_workers_that_start(tmp_path):
    signal_them = """
    import threading

    def signal_them():
        seen = set()
        while len(seen) < 2:
            for child in active_children():
                if child.pid not in seen:
                    os.kill(child.pid, signal.SIGTERM), os.kill(child.pid, signal.SIGINT)
                    seen.add(child.pid)

    threading.Thread(target=signal_them).start()
    """
    process = program(tmp_path, '[next(batches) for _ in range(20)]; print("ok")', signal_them)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.splitlines()[-1:], err) == (0, ['ok'], '')


@pytest.mark.slow
def test_a_killed_worker_is_told(tmp_path):
    then = 'os.kill(active_children()[0].pid, signal.SIGKILL); [next(batches) for _ in range(20)]'
    process = program(tmp_path, then)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert 'ChildProcessError: one of the 2 workers that read images ended' in err
    assert 'exit code -9' in err


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path):
    """Its workers would start workers of their own when they import it."""
    path = tmp_path / 'program.py'
    path.write_text(
        f'import sys\nsys.path.insert(0, {str(HERE)!r})\n'
        'from numbered_images import numbered_images\nfrom test_batches import SMALL\n'
        'from flaxmobile.data import Augmentation\n'
        'next(numbered_images(50).train_batches(4, SMALL, Augmentation(), seed=0, workers=1))\n'
    )
    environment = os.environ | {'PYTHONPATH': str(HERE.parent.parent)}
    ended = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120, env=environment)
    assert ended.returncode == 1
    words = "this script starts workers while it is imported: put what it does under `if __name__ == '__main__':`"
    assert ended.stderr.splitlines()[-1].startswith('ChildProcessError: each worker imports the script')
    assert words in ended.stderr.splitlines()[-1]
    assert ended.stderr.count('Traceback') == 1
