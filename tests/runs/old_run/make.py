"""A run that was stopped, the images it is on, and what it came to when it went on, by the code that is on the path.

`README.md` says which code made the files beside it. Nothing here goes by a name or a field that this code lacks.
"""

import json
import os
import signal
import sys
import tarfile
import unicodedata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from PIL import Image

from flaxmobile.data import Augmentation, Preprocessing
from flaxmobile.layers import Convention, ConvNorm, get_convention
from flaxmobile.models.registry import entry
from flaxmobile.runs.folder import load_run
from flaxmobile.runs.training import train
from flaxmobile.training import loop as engine
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.interruption import TrainingStopped

CLASSES = tuple(unicodedata.normalize('NFD', name) for name in ('Äpfel', 'Birnen', 'Quitten'))
"""As macOS writes the names of folders: so they sort, and with accents in one character the first would be the last."""


class TwoConvolutions(nn.Module):
    """A network in which SAME and Keras's padding differ, as the image has an odd side."""

    num_classes: int
    convention: Convention

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        x = ConvNorm(features=8, convention=self.convention, name='stem')(images, train=train)
        x = ConvNorm(kernel_size=3, strides=2, kind='depthwise', convention=self.convention, name='depthwise')(
            x, train=train
        )
        return nn.Dense(self.num_classes, name='classifier')(x.mean((1, 2)))


def build_model(config: TrainConfig, num_classes: int) -> nn.Module:
    """In place of `TrainConfig.build_model`: of the registered network, its convention alone."""
    named = entry(config.model).fields['convention']
    return TwoConvolutions(num_classes, get_convention(config.convention or named))


def old_config() -> TrainConfig:
    """With values that were allowed when the run began."""
    return TrainConfig(
        model='tf_mobilenetv1_025',
        dataset='images',
        train_split='train[:80%]',
        validation_split='train[80%:]',
        preprocessing=Preprocessing(image_size=9, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_fraction=1.0),
        augmentation=Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False),
        batch_size=8,
        epochs=4,
        seed=20260101123456,
        optimizer='sgd',
        learning_rate=0.2,
        schedule='step',
        milestones=(0.0, 3.0),
        decay_rate=0.5,
        ema_decay=0.5,
        keep_checkpoints=1,
        log_every=2,
    )


def write_images(root: Path) -> None:
    """Twenty images a class, each of 9x9 pixels: noise with a bright column, row or frame."""
    rng = np.random.default_rng(0)
    places: tuple[Any, ...] = ((slice(None), -1), (-1, slice(None)), (slice(2, 7), slice(2, 7)))
    for name, place in zip(CLASSES, places, strict=True):
        (root / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 150, (9, 9, 3), np.uint8)
            pixels[place] += 60
            Image.fromarray(pixels).save(root / name / f'{number:02}.png')


def findings(run_dir: Path) -> dict[str, Any]:
    """What a run says: its logits on two images, and where it has ended its results."""
    model = load_run(run_dir)
    pixels = np.random.default_rng(1).integers(0, 255, (2, 9, 9, 3), np.uint8)
    found = {
        'classes': list(model.labels),
        'logits': model.module.apply(model.variables, model.preprocessing.normalize(pixels)).tolist(),
    }
    if (run_dir / 'results.json').is_file():
        results = json.loads((run_dir / 'results.json').read_text())
        found |= {name: results[name] for name in ('test', 'validation', 'best_step', 'confusion')}
    return found


def main(out: Path) -> None:
    TrainConfig.build_model = build_model  # type: ignore[method-assign, assignment]
    write_images(Path('images'))
    record = engine.record

    def stopping(session: Any, step: int, *rest: Any) -> None:
        record(session, step, *rest)
        if step == 8 and not Path('stopped').exists():
            os.kill(os.getpid(), signal.SIGTERM)

    engine.record = stopping
    try:
        train(old_config(), 'run')
    except TrainingStopped as stopped:
        print(stopped)
    with tarfile.open(out / 'run.tar.xz', 'w:xz') as archive:
        for name in ('run.json', 'metrics.jsonl', 'checkpoints'):
            archive.add(f'run/{name}')
    found = {'stopped': findings(Path('run'))}
    Path('stopped').touch()
    train(old_config(), 'run', resume=True)
    found['ended'] = findings(Path('run'))
    (out / 'expected.json').write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
