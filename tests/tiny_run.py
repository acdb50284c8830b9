"""A data set that a small network learns in seconds (the bright half of PNG images in memory), and a run on it."""

import io
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flaxmobile import data
from flaxmobile.data import Augmentation, Preprocessing
from flaxmobile.data.dataset import Dataset, RandomAccessDataset
from flaxmobile.data.sample import Sample
from flaxmobile.runs import splits
from flaxmobile.runs.training import train
from flaxmobile.training.config import TrainConfig

CLASSES = ('bottom', 'left', 'right', 'top')
LENGTHS = {'train': 96, 'validation': 30, 'test': 37}


class Blobs:
    """Noise of 8x8 pixels with a bright half; the label says which half, and is false for every tenth image."""

    def __init__(self, split: str):
        self._length, self._seed = LENGTHS[split], sorted(LENGTHS).index(split)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng([self._seed, index])
        side = int(rng.integers(4))
        pixels = rng.integers(0, 100, (8, 8), np.uint8)
        half = (
            (slice(4, 8), slice(None)),
            (slice(None), slice(0, 4)),
            (slice(None), slice(4, 8)),
            (slice(0, 4), slice(None)),
        )
        pixels[half[side]] += 120
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, 'png')
        label = (side + 1) % 4 if index % 10 == 9 else side
        return Sample(file.getvalue(), label, f'{index}.png')


class TinyNet(nn.Module):
    """The contract of a model of the zoo in a few parameters."""

    num_classes: int
    width: int = 8

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        step = images.shape[1] // 8  # Eight pixels a side, whatever the images have: parameters of one shape.
        x = nn.Dense(self.width, name='stem')(images[:, ::step, ::step].reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name='norm')(x))
        x = nn.Dropout(0.2, deterministic=not train)(x)
        if not self.num_classes:
            return x
        return nn.Dense(self.num_classes, name='classifier')(x).astype(jnp.float32)


def blobs(name: str, split: str, **_: object) -> Dataset:
    return RandomAccessDataset(name, split, CLASSES, Blobs(split), 0.01)


def tiny_config() -> TrainConfig:
    """Six steps an epoch."""
    return TrainConfig(
        model='tiny',
        dataset='blobs',
        train_split='train',
        validation_split='validation',
        preprocessing=Preprocessing(image_size=8, channels=1, mean=(0.3,), std=(0.2,), crop_fraction=1.0),
        augmentation=Augmentation(crop_scale=(0.7, 1.0), flip=False),
        batch_size=16,
        epochs=4,
        optimizer='adamw',
        learning_rate=0.02,
        schedule='cosine',
        ema_decay=0.9,
        log_every=5,
    )


def use_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every configuration train the network above on the images above."""
    monkeypatch.setattr(splits, 'load_dataset', blobs)
    monkeypatch.setattr(data, 'load_dataset', blobs, raising=False)
    monkeypatch.setattr(TrainConfig, 'build_model', lambda self, num_classes: TinyNet(num_classes))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    use_tiny(monkeypatch)
    return tiny_config()


FINISHED: list[Path] = []


@pytest.fixture(scope='session')
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went through; one for the whole session, not to be changed."""
    if not FINISHED:
        with pytest.MonkeyPatch.context() as monkeypatch:
            use_tiny(monkeypatch)
            FINISHED.append(train(tiny_config(), tmp_path_factory.mktemp('runs') / 'finished'))
    return FINISHED[0]


@pytest.fixture
def blob_file(tmp_path: Path) -> Path:
    """The first test image as a file."""
    path = tmp_path / 'blob.png'
    path.write_bytes(bytes(Blobs('test')[0].image))  # type: ignore[arg-type]
    return path
