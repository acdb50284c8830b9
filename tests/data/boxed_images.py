"""A set of images with boxes and a mask, which say the same of the same bright rectangles."""

import io
from collections.abc import Collection

import numpy as np
from PIL import Image

from flaxmobile.data import BatchFormat, Sample
from flaxmobile.data.dataset import RandomAccessDataset

HEIGHT, WIDTH = 24, 32
CLASSES = ('ground', 'one', 'two', 'three')


def boxes_of(index: int) -> np.ndarray:
    """Up to three rectangles that do not touch, by (left, top, right, bottom) in whole pixels."""
    rng = np.random.default_rng(index)
    cells = rng.permutation(4)[: index % 4]
    corners = []
    for cell in cells:
        left, top = cell % 2 * 16 + rng.integers(1, 6), cell // 2 * 12 + rng.integers(1, 4)
        corners.append([left, top, left + rng.integers(3, 9), top + rng.integers(3, 7)])
    return np.array(corners, np.float32).reshape(-1, 4)


class BoxedExamples:
    """Example i has i % 4 rectangles, of the classes 1, 2 and 3; the masks of those in `cut` are too small."""

    def __init__(self, length: int, cut: Collection[int]) -> None:
        self.length, self.cut = length, cut

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        boxes, mask = boxes_of(index), np.zeros((HEIGHT, WIDTH), np.uint8)
        for number, (left, top, right, bottom) in enumerate(boxes.astype(int), 1):
            mask[top:bottom, left:right] = number
        content = io.BytesIO()
        Image.fromarray(80 * mask).save(content, 'PNG')
        mask = mask[1:] if index in self.cut else mask
        labels = np.arange(1, len(boxes) + 1)
        return Sample(content.getvalue(), None, f'boxed {index}', boxes, labels, mask)


def boxed_images(
    length: int, most_boxes: int = 5, cut: Collection[int] = (), max_unreadable: float = 0.5
) -> RandomAccessDataset:
    dataset = RandomAccessDataset('boxes', 'train', CLASSES, BoxedExamples(length, cut), max_unreadable)
    dataset.batch_format = BatchFormat(('boxes', 'mask'), most_boxes)
    return dataset
