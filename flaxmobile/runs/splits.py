"""The three parts of a run's data."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from flaxmobile.data import Dataset, load_dataset
from flaxmobile.data.dataset import RandomAccessDataset
from flaxmobile.data.splits import overlap
from flaxmobile.training.plans import DataPlan
from flaxmobile.weights.class_names import in_order


class Splits(NamedTuple):
    """The three parts of a run's data."""

    train: Dataset
    validation: Dataset
    test: Dataset


def load_splits(plan: DataPlan, classes: Sequence[str] = ()) -> Splits:
    """The training, validation and test images of a plan.

    Args:
        plan: which.
        classes: the classes of a run that is resumed, in the order of its network's outputs. If the images have the
            same classes in another order, they are numbered in this order. (The order of folders changes when their
            names are written in another Unicode form.)

    Raises:
        ValueError: the parts have different classes, a part is empty, or another part shares images with the training
            part.
    """
    splits = Splits(
        *(
            _numbered(load_split(plan, split), classes)
            for split in (plan.train_split, plan.validation_split, plan.test_split)
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
    numbered = in_order(images.classes, classes)
    if not isinstance(images, RandomAccessDataset) or numbered in (None, images.classes):
        return images
    return images.renumbered(numbered)


def load_split(plan: DataPlan, split: str) -> Dataset:
    """One part of a plan's images, as its run uses it."""
    return load_dataset(
        plan.dataset,
        split,
        data_dir=plan.data_dir,
        download=plan.download,
        max_unreadable=plan.max_unreadable,
    )


def unreadable(data: Splits) -> list[str]:
    """The names of the images that could not be read, over all parts, sorted."""
    return sorted({name for images in data for name in images.unreadable})


def same_images(before: str, now: str) -> bool:
    """Whether two fingerprints mean the same images. One of an earlier version may lack the contents of files."""
    return before in (now, re.sub(r', contents \w+', '', now))


def fingerprints(data: Splits) -> dict[str, str]:
    """The fingerprint of the images of each part, by the name of the part."""
    return {part: images.fingerprint for part, images in data._asdict().items()}
