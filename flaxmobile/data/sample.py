"""An image with what is known about it: its class, boxes, a mask."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

IGNORED = 255
"""What a mask holds where a pixel has no known class: it counts in no loss and no score."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An image with its target. What a task does not need is None.

    Coordinates are those of the upright image, as `read_image` gives it. They are distances from its left and its upper
    edge in pixels, so that the whole image is the box (0, 0, width, height).

    Attributes:
        image: a path, encoded bytes, or pixels uint8 [height, width, channels].
        label: the class of the whole image.
        name: what to call the sample in an error.
        boxes: float32 [n, 4], each (left, top, right, bottom) as torchvision's `xyxy`; [0, 4] where there is nothing.
        box_labels: the class of each box, int32 [n].
        mask: the class of each pixel, uint8 [height, width]; 255 is ignored.

    Raises:
        ValueError: a target has another shape, or numbers that cannot be.
    """

    image: np.ndarray | Path | bytes
    label: int | None = None
    name: str = ''
    boxes: np.ndarray | None = None
    box_labels: np.ndarray | None = None
    mask: np.ndarray | None = None

    def __post_init__(self) -> None:
        if (self.boxes is None) != (self.box_labels is None):
            raise self._error('boxes and box_labels go together: give both or neither')
        if self.boxes is not None and self.box_labels is not None:
            self._check_boxes(np.asarray(self.boxes), np.asarray(self.box_labels))
        if self.mask is not None and (self.mask.dtype != np.uint8 or self.mask.ndim != 2):
            raise self._error(
                f'the mask is {self.mask.dtype} {list(self.mask.shape)}: give the class of each pixel, uint8 '
                '[height, width]'
            )

    def _check_boxes(self, boxes: np.ndarray, labels: np.ndarray) -> None:
        if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
            raise self._error(
                f'boxes have the shape {list(boxes.shape)} and box_labels {list(labels.shape)}: give [n, 4] and [n]'
            )
        if not np.isfinite(boxes).all() or (boxes[:, 2:] < boxes[:, :2]).any():
            raise self._error(
                'a box is not finite, or ends before it begins: give (left, top, right, bottom) in pixels'
            )
        if labels.size and (not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0):
            raise self._error('box_labels have to be whole numbers, 0 or more')
        object.__setattr__(self, 'boxes', boxes.astype(np.float32))
        object.__setattr__(self, 'box_labels', labels.astype(np.int32))

    def _error(self, reason: str) -> ValueError:
        return ValueError(f'{self.name or "a sample"}: {reason}')

    def renumbered(self, numbers: Sequence[int]) -> 'Sample':
        """The same sample with the class `numbers[i]` in place of each class i.

        Raises:
            ValueError: a class has no number.
        """
        count, changed = len(numbers), dict[str, Any]()
        if self.label is not None:
            self._check_classes(self.label, count)
            changed['label'] = numbers[self.label]
        if self.box_labels is not None and self.box_labels.size:
            self._check_classes(int(self.box_labels.max()), count)
            changed['box_labels'] = np.asarray(numbers, np.int32)[self.box_labels]
        if self.mask is not None:
            self._check_classes(int(self.mask.max(initial=0, where=self.mask != IGNORED)), min(count, IGNORED))
            table = np.full(IGNORED + 1, IGNORED, np.uint8)
            table[: min(count, IGNORED)] = numbers[:IGNORED]
            changed['mask'] = table[self.mask]
        return dataclasses.replace(self, **changed)

    def _check_classes(self, greatest: int, count: int) -> None:
        if greatest >= count:
            raise self._error(f'it has the class {greatest}, and there are {count} classes, counted from 0')


def labelled(image: Path | bytes, label: int, name: str) -> Sample:
    """A sample for classification, if it has a class.

    Raises:
        ValueError: its label is negative, by which TFDS marks splits without labels.
    """
    if label < 0:
        raise ValueError(f'{name} has no label (it is {label}): this split can be neither trained on nor evaluated')
    return Sample(image, label, name)
