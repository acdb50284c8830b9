"""A set of images that say by their pixels which example they are."""

import io
from collections.abc import Collection

from PIL import Image

from flaxmobile.data import Sample
from flaxmobile.data.dataset import RandomAccessDataset


class NumberedExamples:
    """Example i is a 4x4 PNG of the grey value i, of class i % 3; those in `broken` are cut short."""

    def __init__(self, length: int, broken: Collection[int]) -> None:
        self.length, self.broken, self.reads = length, broken, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        content = io.BytesIO()
        Image.new('L', (4, 4), index % 256).save(content, 'PNG')
        encoded = content.getvalue()
        return Sample(encoded[:40] if index in self.broken else encoded, index % 3, f'number {index}')


def numbered_images(length: int, broken: Collection[int] = (), max_unreadable: float = 0.01) -> RandomAccessDataset:
    return RandomAccessDataset('numbers', 'train', ('a', 'b', 'c'), NumberedExamples(length, broken), max_unreadable)
