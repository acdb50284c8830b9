"""The pixels of an image file, as they are to be seen, a few rows at a time.

Pillow decodes whole images, at one to four bytes a pixel. What is made of them takes as much again at most: all that is
done in between (transparency, colours) is done to a few rows.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from flaxmobile.data.kinds import formats

Corners = tuple[int, int, int, int]
"""Left, top, right and bottom, in pixels."""

_ORIENTATION = 0x0112
_TURNS = {  # By EXIF orientation, as `ImageOps.exif_transpose` has it.
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BYTES = {'1': 1, 'L': 1, 'P': 1, 'I;16': 2, 'I;16B': 2, 'I;16L': 2, 'I;16N': 2}
"""Bytes a pixel takes in Pillow's memory; four in all other modes."""
_WIDE_FORMATS = ('PNG', 'PPM', 'TIFF', 'JPEG2000')
"""Formats whose pixels of more than 8 bits have a known range."""
_PIXELS_AT_ONCE = 2**20
FREE_BYTES = 2**27
"""Decoded bytes that any file may hold."""
DECODED_PER_BYTE = 1000
"""Decoded bytes a larger image may hold for each byte of its file: what only mostly blank images come near to."""


def open_image(encoded: bytes) -> Image.Image:
    """Read an image's header. Raises ValueError where it is larger than a file of its size can honestly be."""
    try:
        image = Image.open(io.BytesIO(encoded), formats=formats())
    except Image.DecompressionBombError:
        raise ValueError(
            f'it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels: save it smaller, or raise '
            'PIL.Image.MAX_IMAGE_PIXELS'
        ) from None
    decoded = image.width * image.height * _BYTES.get(image.mode, 4)
    if decoded > max(FREE_BYTES, DECODED_PER_BYTE * len(encoded)):
        raise ValueError(
            f'its {image.width:,} x {image.height:,} pixels would take {decoded / 1e6:,.0f} MB, over '
            f'{DECODED_PER_BYTE:,} times the {len(encoded):,} bytes of its file, as no photograph does (up to '
            f'{FREE_BYTES / 1e6:.0f} MB always may): save it smaller'
        )
    return image


def orientation(image: Image.Image) -> int:
    """An image's EXIF orientation, 1 where it has none."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Damaged EXIF data is no reason to lose a good picture.
        return 1
    return found if found in _TURNS else 1


class Decoded:
    """A decoded image.

    Attributes:
        height: of the upright image, in pixels.
        width: of the upright image, in pixels.
        is_grey: whether it has no colours but greys.
    """

    def __init__(self, image: Image.Image) -> None:
        """Decode `image`, which `open_image` opened.

        Raises:
            ValueError: it holds numbers whose range is not known, or its transparency is beyond what Pillow reads.
        """
        self._most = _check_samples(image)
        self._inverted = image.format == 'TIFF' and _tag(image, 262) == 0 and image.mode.startswith('I')
        image.load()
        self._image, self._orientation = image, orientation(image)
        self.is_grey = image.mode[0] in '1LI' and image.mode != 'LAB'
        swapped = self._orientation >= 5
        self.height, self.width = (image.width, image.height) if swapped else (image.height, image.width)

    def strips(self, mode: str, corners: Corners) -> Iterator[Image.Image]:
        """A part of the upright image, from top to bottom, as pictures of mode `L` or `RGB` and of its width."""
        left, top, right, bottom = corners
        rows = max(1, _PIXELS_AT_ONCE // (right - left))
        for start in range(top, bottom, rows):
            yield self._convert(self._upright((left, start, right, min(start + rows, bottom))), mode)

    def part(self, mode: str, corners: Corners) -> Image.Image:
        """A part of the upright image, as a picture of mode `L` or `RGB`."""
        if self._image.mode == mode and 'transparency' not in self._image.info:
            return self._upright(corners)
        whole = Image.new(mode, (corners[2] - corners[0], corners[3] - corners[1]))
        top = 0
        for strip in self.strips(mode, corners):
            whole.paste(strip, (0, top))
            top += strip.height
        return whole

    def _upright(self, corners: Corners) -> Image.Image:
        left, top, right, bottom = corners
        if self._orientation in (2, 3, 6, 7):
            left, right = self.width - right, self.width - left
        if self._orientation in (3, 4, 7, 8):
            top, bottom = self.height - bottom, self.height - top
        stored = (top, left, bottom, right) if self._orientation >= 5 else (left, top, right, bottom)
        strip = self._image if stored == (0, 0, *self._image.size) else self._image.crop(stored)
        turn = _TURNS.get(self._orientation)
        return strip if turn is None else strip.transpose(turn)

    def _convert(self, image: Image.Image, mode: str) -> Image.Image:
        if image.mode == mode and 'transparency' not in image.info:
            return image
        if image.mode.startswith('I'):
            image = self._eight_bits(image)
        if image.has_transparency_data:
            # Pillow makes RGBA of neither form of premultiplied alpha in one step.
            picture = image.convert('LA') if image.mode == 'La' else image
            picture = picture if picture.mode == 'RGBA' else picture.convert('RGBA')
            image = Image.alpha_composite(Image.new('RGBA', picture.size, 'white'), picture).convert('RGB')
        elif image.mode == 'LAB':
            image = image.convert('RGB')
        return image if image.mode == mode else image.convert(mode)

    def _eight_bits(self, image: Image.Image) -> Image.Image:
        wide = np.asarray(image).astype(np.uint32)
        # 257 * 255 = 65535: 16 bits that were made from 8 come back exactly.
        pixels = ((self._most - wide if self._inverted else wide) * 255 // self._most).astype(np.uint8)
        if 'transparency' in image.info:
            pixels[wide == image.info['transparency']] = 255
        return Image.fromarray(pixels)


def _check_samples(image: Image.Image) -> int:
    """The greatest value of a sample of more than 8 bits; transparent values are made to fit what Pillow decodes."""
    if image.format == 'PNG':
        _fit_transparency(image)
    if image.format == 'TIFF':
        if _tag(image, 339) not in (None, 1):
            raise ValueError('it holds signed or floating-point pixels, whose range is not known')
        if (_tag(image, 254) or 0) & 1:
            raise ValueError('its first picture is a preview, as in camera raw: convert it to JPEG or PNG')
        if image.mode == 'I':
            raise ValueError('it holds pixels of 32 bits, whose range is not known')
    if image.mode == 'F':
        raise ValueError('it holds floating-point pixels, whose range is not known')
    if image.mode.startswith('I') and image.format not in _WIDE_FORMATS:
        raise ValueError(f'it holds pixels of more than 8 bits, whose range is not known in {image.format}')
    return 4095 if image.format == 'TIFF' and _tag(image, 258) == 12 else 65535


def _tag(image: Any, number: int) -> int | None:
    value = image.tag_v2.get(number)
    return value[0] if isinstance(value, tuple) else value


def _fit_transparency(image: Any) -> None:
    """Turn the transparent colour, which a PNG gives in its own bits, into the bits that Pillow decodes to."""
    found = image.info.get('transparency')
    if found is None or image.mode not in ('L', 'RGB'):
        return
    stored = str(image.tile[0][3])
    if stored == 'RGB;16B':
        raise ValueError(
            'it has 16 bits a colour and a transparent colour, of which Pillow reads 8: save it with 8 bits, or with '
            'an alpha channel'
        )
    most = {'L;2': 3, 'L;4': 15}.get(stored, 255)
    scaled = [(value & most) * 255 // most for value in (found if isinstance(found, tuple) else (found,))]
    image.info['transparency'] = tuple(scaled) if image.mode == 'RGB' else scaled[0]
