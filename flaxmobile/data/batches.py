"""The arrays of a batch, made of samples: every field of a fixed size, so that a compiled step reads them."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from flaxmobile.data.images import read_image
from flaxmobile.data.preparation import evaluation_sample, pixels_of, training_sample
from flaxmobile.data.preprocessing import Augmentation, Preprocessing
from flaxmobile.data.sample import IGNORED, Sample
from flaxmobile.rules import Count, check_fields, plain_values

Batch = dict[str, np.ndarray]
"""Arrays by name.

- `image` uint8 [batch, height, width, channels].
- `index` int64 [batch]: the position of each sample in the split; -1 where there is none.
- `mask` bool [batch]: whether a row counts. (It has nothing to do with the masks of segmentation.)

and, where the samples have them:

- `label` int32 [batch].
- `boxes` float32 [batch, most, 4], (left, top, right, bottom) in pixels of `image`; rows without a box are 0.
- `box_labels` int32 [batch, most]; -1 where there is no box.
- `segmentation_mask` uint8 [batch, height, width]; 255 is ignored.
"""

NO_BOX = -1
"""What `box_labels` holds where there is no box."""

Target = Literal['label', 'boxes', 'mask']


@dataclass(frozen=True)
class BatchFormat:
    """What the batches of a data set hold besides images.

    Args:
        targets: what every sample has: `label`, `boxes` (with their labels), `mask`.
        most_boxes: boxes of a sample that there is room for. One that has more is an error: none is left out.

    Raises:
        ValueError: a field is out of its range.
    """

    targets: tuple[Target, ...] = ('label',)
    most_boxes: Count = 100

    def __post_init__(self) -> None:
        plain_values(self)
        check_fields(self)


CLASSIFICATION = BatchFormat()


def training_elements(
    sample: Sample,
    index: int,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    rng: np.random.Generator,
    batch_format: BatchFormat = CLASSIFICATION,
) -> list[Batch]:
    """One sample for training, `repeated_augmentation` times, each a row of a batch.

    Raises:
        UnreadableImage: it is encoded and cannot be decoded, or its mask has another size.
        ValueError: it lacks a target, or has too many boxes.
    """
    copies = augmentation.repeated_augmentation
    if copies > 1:
        sample = decoded(sample, preprocessing.channels)
    return [
        _element(training_sample(sample, preprocessing, augmentation, rng), index, batch_format) for _ in range(copies)
    ]


def evaluation_element(
    sample: Sample, index: int, preprocessing: Preprocessing, batch_format: BatchFormat = CLASSIFICATION
) -> Batch:
    """One sample for evaluation, a row of a batch.

    Raises:
        UnreadableImage: it is encoded and cannot be decoded, or its mask has another size.
        ValueError: it lacks a target, or has too many boxes.
    """
    return _element(evaluation_sample(sample, preprocessing), index, batch_format)


def blank_element(
    index: int, preprocessing: Preprocessing, batch_format: BatchFormat = CLASSIFICATION, label: int = 0
) -> Batch:
    """A row of an evaluation batch that does not count: black, without boxes, every pixel ignored.

    It stands for an image that cannot be read, or fills up the last batches (`index` -1).
    """
    size = preprocessing.image_size
    blank = Sample(
        np.zeros((size, size, preprocessing.channels), np.uint8),
        label,
        boxes=np.zeros((0, 4), np.float32),
        box_labels=np.zeros(0, np.int32),
        mask=np.full((size, size), IGNORED, np.uint8),
    )
    return _element(blank, index, batch_format) | {'mask': np.asarray(False)}


def decoded(sample: Sample, channels: int) -> Sample:
    """The same sample with its image decoded.

    Raises:
        UnreadableImage: that cannot be.
    """
    if isinstance(sample.image, np.ndarray):
        return sample
    return dataclasses.replace(sample, image=read_image(sample.image, channels))


def _element(sample: Sample, index: int, batch_format: BatchFormat) -> Batch:
    element = {'image': pixels_of(sample), 'mask': np.asarray(True), 'index': np.asarray(index, np.int64)}
    targets = batch_format.targets
    if 'label' in targets:
        element['label'] = np.asarray(_given(sample, index, 'label', sample.label), np.int32)
    if 'boxes' in targets:
        boxes = _given(sample, index, 'boxes', sample.boxes)
        element |= pad_boxes(
            boxes, _given(sample, index, 'boxes', sample.box_labels), batch_format.most_boxes, _name(sample, index)
        )
    if 'mask' in targets:
        element['segmentation_mask'] = _given(sample, index, 'mask', sample.mask)
    return element


def _given(sample: Sample, index: int, name: str, value: Any) -> Any:
    if value is None:
        raise ValueError(f'{_name(sample, index)} has no {name}, which every sample of this data set needs')
    return value


def _name(sample: Sample, index: int) -> str:
    return sample.name or f'sample {index}'


def pad_boxes(boxes: np.ndarray, labels: np.ndarray, most: int, name: str) -> Batch:
    """Boxes `[n, 4]` and their labels `[n]` as `boxes` `[most, 4]` and `box_labels` `[most]`, filled up with 0 and -1.

    Raises:
        ValueError: there are more than `most`.
    """
    if len(boxes) > most:
        raise ValueError(
            f'{name} has {len(boxes):,} boxes, and a batch has room for {most:,} of an image: raise most_boxes'
        )
    room = most - len(boxes)
    return {
        'boxes': np.pad(boxes, ((0, room), (0, 0))),
        'box_labels': np.pad(labels, (0, room), constant_values=NO_BOX),
    }


def collate(elements: list[Batch]) -> Batch:
    """Stack rows into a batch."""
    return {name: np.stack([element[name] for element in elements]) for name in elements[0]}
