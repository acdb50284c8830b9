"""Quantisation-aware training of a run: what it starts from, that it can be stopped, and what it refuses."""

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from test_loop import final_arrays, stop_after
from tiny_run import CLASSES, LENGTHS, Blobs, blobs, tiny_config

import flaxmobile
from flaxmobile.data import read_image
from flaxmobile.layers import ConvNorm, InvertedResidual
from flaxmobile.models import MobileNet
from flaxmobile.quantization import Quantized
from flaxmobile.runs import splits
from flaxmobile.runs.training import train
from flaxmobile.training import config as configuration
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.interruption import TrainingStopped


class Short(MobileNet):
    """A stem and a block with a sum."""

    def stem_layer(self) -> ConvNorm:
        return ConvNorm(features=8, kernel_size=3)

    def stages(self) -> list[list[nn.Module]]:
        return [[InvertedResidual(features=8, expansion_ratio=2)]]


def use_short(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **fields: Any) -> Short:
        return Short(**{'dropout_rate': 0.5, **fields})

    monkeypatch.setattr(splits, 'load_dataset', blobs)
    monkeypatch.setattr(configuration, 'create_model', create)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    use_short(monkeypatch)


@pytest.fixture(scope='module')
def float_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_short(monkeypatch)
        longer = tiny_config().with_options(epochs=8.0, evaluate_every=8.0, ema_decay=None)
        return train(longer, tmp_path_factory.mktemp('runs') / 'float')


def for_int8(float_run: Path, **changes: Any) -> TrainConfig:
    return tiny_config().for_int8(str(float_run)).with_options(calibration_images=40, **changes)


@pytest.fixture(scope='module')
def int8_run(float_run: Path) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_short(monkeypatch)
        return train(for_int8(float_run, ema_decay=0.9), float_run.parent / 'int8')


def pixels() -> np.ndarray:
    return np.stack([read_image(Blobs('test')[index].image, 1) for index in range(LENGTHS['test'])])


def test_a_run_starts_from_the_folded_network_and_its_teacher_s_answers(
    short: None, float_run: Path, int8_run: Path
) -> None:
    teacher, model = flaxmobile.load_run(float_run), flaxmobile.load_run(int8_run)
    assert isinstance(model.module, Quantized)
    assert (model.labels, model.num_classes) == (CLASSES, 4)
    probabilities = [each.predict(pixels()) for each in (teacher, model)]
    assert np.mean(probabilities[0].argmax(1) == probabilities[1].argmax(1)) > 0.9
    first, *_, last = [
        json.loads(line)['loss'] for line in (int8_run / 'metrics.jsonl').read_text().splitlines() if 'train' in line
    ]
    assert last < first < 0.1  # The distance to the teacher, of weights that are its own.
    learnt = jax.tree.leaves(model.variables['params']['ranges'])
    assert max(map(abs, learnt)) > 1e-5


def test_ranges_begin_with_the_extremes_of_training_images(short: None, float_run: Path, tmp_path: Path) -> None:
    """All 96 training images without augmentation: those of the whole split."""
    whole = for_int8(float_run).with_options(
        crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), calibration_images=96, epochs=1 / 6
    )
    images = np.stack([read_image(Blobs('train')[index].image, 1) for index in range(96)])
    values = whole.preprocessing.normalize(images)
    run = train(whole, tmp_path / 'run')
    extremes = flaxmobile.load_run(run).variables['ranges']['extremes']
    np.testing.assert_allclose(extremes['stem']['input'], [values.min(), values.max()], rtol=1e-6)
    teacher = flaxmobile.load_run(float_run)
    logits = jax.jit(teacher.module.apply)(teacher.variables, values)
    np.testing.assert_allclose(extremes['classifier']['output'], [logits.min(), logits.max()], rtol=1e-4)


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits(
    short: None, float_run: Path, int8_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, config = tmp_path / 'run', for_int8(float_run, ema_decay=0.9)
    with monkeypatch.context() as patched:
        stop_after(patched, 8, signal.SIGTERM)
        with pytest.raises(TrainingStopped, match='step 8'):
            train(config, run)
    train(config, run, resume=True)
    for ours, theirs in zip(final_arrays(run), final_arrays(int8_run), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_the_command_has_a_recipe_and_takes_other_values(
    short: None, float_run: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    file = tmp_path / 'tiny.py'
    replaced = "linear_probe=True, dtype='bfloat16', epochs=3, warmup_epochs=2"  # By the recipe.
    file.write_text(f'from tiny_run import tiny_config\nconfig = tiny_config().with_options({replaced})\n')
    run = tmp_path / 'run'
    given = '--qat', '--init', float_run, '--epochs', 1, '--run-dir', run
    status, out, err = command('train', file, *given)
    assert (status, err) == (0, '')
    assert 'test accuracy' in out
    told = json.loads((run / 'run.json').read_text())['config']
    assert (told['qat'], told['epochs'], told['learning_rate']) == (True, 1.0, 1e-4)
    assert told['init'] == told['teacher'] == str(float_run)
    assert command('evaluate', run, '--data', tmp_path)[0] == 2
    status, _, err = command('convert', run, tmp_path / 'weights.safetensors')
    assert status == 2
    assert 'weights.safetensors: the model was trained for int8, and files of weights hold float networks' in err
    status, _, err = command('train', file, '--qat', '--init', run, '--run-dir', tmp_path / 'other')
    assert status == 2
    assert 'was trained for int8 already: start from the float network that it came from' in err
    assert not (tmp_path / 'other').exists()


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'init': None}, r'qat=True goes with init=\.\.\., the float network to train for int8'),
        ({'freeze': ('stem',)}, r'freeze \(stem\) does not go with qat=True: all weights and ranges'),
        ({'linear_probe': True}, r'linear_probe \(True\) does not go with qat=True: probe the float network'),
        ({'dtype': 'bfloat16'}, r'dtype \(bfloat16\) does not go with qat=True: the numbers'),
    ],
)
def test_what_does_not_go_with_it(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_config().for_int8('somewhere').with_options(**changes)


def test_other_classes_are_refused(
    short: None, float_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renamed(name: str, split: str, **options: object) -> Any:
        found = blobs(name, split, **options)
        found.classes = ('below', *CLASSES[1:])
        return found

    monkeypatch.setattr(splits, 'load_dataset', renamed)
    with pytest.raises(ValueError, match=r'teacher: .*below'):
        train(for_int8(float_run), tmp_path / 'run')
    with pytest.raises(ValueError, match=r'init: .*below.*begins with a trained classifier'):
        train(for_int8(float_run, teacher=None, distillation_weight=0.0), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_float_training_has_no_part_in_it(float_run: Path) -> None:
    told = json.loads((float_run / 'run.json').read_text())['config']
    assert told['qat'] is False
    assert dataclasses.replace(tiny_config()).quantization.qat is False
