"""The step and the input overlap, and what runs ahead is bounded."""

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flaxmobile.runs.training import train
from flaxmobile.training import loop as engine
from flaxmobile.training.config import TrainConfig


class Gate:
    """Holds each step until the batch of the next one was asked for, read and placed."""

    def __init__(self, total: int):
        self.total, self.steps, self.held = total, 0, []
        self.placed = threading.Semaphore(0)

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        for number, batch in enumerate(batches):
            if number:
                self.placed.release()
            yield batch

    def wait(self, loss: np.ndarray, last: np.ndarray) -> np.ndarray:
        if not last:
            self.held.append(self.placed.acquire(timeout=20))
        return loss

    def steps_of(self, train_step: Any) -> Any:
        @jax.jit
        def hold(loss: jax.Array, last: bool) -> jax.Array:
            return jax.pure_callback(self.wait, jax.ShapeDtypeStruct(loss.shape, loss.dtype), loss, last)

        def step(state: Any, batch: Any) -> Any:
            self.steps += 1
            state, metrics = train_step(state, batch)
            return state, metrics | {'loss': hold(metrics['loss'], self.steps == self.total)}

        return step


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_next_batch_is_placed_while_a_step_runs(
    tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    gate = Gate(6)
    make, place = engine.compiled_step, engine.placed_batches
    monkeypatch.setattr(engine, 'compiled_step', lambda *args, **options: gate.steps_of(make(*args, **options)))
    monkeypatch.setattr(engine, 'placed_batches', lambda *args: gate.batches(place(*args)))
    train(dataclasses.replace(tiny, epochs=1, workers=workers), tmp_path / 'run')
    # A loop that waits for a step before it asks for the next batch would have timed out.
    assert gate.held == [True] * 5
