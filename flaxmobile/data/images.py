"""One image: decoding, and what training and evaluation make of it. Arrays are uint8 [height, width, channels]."""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from flaxmobile.data.augmentation import RESAMPLING, choose_resampling, erase, vary
from flaxmobile.data.decoding import Decoded, open_image, orientation
from flaxmobile.data.kinds import unread_kind
from flaxmobile.data.preprocessing import Augmentation, Preprocessing
from flaxmobile.messages import printable

_MODES = {1: 'L', 3: 'RGB'}
_ROWS_BELOW = 8  # What a crop's last row needs below it: chroma is interpolated between rows.
_LARGEST_RESIZED = 2**24
"""Pixels of a resized image that is cut afterwards; of a larger one only the middle is made."""

Source = str | Path | bytes


class UnreadableImage(ValueError):
    """An image that cannot be decoded."""


class Part(NamedTuple):
    """A part of an image, and what is made of it.

    Attributes:
        top: its first row.
        left: its first column.
        height: its rows.
        width: its columns.
        size: (rows, columns) that it is resized to; None: it is left as it is.
        resampling: the filter.
        inner: (left, top, right, bottom) of what is resized, within the part; None: all of it.
    """

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int] | None = None
    resampling: Image.Resampling = Image.Resampling.BICUBIC
    inner: tuple[float, float, float, float] | None = None


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
            pixels[top : top + strip.height] = _pixels(strip)
            top += strip.height
        return pixels


def read_part(source: Source, channels: int, choose: Callable[[int, int], Part]) -> Image.Image:
    """Decode a part of a file: what `read_image` gives there, bit for bit, or what Pillow resizes that to.

    Of a baseline JPEG the rows below the part are not decoded.

    Args:
        source: a path, or encoded bytes, of any format Pillow decodes.
        channels: 1 for grey, 3 for RGB.
        choose: takes the height and width of the image, returns the part.

    Returns:
        A picture of mode `L` or `RGB`.

    Raises:
        UnreadableImage: as `read_image` does.
    """
    _check_channels(channels)
    with _naming(source):
        encoded = _bytes(source)
        with open_image(encoded) as image:
            return _read_part(image, encoded, _MODES[channels], choose)


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


def _read_part(image: Image.Image, encoded: bytes, mode: str, choose: Callable[[int, int], Part]) -> Image.Image:
    if image.format != 'JPEG' or image.mode not in _MODES.values() or orientation(image) != 1:
        decoded = Decoded(image)
        return _take(decoded, mode, choose(decoded.height, decoded.width))
    part = choose(image.height, image.width)
    # Only a full decoding says whether the image is at fault.
    with (
        contextlib.suppress(Exception),
        Image.open(io.BytesIO(_shorten(encoded, part.top + part.height)), formats=['JPEG']) as upper,
    ):
        return _take(Decoded(upper), mode, part)
    return _take(Decoded(image), mode, part)


def _take(decoded: Decoded, mode: str, part: Part) -> Image.Image:
    corners = (part.left, part.top, part.left + part.width, part.top + part.height)
    picture = decoded.part('L' if decoded.is_grey else mode, corners)
    if part.size:
        picture = picture.resize(part.size[::-1], part.resampling, box=part.inner)
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


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image))


