"""What training and evaluation make of a sample before a network sees it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flaxmobile.data.augmentation import Change, draw_changes, draw_crop
from flaxmobile.data.geometry import Crop, Move, centre_crop, evaluation_crop, is_left, move_boxes, move_mask
from flaxmobile.data.images import UnreadableImage, read_crop
from flaxmobile.data.operations import to_picture, to_pixels
from flaxmobile.data.preprocessing import Augmentation, Preprocessing
from flaxmobile.data.sample import Sample

_LEAST = 1.0
"""Pixels of width, height and area that a box must have left to be trained on."""


def prepare_for_training(
    image: np.ndarray | Path | str | bytes,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> np.ndarray:
    """Crop at random, resize, mirror half of the images, and do what else the augmentation asks for.

    Args:
        image: pixels uint8 [height, width, channels]; or a path or encoded bytes, of which only what the crop needs is
            decoded, to the same pixels as `read_image` gives.
        preprocessing: the image size and interpolation, as far as `augmentation` has none of its own.
        augmentation: what is varied, and how much.
        rng: where the chances come from.

    Returns:
        uint8 [size, size, channels], `size` being `augmentation.training_size(preprocessing)`.

    Raises:
        UnreadableImage: it is encoded and cannot be decoded, as in `read_image`.
    """
    return pixels_of(training_sample(_of_image(image), preprocessing, augmentation, rng))


def prepare_for_evaluation(image: np.ndarray | Path | str | bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Resize the shorter side to `floor(image_size / crop_fraction)` and cut out the centre, as timm does.

    Args:
        image: pixels uint8 [height, width, channels]; or a path or encoded bytes.
        preprocessing: the image size, channels, crop fraction and interpolation.

    Returns:
        uint8 [image_size, image_size, channels].

    Raises:
        UnreadableImage: it is encoded and cannot be decoded, as in `read_image`.
    """
    return pixels_of(evaluation_sample(_of_image(image), preprocessing))


def training_sample(
    sample: Sample, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> Sample:
    """Draw a crop and changes once, and apply them: to the image all of them, to boxes and mask those that move pixels.

    Boxes are cut off at the edges of the image. Those of which less than a pixel in width, height or area is left are
    dropped, each with its label (torchvision's `SanitizeBoundingBoxes`). What comes from outside of a mask is 255.

    Args:
        sample: what to prepare.
        preprocessing: the image size, channels and interpolation, as far as `augmentation` has none of its own.
        augmentation: what is varied, and how much.
        rng: where the chances come from.

    Returns:
        A sample whose image is uint8 [size, size, channels], `size` being `augmentation.training_size(preprocessing)`.

    Raises:
        UnreadableImage: the image cannot be decoded, or the mask has another size.
    """
    picture, crop, frame = _cut(
        sample.image,
        preprocessing.channels,
        lambda height, width: draw_crop(height, width, preprocessing, augmentation, rng),
    )
    changes = draw_changes(augmentation.training_size(preprocessing), preprocessing, augmentation, rng)
    for change in changes:
        picture = change.image(picture)
    return _moved(sample, to_pixels(picture), [crop, *changes], frame, _LEAST)


def evaluation_sample(sample: Sample, preprocessing: Preprocessing) -> Sample:
    """Resize image, boxes and mask, and cut out the centre, as `prepare_for_evaluation` does.

    Boxes are cut off at the edges of the image. Those that lie outside are dropped; small ones stay.

    Raises:
        UnreadableImage: the image cannot be decoded, or the mask has another size.
    """
    picture, crop, frame = _cut(
        sample.image, preprocessing.channels, lambda height, width: evaluation_crop(height, width, preprocessing)
    )
    centre = centre_crop(picture.height, picture.width, preprocessing.image_size)
    return _moved(sample, centre.part(to_pixels(picture)), [crop, centre], frame, 0)


def pixels_of(sample: Sample) -> np.ndarray:
    """The pixels of a sample whose image is decoded.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(sample.image, np.ndarray):
        raise TypeError(f'the image of {sample.name or "a sample"} is not decoded: it is {type(sample.image).__name__}')
    return sample.image


def _of_image(image: np.ndarray | Path | str | bytes) -> Sample:
    return Sample(Path(image) if isinstance(image, str) else image)


def _cut(
    image: np.ndarray | Path | bytes, channels: int, choose: Callable[[int, int], Crop]
) -> tuple[Image.Image, Crop, tuple[int, int]]:
    """A crop as a picture, what was chosen, and the (height, width) of the image that it was chosen for."""
    if isinstance(image, np.ndarray):
        height, width = image.shape[:2]
        crop = choose(height, width)
        return crop.resize(to_picture(crop.part(image))), crop, (height, width)
    chosen = []

    def note(height: int, width: int) -> Crop:
        chosen.append((choose(height, width), (height, width)))
        return chosen[-1][0]

    return read_crop(image, channels, note), *chosen[0]


def _moved(
    sample: Sample, pixels: np.ndarray, changes: Sequence[Move | Change], frame: tuple[int, int], least: float
) -> Sample:
    """The sample with those pixels, its boxes and its mask after those of the changes that move pixels."""
    boxes, labels, mask = sample.boxes, sample.box_labels, sample.mask
    if boxes is None and mask is None:
        return Sample(pixels, sample.label, sample.name)
    moves = [change for change in changes if isinstance(change, Move)]
    if boxes is not None and labels is not None:
        boxes = move_boxes(boxes, moves, *frame)
        kept = is_left(boxes, least)
        boxes, labels = boxes[kept], labels[kept]
    if mask is not None:
        if mask.shape != frame:
            raise UnreadableImage(
                f'{sample.name or "a sample"}: the mask has {mask.shape[0]} x {mask.shape[1]} pixels, and the image '
                f'{frame[0]} x {frame[1]}'
            )
        mask = move_mask(mask, moves)
    return Sample(pixels, sample.label, sample.name, boxes, labels, mask)
