import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmobile.training.config import TrainConfig
from flaxmobile.training.optimizer import learning_rate_schedule

STEPS_PER_EPOCH = 4
BASE = TrainConfig(model='mobilenetv1_025', dataset='cifar10', learning_rate=0.1, schedule='constant', epochs=20)


def rates(steps: int, **changes: Any) -> list[float]:
    schedule = learning_rate_schedule(dataclasses.replace(BASE, **changes).optimizer_plan, STEPS_PER_EPOCH)
    return [float(schedule(step)) for step in range(steps)]


def test_exponential_is_a_staircase():
    """0.98 every 2.5 epochs of 4 steps, as the MobileNetV2 authors' code has it."""
    expected = [0.1] * 10 + [0.098] * 10 + [0.09604] * 5
    np.testing.assert_allclose(
        rates(25, schedule='exponential', decay_epochs=2.5, decay_rate=0.98), expected, rtol=1e-6
    )


def test_cosine():
    """Half of the way half the rate; at the last of 80 steps close to 0, and after it 0."""
    values = rates(82, schedule='cosine')
    expected = [0.1, 0.1 * (1 + math.cos(math.pi / 4)) / 2, 0.05, 0.1 * (1 + math.cos(math.pi * 79 / 80)) / 2]
    np.testing.assert_allclose([values[i] for i in (0, 20, 40, 79)], expected, rtol=1e-4)
    assert 0 < values[79] < 1e-4
    np.testing.assert_allclose(values[80:], 0, atol=1e-9)


def test_step():
    values = rates(20, schedule='step', milestones=(1, 3.5), decay_rate=0.1)
    np.testing.assert_allclose(values, [0.1] * 4 + [0.01] * 10 + [0.001] * 6, rtol=1e-5)


def test_constant_with_warmup():
    np.testing.assert_allclose(rates(7, warmup_epochs=1), [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1], rtol=1e-6)


def test_warmup_rises_to_where_the_decay_is():
    """Two epochs of warm-up in a staircase of one: the decay has come to 0.5 squared."""
    values = rates(12, schedule='exponential', decay_rate=0.5, warmup_epochs=2)
    np.testing.assert_allclose(values, [*(0.025 * np.arange(1, 9) / 8), *[0.025] * 4], rtol=1e-6)


def test_accumulation_keeps_the_rate_within_an_update():
    values = rates(12, schedule='exponential', decay_rate=0.5, accumulation_steps=2)
    np.testing.assert_allclose(values, [0.1] * 4 + [0.05] * 4 + [0.025] * 4, rtol=1e-6)


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(['constant', 'cosine', 'exponential', 'step']),
    st.floats(0, 20, exclude_max=True),
    st.floats(0.1, 9),
    st.integers(1, 5),
    st.integers(1, 300),
)
def test_every_schedule_rises_then_falls(schedule: str, warmup: float, period: float, accumulation: int, epoch: int):
    config = dataclasses.replace(
        BASE,
        schedule=schedule,
        warmup_epochs=warmup,
        decay_epochs=period,
        accumulation_steps=accumulation,
        milestones=(7.0,),
    )
    values = np.asarray(learning_rate_schedule(config.optimizer_plan, epoch)(jnp.arange(200) * epoch // 10))
    top = values.argmax()
    assert (values >= 0).all()
    assert (values <= 0.1 * (1 + 1e-6)).all()
    assert (np.diff(values[: top + 1]) >= -1e-8).all()
    assert (np.diff(values[top:]) <= 1e-8).all()


@pytest.mark.parity
def test_schedules_against_torch():
    from torch import nn, optim

    makers = {
        'exponential': (lambda optimizer: optim.lr_scheduler.StepLR(optimizer, 10, 0.98), {'decay_epochs': 2.5}),
        'cosine': (lambda optimizer: optim.lr_scheduler.CosineAnnealingLR(optimizer, 80), {}),
        'step': (
            lambda optimizer: optim.lr_scheduler.MultiStepLR(optimizer, [12, 40], 0.98),
            {'milestones': (3.0, 10.0)},
        ),
    }
    for name, (make, changes) in makers.items():
        optimizer = optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
        scheduler, expected = make(optimizer), []
        for _ in range(80):
            expected.append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
        np.testing.assert_allclose(rates(80, schedule=name, **changes), expected, rtol=1e-4, atol=1e-8)
