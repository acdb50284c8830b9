"""Ctrl-C and SIGTERM during training end the run between two steps, after a checkpoint."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import jax

from flaxmobile.training.checkpoints import Checkpoints


class TrainingStopped(Exception):
    """A signal stopped the run after a checkpoint; `number` is the signal's."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


@contextmanager
def signals() -> Iterator[list[int]]:
    """Yield a list to which SIGINT and SIGTERM append their numbers. A second signal acts as it would without this.

    With several processes JAX handles SIGTERM itself and tells all of them (`processes.asked`). SIGINT is passed on as
    SIGTERM there.
    """
    received: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        for known, handler in before.items():
            signal.signal(known, handler)

    try:
        heard = (signal.SIGINT, signal.SIGTERM) if jax.process_count() == 1 else (signal.SIGINT,)
        before = {number: signal.signal(number, note) for number in heard}
    except ValueError:  # Python allows signal handlers in the main thread only.
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(checkpoints: Checkpoints, step: int, number: int) -> NoReturn:
    """Wait for the checkpoint of this step, and raise TrainingStopped."""
    checkpoints.wait()
    name = signal.Signals(number).name
    raise TrainingStopped(f'stopped by {name} at step {step}, which is saved; resume=True goes on from there', number)
