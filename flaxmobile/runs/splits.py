"""The three parts of a run's data."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from flaxmobile.data import Dataset, load_dataset
from flaxmobile.data.dataset import RandomAccessDataset
from flaxmobile.data.splits import overlap
from flaxmobile.training.config import TrainConfig


class Splits(NamedTuple):
    """The three parts of a run's data."""

    train: Dataset
    validation: Dataset
    test: Dataset


def load_splits(config: TrainConfig, classes: Sequence[str] = ()) -> Splits:
    """The training, validation and test images of a configuration.

    Args:
        config: says which.
        classes: those of a run that goes on, in the order of its network's outputs. Where the images' classes have the
            same names in another order, as accents written in another way bring it, they are numbered as here.

    Raises:
        ValueError: their classes differ, one of them is empty, or training images are among those of another part.
    """
    splits = Splits(
        *(
            _numbered(load_split(config, split), classes)
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
        if images is not splits.train and (shared := overlap(splits.train, images)):
            raise ValueError(
                f'{shared:,} of the {len(images):,} images of {part}_split {images.split!r} are also in train_split '
                f'{splits.train.split!r}, so that its accuracy would say nothing: take parts that do not overlap, such '
                "as 'train[:90%]' and 'train[90%:]'"
            )
    return splits


def _numbered(images: Dataset, classes: Sequence[str]) -> Dataset:
    names = {unicodedata.normalize('NFC', name): name for name in images.classes}
    order = [unicodedata.normalize('NFC', name) for name in classes]
    if not isinstance(images, RandomAccessDataset) or sorted(names) != sorted(order):
        return images
    numbered = tuple(names[name] for name in order)
    return images if numbered == images.classes else images.renumbered(numbered)


def load_split(config: TrainConfig, split: str) -> Dataset:
    """A part of a configuration's images, divided as its run divides them."""
    return load_dataset(
        config.dataset,
        split,
        data_dir=config.data_dir,
        download=config.download,
        max_unreadable=config.max_unreadable,
    )


def unreadable(data: Splits) -> list[str]:
    """What could not be read in any part of the data."""
    return sorted({name for images in data for name in images.unreadable})


def same_images(before: str, now: str) -> bool:
    """Whether two fingerprints tell of the same images; one that an earlier version wrote has no contents of files."""
    return before in (now, re.sub(r', contents \w+', '', now))


def fingerprints(data: Splits) -> dict[str, str]:
    """What tells the images of each part from others, by the name of the part."""
    return {part: images.fingerprint for part, images in data._asdict().items()}
