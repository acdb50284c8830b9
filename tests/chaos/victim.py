"""A short run, in a process of its own that may be killed: the tiny network, six steps an epoch, a save every two."""

import os
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny_config, use_tiny

from flaxmobile.runs import training as runs
from flaxmobile.training.metrics import MetricsLog, Window

STEPS, EPOCH = 36, 6
CONFIG = replace(tiny_config(), epochs=STEPS / EPOCH, checkpoint_every=1 / 3, log_every=4)


def train(run_dir: Path, limited_from: int | None = None, workers: int = 0) -> None:
    """Begin the run, or go on with it. From step `limited_from` on, no file may grow beyond four kilobytes."""
    log = os.open(f'{run_dir}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    use_tiny(pytest.MonkeyPatch())
    _linger_before_validations()
    if limited_from is not None:
        _limit_files(limited_from)
    try:
        runs.train(replace(CONFIG, workers=workers), run_dir, resume=(run_dir / 'run.json').exists())
    except OSError as error:
        Path(f'{run_dir}.error').write_text(str(error))  # The log may be full too.
        sys.exit(1)


def _linger_before_validations() -> None:
    """So that some kills come between a checkpoint and what is recorded of its validation."""
    write = MetricsLog.write

    def writing(self: MetricsLog, split: str, *place: Any) -> None:
        if split == 'validation':
            time.sleep(0.1)
        write(self, split, *place)

    MetricsLog.write = writing  # type: ignore[method-assign]


def _limit_files(step: int) -> None:
    taken, add = [], Window.add

    def adding(self: Window, metrics: Any) -> None:
        add(self, metrics)
        taken.append(None)
        if len(taken) == step:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    Window.add = adding  # type: ignore[method-assign]
