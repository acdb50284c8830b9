"""Images to calibrate an int8 file on, from a folder or a data set."""

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flaxmobile.data import Dataset, Preprocessing, UnreadableImage, load_dataset, prepare_for_evaluation
from flaxmobile.data.loading import is_plain_folder
from flaxmobile.export.int8 import LEAST_IMAGES, check_enough
from flaxmobile.messages import printable

COMPARED = 100
"""Images at most that an int8 file is compared on."""
SPLIT = 'train'
"""The part of a data set that images are taken of: the test images stay unseen."""
BATCH = 32


def read_images(
    source: str, preprocessing: Preprocessing, count: int, data_dir: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images to calibrate on and others to compare on, prepared as for evaluation.

    Of a folder all images count that are in it and in the folders within, in an order drawn by a fixed seed; of a data
    set those of its split 'train', in its order. Where there are few, up to a fifth is kept for the comparison.

    Args:
        source: a folder, or the name of a data set as `load_dataset` takes it: of a bare name the data set comes first.
        preprocessing: how they are resized and cropped.
        count: how many to calibrate on, at most.
        data_dir: where TFDS keeps its data sets.

    Returns:
        Two uint8 arrays `[images, height, width, channels]`; the second, of `COMPARED` images at most, may be empty.

    Raises:
        FileNotFoundError: a folder holds no image, or the data set is not prepared.
        ValueError: no name or no such data set, too few images that can be read, or a `count` of too few.
    """
    check_count(count)
    if not source:
        raise ValueError("what is to be calibrated on has the name '': name a folder of images or a data set")
    if is_plain_folder(source, data_dir=data_dir):
        images = _of_folder(Path(source).expanduser(), preprocessing)
    else:
        images = images_of(load_dataset(source, SPLIT, data_dir=data_dir), preprocessing)
    found = [image for _, image in zip(range(count + COMPARED), images, strict=False)]
    check_enough(printable(source, None), len(found))
    kept = max(len(found) - count, min(len(found) // 5, len(found) - LEAST_IMAGES))
    pixels = np.stack(found)
    return pixels[: len(found) - kept], pixels[len(found) - kept :][:COMPARED]


def check_count(count: int) -> None:
    """See that a count of images to calibrate on is one of enough.

    Raises:
        ValueError: it is not.
    """
    if count < LEAST_IMAGES:
        raise ValueError(f'calibration_images={count} is too few: {LEAST_IMAGES} at least; 48 to 100 are usual')


def _of_folder(folder: Path, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    from flaxmobile.data.folders import by_kind, find_images, tell_passed_over

    images, unread, others = find_images(folder)
    told = tell_passed_over(folder, {**others, **by_kind(unread)})
    if not images:
        raise FileNotFoundError(
            f'the folder {printable(folder)} holds no image that can be read' + (f'; {told}' if told else '')
        )
    if told:
        warnings.warn(told, stacklevel=4)
    for index in np.random.default_rng(0).permutation(len(images)):
        try:
            yield prepare_for_evaluation(images[index], preprocessing)
        except UnreadableImage:
            warnings.warn(f'left out, as it cannot be read: {printable(images[index], None)}', stacklevel=4)


def images_of(dataset: Dataset, preprocessing: Preprocessing) -> Iterator[np.ndarray]:
    """The images of a data set that can be read, in its order, uint8 `[height, width, channels]`."""
    for batch in dataset.evaluation_batches(BATCH, preprocessing):
        yield from batch['image'][batch['mask']]


def first_images(dataset: Dataset, preprocessing: Preprocessing, count: int) -> np.ndarray:
    """The first `count` images of a data set that can be read, uint8 `[images, height, width, channels]`.

    Raises:
        ValueError: there is none.
    """
    found = list(itertools.islice(images_of(dataset, preprocessing), count))
    if not found:
        raise ValueError(f'{printable(f"{dataset.name} ({dataset.split})", None)} holds no image that can be read')
    return np.stack(found)
