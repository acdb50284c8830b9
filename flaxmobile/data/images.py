"""Decoding one image, or the part of it that a crop needs. Arrays are uint8 [height, width, channels]."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from flaxmobile.data.decoding import Decoded, open_image, orientation
from flaxmobile.data.geometry import Crop
from flaxmobile.data.kinds import unread_kind
from flaxmobile.data.operations import to_pixels
from flaxmobile.messages import printable

_MODES = {1: 'L', 3: 'RGB'}
_ROWS_BELOW = 8  # What a crop's last row needs below it: chroma is interpolated between rows.

Source = str | Path | bytes


class UnreadableImage(ValueError):
    """An image that cannot be decoded."""


def read_image(source: Source, channels: int = 3) -> np.ndarray:
    """Decode a file, or the bytes of one.

    Turned upright by its EXIF orientation; transparent pixels lie on white; 16 bits become 8; grey, palette and CMYK
    images become what `channels` asks for.

    Args:
        source: a path, or encoded bytes, of any format Pillow decodes (the first frame of several).
        channels: 1 for grey (luma by ITU-R 601), 3 for RGB.

    Returns:
        uint8 [height, width, channels].

    Raises:
        UnreadableImage: the file is missing, damaged, truncated or of a format that is not known; its numbers have no
            range that is known; or it has more pixels than Pillow allows or a file of its size can honestly hold.
    """
    _check_channels(channels)
    with _naming(source):
        decoded = Decoded(open_image(_bytes(source)))
        pixels = np.empty((decoded.height, decoded.width, channels), np.uint8)
        top = 0
        mode = 'L' if decoded.is_grey else _MODES[channels]
        for strip in decoded.strips(mode, (0, 0, decoded.width, decoded.height)):
            pixels[top : top + strip.height] = to_pixels(strip)
            top += strip.height
        return pixels


def read_crop(source: Source, channels: int, choose: Callable[[int, int], Crop]) -> Image.Image:
    """Decode a crop of a file: what `read_image` gives there, bit for bit, or what Pillow resizes that to.

    Of a baseline JPEG the rows below the crop are not decoded.

    Args:
        source: a path, or encoded bytes, of any format Pillow decodes.
        channels: 1 for grey, 3 for RGB.
        choose: takes the height and width of the image, returns the crop.

    Returns:
        A picture of mode `L` or `RGB`.

    Raises:
        UnreadableImage: as `read_image` does.
    """
    _check_channels(channels)
    with _naming(source):
        encoded = _bytes(source)
        with open_image(encoded) as image:
            return _read_crop(image, encoded, _MODES[channels], choose)


def image_size(encoded: bytes) -> tuple[int, int]:
    """Height and width of an encoded image as it is stored, without decoding it.

    Raises:
        UnreadableImage: the format is not known, or it has too many pixels.
    """
    with _naming(encoded), open_image(encoded) as image:
        return image.height, image.width


def _check_channels(channels: int) -> None:
    if channels not in _MODES:
        raise ValueError(f'channels is {channels}: it has to be 1 (grey) or 3 (RGB)')


def _bytes(source: Source) -> bytes:
    return source if isinstance(source, bytes) else Path(source).read_bytes()


@contextlib.contextmanager
def _naming(source: Source) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise UnreadableImage(f'there is no file {printable(source)}') from error
    except Exception as error:  # Of broken data each of Pillow's plugins raises what it stumbles over.
        name = f'{len(source)} bytes' if isinstance(source, bytes) else printable(source)
        reason = _format(source) if isinstance(error, UnidentifiedImageError) else printable(error)
        raise UnreadableImage(f'cannot read {name} as an image: {reason}') from error


def _format(source: Source) -> str:
    kind = unread_kind(_bytes(source))
    return (
        f'{kind} is not read here: convert it to JPEG or PNG'
        if kind
        else 'neither its format nor its kind of pixels is known'
    )


def _read_crop(image: Image.Image, encoded: bytes, mode: str, choose: Callable[[int, int], Crop]) -> Image.Image:
    if image.format != 'JPEG' or image.mode not in _MODES.values() or orientation(image) != 1:
        decoded = Decoded(image)
        return _take(decoded, mode, choose(decoded.height, decoded.width))
    crop = choose(image.height, image.width)
    # Only a full decoding says whether the image is at fault.
    with (
        contextlib.suppress(Exception),
        Image.open(io.BytesIO(_shorten(encoded, crop.top + crop.height)), formats=['JPEG']) as upper,
    ):
        return _take(Decoded(upper), mode, crop)
    return _take(Decoded(image), mode, crop)


def _take(decoded: Decoded, mode: str, crop: Crop) -> Image.Image:
    picture = crop.resize(decoded.part('L' if decoded.is_grey else mode, crop.corners))
    return picture if picture.mode == mode else picture.convert(mode)


def _shorten(encoded: bytes, bottom: int) -> bytes:
    """A baseline JPEG of the rows down to `bottom`: its header says so, and the decoder passes over the other data."""
    place, frame = 2, -1
    while (marker := encoded[place + 1]) != 0xDA:
        if marker == 0xFF:  # Any number of these may stand before a marker.
            place += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker > 0xC1:
                return encoded
            frame = place
        place += 2 + int.from_bytes(encoded[place + 2 : place + 4])
    rows = bottom + _ROWS_BELOW
    whole = encoded.rfind(b'\xff\xd9', place) > 0  # Pillow no longer notices where the data ends too early.
    one_scan = frame > 0 and encoded[place + 4] == encoded[frame + 9]
    if not (one_scan and whole) or rows >= int.from_bytes(encoded[frame + 5 : frame + 7]):
        return encoded
    return encoded[: frame + 5] + rows.to_bytes(2) + encoded[frame + 7 :]
