"""The three parts of a run's data."""

from typing import NamedTuple

from flaxmobile.data import Dataset, load_dataset
from flaxmobile.training.config import TrainConfig


class Splits(NamedTuple):
    """The three parts of a run's data."""

    train: Dataset
    validation: Dataset
    test: Dataset


def load_splits(config: TrainConfig) -> Splits:
    """The training, validation and test images of a configuration.

    Raises:
        ValueError: their classes differ, or there are none to train or to validate on.
    """
    splits = Splits(
        *(
            load_dataset(
                config.dataset,
                split,
                data_dir=config.data_dir,
                download=config.download,
                max_unreadable=config.max_unreadable,
            )
            for split in (config.train_split, config.validation_split, config.test_split)
        )
    )
    for part, images in zip(('train', 'validation', 'test'), splits, strict=True):
        if not len(images):
            raise ValueError(f'{part}_split {images.split!r} of {images.name} holds no image')
        if images.classes != splits.train.classes:
            raise ValueError(
                f'{images.name}: the classes of {images.split!r} are {", ".join(images.classes)}, and those of '
                f'{splits.train.split!r} are {", ".join(splits.train.classes)}'
            )
    return splits


def unreadable(data: Splits) -> list[str]:
    """What could not be read in any part of the data."""
    return sorted({name for images in data for name in images.unreadable})
