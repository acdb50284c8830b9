"""Runs that could change nothing are refused before anything is written, and BatchNorm over single values is told."""

import re
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flaxmobile.inspection.dry_run import make_plan, plan_run
from flaxmobile.models.network import variable_shapes
from flaxmobile.runs.splits import load_splits
from flaxmobile.runs.training import introduction, train
from flaxmobile.training.checks import steps_per_epoch, warn_of_single_values, without_update
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.freezing import frozen_parameters
from flaxmobile.training.optimizer import learning_rate_schedule


def changed(config: TrainConfig, **changes: Any) -> TrainConfig:
    return config.with_options(**changes)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        # 96 images in batches of 16 are 6 steps an epoch.
        (
            {'epochs': 0.5, 'accumulation_steps': 8},
            'would make no update: epochs (0.5) of 6 steps (batch_size 16) are 3 steps, and an update takes '
            'accumulation_steps (8)',
        ),
        ({'epochs': 1, 'accumulation_steps': 7}, 'epochs (1) of 6 steps (batch_size 16) are 6 steps, and an update'),
        # One update, to which both the whole run and the warm-up are rounded: the cosine has come to its end.
        ({'epochs': 1, 'accumulation_steps': 6, 'warmup_epochs': 0.6}, '1 updates, and the learning rate is 0 at each'),
        ({'learning_rate': 1e-50}, '24 updates, and the learning rate is 0 at each of them (learning_rate 1e-50'),
    ],
)
def test_a_run_that_changes_nothing_is_refused(
    changes: dict[str, Any], words: str, tiny: TrainConfig, tmp_path: Path
) -> None:
    config = changed(tiny, **changes)
    for start in (
        lambda: train(config, tmp_path / 'run'),
        lambda: plan_run(config, tmp_path / 'plan.png', name='tiny'),
        lambda: make_plan(config, 96),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            start()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'changes',
    [
        {'epochs': 1, 'accumulation_steps': 6},
        {'epochs': 1e-9},
        {'epochs': 1, 'warmup_epochs': 0.8},
        {'epochs': 1, 'accumulation_steps': 6, 'warmup_epochs': 0.6, 'schedule': 'constant'},
        {'schedule': 'step', 'milestones': (1.0, 2.0), 'decay_rate': 1e-6},
    ],
)
def test_a_run_of_an_update_is_not_refused(changes: dict[str, Any], tiny: TrainConfig) -> None:
    config = changed(tiny, **changes)
    plan = config.optimizer_plan
    assert steps_per_epoch(plan, config.batch_size, 96) == 6
    rates = np.asarray(learning_rate_schedule(plan, 6)(np.arange(config.total_steps(6))))
    assert rates.max() > 0


def test_steps_at_the_end_without_an_update_are_told(tiny: TrainConfig, tmp_path: Path) -> None:
    config = changed(tiny, epochs=2, accumulation_steps=5)  # 12 steps, two updates.
    words = 'the last 2 steps lead to no update: 12 is no multiple of accumulation_steps (5)'
    assert without_update(5, 12) == words
    assert without_update(5, 11).startswith('the last step leads to no update')
    assert without_update(5, 10) == without_update(1, 11) == ''
    assert words in ' '.join(plan_run(config, tmp_path / 'plan.png', name='tiny').split())
    checkpoints = SimpleNamespace(tell_damage=lambda: '')
    images = SimpleNamespace(train=load_splits(config.data_plan).train, batch_size=16)
    for epochs, ending in ((2, f'\n{words}'), (10 / 6, '')):
        timetable = changed(config, epochs=epochs).timetable(6)
        session: Any = SimpleNamespace(images=images, timetable=timetable, checkpoints=checkpoints)
        said = introduction(session, 'tiny', '9 parameters', 0)
        assert said.endswith(f'takes a while to compile{ending}')


@cache
def network(name: str) -> tuple[Any, dict[str, Any]]:
    """A network with the shapes of its variables."""
    model = TrainConfig(model=name, dataset='none').build_model(10)
    return model, variable_shapes(model)


def single_values(**changes: Any) -> list[str]:
    """What is told of a configuration."""
    config = TrainConfig(model='mobilenetv1_025', dataset='none', batch_size=1).with_options(image_size=32)
    config = changed(config, **changes)
    model, shapes = network(config.model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        size = config.augmentation.training_size(config.preprocessing)
        frozen = frozen_parameters(shapes['params'], config.freeze, {'classifier'})
        warn_of_single_values(model, shapes, frozen, (config.batch_size, size, size, 3))
    return [str(warning.message) for warning in caught]


def test_batch_norms_over_single_values_are_told_at_once() -> None:
    """MobileNetV1 of 32 pixels has maps of 1x1 from the depthwise convolution of its last but one block on."""
    (words,) = single_values()
    norms = [f'block_{number}/{part}/norm' for number in (11, 12) for part in ('depthwise', 'pointwise')]
    assert words.startswith(
        f'batch_size is 1, and in training BatchNorm sees one value per channel in {", ".join(norms)}: its output'
    )
    assert single_values(batch_size=2) == []
    assert single_values(image_size=64) == []
    assert single_values(train_image_size=64) == []
    assert single_values(image_size=64, train_image_size=32) == [words]
    assert f'in {", ".join(norms[2:])}: its' in single_values(freeze=('block_11',))[0]
    assert single_values(freeze=('*/norm',)) == []


def test_a_batch_norm_after_the_pooling_sees_one_value_at_any_size() -> None:
    (words,) = single_values(model='mobilenetv4_conv_small', image_size=128)
    assert 'one value per channel in head_conv/norm: its output' in words
