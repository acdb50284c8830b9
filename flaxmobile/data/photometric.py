"""Changes to the colours of an image. They leave boxes and masks as they are."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from flaxmobile.data import operations


@dataclass(frozen=True)
class Adjustment:
    """An operation on the value of each pixel.

    Attributes:
        operation: a name of `operations.PLAIN` or `operations.VALUED`.
        value: what that takes.
    """

    operation: str
    value: float

    def image(self, picture: Image.Image) -> Image.Image:
        """The changed image."""
        return operations.apply(picture, self.operation, self.value)


@dataclass(frozen=True, eq=False)
class Erasure:
    """A rectangle that is painted over.

    Attributes:
        top: its first row.
        left: its first column.
        pixels: what is painted, uint8 [height, width, channels].
    """

    top: int
    left: int
    pixels: np.ndarray

    def image(self, picture: Image.Image) -> Image.Image:
        """The image with the rectangle."""
        erased = picture.copy()
        erased.paste(operations.to_picture(self.pixels), (self.left, self.top))
        return erased