def _pixels(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def evaluation_part(height: int, width: int, preprocessing: Preprocessing) -> Part:
    """What evaluation resizes of an image: all of it, or, of one so long that this would be huge, its middle."""
    size, resampling = preprocessing.image_size, RESAMPLING[preprocessing.interpolation]
    shorter = math.floor(size / preprocessing.crop_fraction)
    rows, columns = (shorter, shorter * width // height) if height < width else (shorter * height // width, shorter)
    if rows * columns <= max(_LARGEST_RESIZED, height * width):
        return Part(0, 0, height, width, (rows, columns), resampling)
    top, bottom, above, below = _middle(height, rows, size)
    left, right, before, after = _middle(width, columns, size)
    inner = (before, above, after, below)
    return Part(top, left, bottom - top, right - left, (size, size), resampling, inner)


def _middle(length: int, resized: int, size: int) -> tuple[int, int, float, float]:
    """Where the `size` pixels in the middle of a resized side come from: whole pixels, and what of them, from there."""
    scale = length / resized
    start, reach = round((resized - size) / 2) * scale, math.ceil(2 * max(scale, 1)) + 1  # As far as a filter sees.
    first, last = max(0, math.floor(start) - reach), min(length, math.ceil(start + size * scale) + reach)
    return first, last, max(0.0, start - first), min(start + size * scale, length) - first


def prepare_for_evaluation(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Resize the shorter side to `floor(image_size / crop_fraction)` and cut out the centre, as timm does.

    Args:
        image: uint8 [height, width, channels].
        preprocessing: the image size, crop fraction and interpolation.

    Returns:
        uint8 [image_size, image_size, channels].
    """
    part = evaluation_part(image.shape[0], image.shape[1], preprocessing)
    if part.size != image.shape[:2]:
        rows, columns = part.size or image.shape[:2]
        picture = _picture(image[part.top : part.top + part.height, part.left : part.left + part.width])
        image = _pixels(picture.resize((columns, rows), part.resampling, box=part.inner))
    return _centre(image, preprocessing.image_size)


def _centre(image: np.ndarray, size: int) -> np.ndarray:
    top, left = (round((length - size) / 2) for length in image.shape[:2])
    return image[top : top + size, left : left + size]


def read_for_evaluation(source: Source, preprocessing: Preprocessing) -> np.ndarray:
    """`prepare_for_evaluation(read_image(source), ...)`, bit for bit, without an array of the whole image.

    Args:
        source: a path, or encoded bytes, of any format Pillow decodes.
        preprocessing: the image size, channels, crop fraction and interpolation.

    Returns:
        uint8 [image_size, image_size, channels].

    Raises:
        UnreadableImage: as `read_image` does.
    """
    picture = read_part(
        source, preprocessing.channels, lambda height, width: evaluation_part(height, width, preprocessing)
    )
    return _centre(_pixels(picture), preprocessing.image_size)


def random_crop(
    height: int, width: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw the crop of Inception-style training as torchvision's `RandomResizedCrop` does.

    Ten times an area and an aspect ratio are drawn; if none fits in the image, the largest centre crop within the
    ratios is taken.

    Returns:
        (top, left, height, width) in pixels.
    """
    low, high = augmentation.crop_ratio
    for _ in range(10):
        area = height * width * rng.uniform(*augmentation.crop_scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        crop_height, crop_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(rng.integers(height - crop_height + 1))
            return top, int(rng.integers(width - crop_width + 1)), crop_height, crop_width
    crop_height = height if width >= height * low else max(1, round(width / low))
    crop_width = width if width <= height * high else max(1, round(height * high))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def prepare_for_training(
    image: np.ndarray, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """Crop at random, resize, mirror half of the images, and do what else the augmentation asks for.

    Args:
        image: uint8 [height, width, channels].
        preprocessing: the image size and interpolation, as far as `augmentation` has none of its own.
        augmentation: what is varied, and how much.
        rng: where the chances come from.

    Returns:
        uint8 [size, size, channels], `size` being `augmentation.training_size(preprocessing)`.
    """
    part = _training_part(image.shape[0], image.shape[1], preprocessing, augmentation, rng)
    picture = _picture(image[part.top : part.top + part.height, part.left : part.left + part.width])
    rows, columns = part.size or image.shape[:2]
    return _vary(picture.resize((columns, rows), part.resampling), preprocessing, augmentation, rng)


def read_for_training(
    source: Source, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """`prepare_for_training(read_image(source), ...)`, bit for bit, without decoding what lies below the crop.

    Args:
        source: a path, or encoded bytes, of any format Pillow decodes.
        preprocessing: the image size, channels and interpolation.
        augmentation: what is varied, and how much.
        rng: where the chances come from.

    Returns:
        uint8 [size, size, channels], `size` being `augmentation.training_size(preprocessing)`.

    Raises:
        UnreadableImage: as `read_image` does.
    """
    picture = read_part(
        source,
        preprocessing.channels,
        lambda height, width: _training_part(height, width, preprocessing, augmentation, rng),
    )
    return _vary(picture, preprocessing, augmentation, rng)


def _training_part(
    height: int, width: int, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> Part:
    crop, size = random_crop(height, width, augmentation, rng), augmentation.training_size(preprocessing)
    resampling = choose_resampling(augmentation.train_interpolation or preprocessing.interpolation, rng)
    return Part(*crop, (size, size), resampling)


def _vary(
    picture: Image.Image, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    if augmentation.flip and rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = _pixels(vary(picture, preprocessing, augmentation, rng))
    if augmentation.random_erasing and rng.random() < augmentation.random_erasing:
        pixels = erase(pixels, preprocessing, rng)
    return pixels
