"""Kills runs at random moments, some while a checkpoint is written, and sees that each ends as if never killed.

    python tests/chaos/chaos.py --kills 50

A run is killed (SIGKILL) once or more, goes on, and at the end its last checkpoint is compared bit by bit with that of
a run that nothing happened to, and so are its records and its results.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parents[1]
PATHS = [str(TESTS), str(TESTS / 'chaos'), str(TESTS.parent)]
TIMES = ('seconds', 'images_per_second')
SHARE_DURING_SAVES = 0.5
SHARE_KILLED_AGAIN = 0.3


class Kill(NamedTuple):
    """One kill: how long the process had lived, and what it left: half a checkpoint, one not validated, checkpoints."""

    seconds: float
    during_save: bool
    before_validation: bool
    steps: list[int]


def server(cache: Path) -> Any:
    """Starts processes that have imported everything and initialised nothing; they share compiled programs."""
    settings = {
        'PYTHONPATH': os.pathsep.join(PATHS),
        'PYTHONWARNINGS': 'ignore:resource_tracker:UserWarning',  # Killed processes leave semaphores to it.
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': '',
        'JAX_COMPILATION_CACHE_DIR': str(cache),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }
    os.environ.update(settings)
    sys.path[:0] = [path for path in PATHS if path not in sys.path]
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['victim', 'orbax.checkpoint', 'tensorboardX', 'matplotlib.figure'])
    return context


def start(context: Any, run_dir: Path, **options: Any) -> Any:
    """A process that begins the run in `run_dir`, or goes on with it."""
    from victim import train

    process = context.Process(target=train, args=(run_dir,), kwargs=options)
    process.start()
    return process


def finish(context: Any, run_dir: Path, **options: Any) -> float:
    """Let the run end undisturbed; gives the seconds that it took."""
    process, began = start(context, run_dir, **options), time.monotonic()
    process.join(300)
    assert process.exitcode == 0, f'exit code {process.exitcode}:\n{Path(f"{run_dir}.log").read_text()}'
    return time.monotonic() - began


def kill(context: Any, run_dir: Path, seconds: float, rng: random.Random, **options: Any) -> Kill | None:
    """Kill the run within `seconds`, or while it saves; None where it ended before."""
    process, began = start(context, run_dir, **options), time.monotonic()
    moment = began + rng.uniform(0, 0.9 * seconds)
    if rng.random() < SHARE_DURING_SAVES:
        while process.is_alive() and not (time.monotonic() >= moment and unfinished(run_dir)):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.02))
    else:
        process.join(max(0, moment - time.monotonic()))
    lived = time.monotonic() - began
    process.kill()
    process.join()
    if process.exitcode == 0:
        return None
    assert process.exitcode == -9, f'exit code {process.exitcode}:\n{Path(f"{run_dir}.log").read_text()}'
    steps = sorted(int(path.name) for path in (run_dir / 'checkpoints').glob('*') if path.name.isdecimal())
    return Kill(lived, bool(unfinished(run_dir)), bool(steps) and lacks_validation(run_dir, steps[-1]), steps)


def unfinished(run_dir: Path) -> list[Path]:
    """Checkpoints that are being written, or were when the process was killed."""
    return list((run_dir / 'checkpoints').glob('*.orbax-checkpoint-tmp*'))


def lacks_validation(run_dir: Path, step: int) -> bool:
    """Whether the checkpoint of `step` is one to be validated, and was not."""
    from victim import EPOCH

    from flaxmobile.runs.folder import validation_values
    from flaxmobile.tasks.classification import Classification

    return step % EPOCH == 0 and step not in validation_values(run_dir, Classification)


def differences(run_dir: Path, expected: Path) -> Iterator[str]:
    """In what a finished run differs from another, but for its times."""
    for name in ('variables', 'ema', 'optimizer'):
        if arrays(run_dir, name) != arrays(expected, name):
            yield f'the arrays of {name}'
    if records(run_dir) != records(expected):
        yield 'metrics.jsonl'
    from flaxmobile.runs.report import read_results
    from flaxmobile.tasks.classification import Classification

    ours, theirs = (read_results(folder, Classification) for folder in (run_dir, expected))
    if {**ours, 'seconds': 0} != {**theirs, 'seconds': 0}:
        yield 'results.json'
    if left := unfinished(run_dir):
        yield f'{left[0].name} is left'


def arrays(run_dir: Path, name: str) -> dict[str, tuple[str, bytes]]:
    """All that an item of the last checkpoint holds, as Orbax alone reads it."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp
    from victim import STEPS

    tree = ocp.StandardCheckpointer().restore(run_dir.absolute() / 'checkpoints' / str(STEPS) / name)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): (str(leaf.dtype), np.asarray(leaf).tobytes()) for path, leaf in leaves}


def records(run_dir: Path) -> list[dict[str, Any]]:
    """The records of a run without what depends on the clock."""
    from flaxmobile.tasks.classification import Classification
    from flaxmobile.training.metrics import read_metrics

    found = read_metrics(run_dir / 'metrics.jsonl', Classification)
    return [{name: value for name, value in record.items() if name not in TIMES} for record in found]


def chaos(kills: int, seed: int, folder: Path, **options: Any) -> list[list[Kill]]:
    """Kill runs until there were so many kills; gives those of each run. Raises AssertionError for one that differs."""
    context, rng, runs = server(folder / 'cache'), random.Random(seed), []
    finish(context, folder / 'first', **options)  # Compiles.
    seconds = finish(context, folder / 'expected', **options)
    while sum(map(len, runs)) < kills:
        run_dir = folder / f'run_{len(runs):03}'
        runs.append([])
        while found := kill(context, run_dir, seconds, rng, **options):
            runs[-1].append(found)
            print(f'{run_dir.name}: killed after {found.seconds:.2f} s, checkpoints {found.steps}'
                  + (', during a save' if found.during_save else '')
                  + (', before its validation' if found.before_validation else ''), flush=True)  # fmt: skip
            if sum(map(len, runs)) >= kills or rng.random() >= SHARE_KILLED_AGAIN:
                break
        if not runs[-1]:
            seconds *= 0.9  # It ended before.
        finish(context, run_dir, **options)
        found = list(differences(run_dir, folder / 'expected'))
        assert not found, f'{run_dir.name} differs after {runs[-1]}: {"; ".join(found)}'
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--workers', type=int, default=0, help='processes that read and augment')
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        runs = chaos(options.kills, options.seed, Path(folder), workers=options.workers)
    kills = [kill for run in runs for kill in run]
    print(
        f'{len(kills)} kills of {len(runs)} runs, {sum(kill.during_save for kill in kills)} of them during a save, '
        f'{sum(kill.before_validation for kill in kills)} between a checkpoint and its validation and '
        f'{sum(not kill.steps for kill in kills)} before the first checkpoint was there; every run went on and ended '
        f'bit-identical ({time.monotonic() - began:.0f} s)'
    )


if __name__ == '__main__':
    main()
