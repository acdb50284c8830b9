import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from flaxmobile.data import load_dataset
from flaxmobile.inspection import input_speed
from flaxmobile.runs.splits import load_splits
from flaxmobile.training.config import load_config

CONFIG = """
from flaxmobile.data import Preprocessing
from flaxmobile.training.config import TrainConfig

config = TrainConfig(
    model='mobilenetv3_small_050',
    dataset={dataset!r},
    train_split='train',
    preprocessing=Preprocessing(image_size=16),
    batch_size=8,
)
"""


@pytest.fixture
def config(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    for number in range(12):
        path = tmp_path / 'photos' / 'train' / f'class{number % 2}' / f'{number}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    path = tmp_path / 'photos.py'
    path.write_text(CONFIG.format(dataset=str(tmp_path / 'photos')))
    return path


@pytest.mark.slow
def test_every_stage_has_a_speed(command, config):
    status, out, _ = command('benchmark', 'input', config, '--rounds', 2, '--json')
    assert status == 0
    speeds = json.loads(out)
    assert list(speeds) == ['read', 'decode', 'augment', 'decode crop and augment', 'batch', 'transfer', 'all']
    assert all(speed > 0 for speed in speeds.values())
    _, out, _ = command('benchmark', 'input', config, '--rounds', 1, '--batch-size', 16)
    assert out.splitlines()[0].endswith('(train), 16 pixels, workers: 0; images a second')


def test_what_cannot_be_is_refused(command, config):
    assert command('benchmark', 'input', config, '--rounds', 0)[0::2] == (
        2,
        'flaxmobile: rounds is 0: it has to be 1 or more\n',
    )
    assert (
        'workers must be a whole number from 0 to 1,024, not -1'
        in command('benchmark', 'input', config, '--workers=-1')[2]
    )
    assert "unknown config 'photo'" in command('benchmark', 'input', 'photo')[2]


def test_it_reads_the_images_that_the_run_trains_on(command, config, monkeypatch):
    """A folder without splits is divided, and not by the run's own seed."""
    folder = config.parent / 'photos' / 'train'
    config.write_text(CONFIG.format(dataset=str(folder)).replace('batch_size=8', 'batch_size=8, seed=5'))
    seen = []
    monkeypatch.setattr(input_speed, 'measure_input', lambda run, images, rounds: seen.append(images) or {})
    assert command('benchmark', 'input', config)[0] == 0
    run = dataclasses.replace(load_config(str(config)), validation_split='test', test_split='test')
    default, other = (load_dataset(str(folder), 'train', seed=seed).fingerprint for seed in (0, 5))
    assert seen[0].fingerprint == load_splits(run.data_plan).train.fingerprint == default != other
