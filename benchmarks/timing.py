"""Timing side by side: every contender in turn, many rounds."""

import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from flaxmobile.analysis.latency import Times, summarize

LIBRARIES = (
    *('flaxmobile', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'torch', 'timm', 'keras', 'tensorflow'),
    *('onnx', 'onnxscript', 'onnxruntime', 'ai-edge-litert'),
)
AT_LEAST, SLOW, FEW = 0.25, 5.0, 5
"""Seconds that a round measures at least, seconds a call from which there are fewer rounds, and how many then."""


def interleave(contenders: Mapping[str, Callable[[int], float]], rounds: int) -> dict[str, Times]:
    """Milliseconds of a call. Every round in another order: all share the machine's moods, and the one before changes.

    A quick contender is called as often in a round as takes 0.25 s, its time then being the mean; one whose call takes
    over 5 s has no more than 5 rounds, spread evenly.

    Args:
        contenders: name to a function that makes that many calls and returns the seconds they took.
        rounds: how often each is timed.
    """
    calls, turns = {}, {}
    for name, run in contenders.items():
        run(1)
        seconds = run(1)
        calls[name] = max(1, math.ceil(AT_LEAST / max(seconds, 1e-6)))
        count = min(rounds, FEW) if seconds > SLOW else rounds
        turns[name] = {round(turn) for turn in np.linspace(0, rounds - 1, count)}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    shuffle = np.random.default_rng(0).permutation
    for number in range(rounds):
        for name in shuffle(list(contenders)):
            if number in turns[name]:
                samples[name].append(1e3 * contenders[name](calls[name]) / calls[name])
    return {name: summarize(values) for name, values in samples.items()}


def seconds_of(work: Callable[[], Any], calls: int) -> float:
    """Seconds that so many calls take, of several after one that wakes threads and fills the cache."""
    if calls > 1:
        work()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    return time.perf_counter() - start


def limit_threads(threads: int) -> None:
    """Keep this process, and those it starts, to that many cores and threads.

    Raises:
        ValueError: the machine has fewer.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= threads <= len(cores):
        raise ValueError(f'{threads} threads asked for: this machine has {len(cores)} cores to give')
    os.sched_setaffinity(0, cores[:threads])
    os.environ['OMP_NUM_THREADS'] = str(threads)


def machine() -> dict[str, Any]:
    """The processor, the cores in use, the allocator's settings, and the versions of what is installed."""
    information = Path('/proc/cpuinfo')
    lines = information.read_text().splitlines() if information.exists() else []
    model = next((line.split(': ')[1] for line in lines if line.startswith('model name')), platform.processor())
    return {
        'processor': model,
        'avx512': any('avx512f' in line for line in lines if line.startswith('flags')),
        'cores': len(os.sched_getaffinity(0)),
        'system': f'{platform.system()} {platform.release()}',
        'python': platform.python_version(),
        'malloc': os.environ.get('GLIBC_TUNABLES') or os.environ.get('LD_PRELOAD') or 'default',
        'versions': {name: version for name in LIBRARIES if (version := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
