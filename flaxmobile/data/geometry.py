"""Where the pixels of an image go: moves that are drawn once, then applied to image, boxes and mask alike.

Boxes are float32 `[n, 4]`, each (left, top, right, bottom) in pixels, as in `Sample`. A move cuts them off at the edges
of its result, as torchvision's `ClampBoundingBoxes` does, because what has left the image does not come back.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from flaxmobile.data import operations
from flaxmobile.data.preprocessing import Preprocessing
from flaxmobile.data.sample import IGNORED

RESAMPLING = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}
_LARGEST_RESIZED = 2**24
"""Pixels of a resized image that is cut afterwards; of a larger one only the middle is made."""


@runtime_checkable
class Move(Protocol):
    """One move of all pixels of an image."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of what the move makes of an image of that size."""

    def image(self, picture: Image.Image) -> Image.Image:
        """The moved image."""

    def mask(self, mask: Image.Image) -> Image.Image:
        """The moved mask, of mode `L`: each pixel has the class of the nearest one, or 255 where none was."""

    def boxes(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:
        """The hulls of the moved boxes of an image of that size."""


class Crop(NamedTuple):
    """A part of an image, which may be resized.

    Attributes:
        top: its first row.
        left: its first column.
        height: its rows.
        width: its columns.
        resized: (rows, columns) that it is resized to; None: it is left as it is.
        resampling: the filter, for the image.
        inner: (left, top, right, bottom) of what is resized, within the part; None: all of it.
    """

    top: int
    left: int
    height: int
    width: int
    resized: tuple[int, int] | None = None
    resampling: Image.Resampling = Image.Resampling.BICUBIC
    inner: tuple[float, float, float, float] | None = None

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom."""
        return self.left, self.top, self.left + self.width, self.top + self.height

    def part(self, pixels: np.ndarray) -> np.ndarray:
        """The part of an array [height, width, ...], not resized."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]

    def resize(self, part: Image.Image, resampling: Image.Resampling | None = None) -> Image.Image:
        """Resize the part, which is cut out already."""
        if not self.resized:
            return part
        return part.resize(self.resized[::-1], self.resampling if resampling is None else resampling, box=self.inner)

    def size(self, height: int, width: int) -> tuple[int, int]:  # noqa: D102
        return self.resized or (self.height, self.width)

    def image(self, picture: Image.Image) -> Image.Image:  # noqa: D102
        return self.resize(self._part(picture))

    def mask(self, mask: Image.Image) -> Image.Image:  # noqa: D102
        return self.resize(self._part(mask), Image.Resampling.NEAREST)

    def _part(self, picture: Image.Image) -> Image.Image:
        return picture if self.corners == (0, 0, *picture.size) else picture.crop(self.corners)

    def boxes(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:  # noqa: D102
        left, top, right, bottom = self.inner or (0, 0, self.width, self.height)
        rows, columns = self.size(height, width)
        start = np.array([self.left + left, self.top + top] * 2)
        scale = np.array([columns / (right - left), rows / (bottom - top)] * 2)
        return _clamped((boxes - start) * scale, rows, columns)


@dataclass(frozen=True)
class Flip:
    """A mirror image, left for right."""

    def size(self, height: int, width: int) -> tuple[int, int]:  # noqa: D102
        return height, width

    def image(self, picture: Image.Image) -> Image.Image:  # noqa: D102
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)

    mask = image

    def boxes(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:  # noqa: D102
        left, top, right, bottom = boxes.T
        return np.stack([width - right, top, width - left, bottom], axis=-1)


@dataclass(frozen=True)
class Warp:
    """A rotation, a shear or a translation within the frame of the image.

    Attributes:
        operation: a name of `operations.WARPS`.
        value: what that takes.
        resampling: the filter, for the image.
        fill: the colour of what comes from outside of the image.
    """

    operation: str
    value: float
    resampling: Image.Resampling
    fill: tuple[int, ...]

    def size(self, height: int, width: int) -> tuple[int, int]:  # noqa: D102
        return height, width

    def image(self, picture: Image.Image) -> Image.Image:  # noqa: D102
        return operations.apply(picture, self.operation, self.value, self.resampling, self.fill)

    def mask(self, mask: Image.Image) -> Image.Image:  # noqa: D102
        return operations.apply(mask, self.operation, self.value, Image.Resampling.NEAREST, (IGNORED,))

    def boxes(self, boxes: np.ndarray, height: int, width: int) -> np.ndarray:  # noqa: D102
        a, b, c, d, e, f = operations.matrix(self.operation, self.value, width, height)
        corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]].astype(np.float64)
        # The matrix says where a pixel comes from; a corner goes the other way.
        moved = (corners - (c, f)) @ np.linalg.inv([[a, b], [d, e]]).T
        return _clamped(np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=-1), height, width)


def _clamped(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)


def move_boxes(boxes: np.ndarray, moves: Iterable[Move], height: int, width: int) -> np.ndarray:
    """The boxes of an image of that size after all moves, float32 `[n, 4]`; those without area are still there.

    After each move a box is the upright hull of its moved corners, as in torchvision's `transforms.v2`.
    """
    for move in moves:
        boxes = move.boxes(boxes, height, width)
        height, width = move.size(height, width)
    return boxes


def move_mask(mask: np.ndarray, moves: Iterable[Move]) -> np.ndarray:
    """A mask uint8 `[height, width]` after all moves."""
    picture = Image.fromarray(mask)
    for move in moves:
        picture = move.mask(picture)
    return np.asarray(picture)


def is_left(boxes: np.ndarray, least: float) -> np.ndarray:
    """Which boxes have an area, and a width, a height and an area of `least` pixels or more: bool `[n]`.

    With `least=1` the rule of torchvision's `SanitizeBoundingBoxes` for boxes within the image.
    """
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    area = width * height
    return (area > 0) & (np.minimum(np.minimum(width, height), area) >= least)


def evaluation_crop(height: int, width: int, preprocessing: Preprocessing) -> Crop:
    """What evaluation resizes of an image: all of it, or, of one so long that this would be huge, its middle."""
    size, resampling = preprocessing.image_size, RESAMPLING[preprocessing.interpolation]
    shorter = math.floor(size / preprocessing.crop_fraction)
    rows, columns = (shorter, shorter * width // height) if height < width else (shorter * height // width, shorter)
    if rows * columns <= max(_LARGEST_RESIZED, height * width):
        return Crop(0, 0, height, width, (rows, columns), resampling)
    top, bottom, above, below = _middle(height, rows, size)
    left, right, before, after = _middle(width, columns, size)
    inner = (before, above, after, below)
    return Crop(top, left, bottom - top, right - left, (size, size), resampling, inner)


def _middle(length: int, resized: int, size: int) -> tuple[int, int, float, float]:
    """Where the `size` pixels in the middle of a resized side come from: whole pixels, and what of them, from there."""
    scale = length / resized
    start, reach = round((resized - size) / 2) * scale, math.ceil(2 * max(scale, 1)) + 1  # As far as a filter sees.
    first, last = max(0, math.floor(start) - reach), min(length, math.ceil(start + size * scale) + reach)
    return first, last, max(0.0, start - first), min(start + size * scale, length) - first


def centre_crop(height: int, width: int, size: int) -> Crop:
    """The square of `size` pixels a side in the middle of an image."""
    top, left = (round((length - size) / 2) for length in (height, width))
    return Crop(top, left, size, size)
