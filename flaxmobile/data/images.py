"""One image: decoding, and what training and evaluation make of it. Arrays are uint8 [height, width, channels]."""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flaxmobile.data.augmentation import RESAMPLING, choose_resampling, erase, vary
from flaxmobile.data.preprocessing import Augmentation, Preprocessing

_MODES = {1: 'L', 3: 'RGB'}
_ORIENTATION = 0x0112
_ROWS_BELOW = 8  # What a crop's last row needs below it: chroma is interpolated between rows.

Box = tuple[int, int, int, int]


class UnreadableImage(ValueError):
    """An image that cannot be decoded."""


def read_image(source: str | Path | bytes, channels: int = 3) -> np.ndarray:
    """Decode a file, or the bytes of one.

    Turned upright by its EXIF orientation; transparent pixels lie on white; 16 bits become 8; grey, palette and CMYK
    images become what `channels` asks for.

    Args:
        source: a path, or encoded bytes, of any format Pillow reads (the first frame of several).
        channels: 1 for grey (luma by ITU-R 601), 3 for RGB.

    Returns:
        uint8 [height, width, channels].

    Raises:
        UnreadableImage: the file is missing, damaged, truncated or of a format that is not known.
    """
    _check_channels(channels)
    with _naming(source), Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        image.load()
        return _pixels(_convert(_upright(image), _MODES[channels]))


def read_crop(source: str | Path | bytes, channels: int, choose: Callable[[int, int], Box]) -> Image.Image:
    """Decode a part of a file: what `read_image` gives there, bit for bit.

    Of a baseline JPEG the rows below the part are not decoded.

    Args:
        source: a path, or encoded bytes, of any format Pillow reads.
        channels: 1 for grey, 3 for RGB.
        choose: takes the height and width of the image, returns (top, left, height, width) of the part.

    Returns:
        A picture of mode `L` or `RGB`.

    Raises:
        UnreadableImage: as `read_image` does.
    """
    _check_channels(channels)
    with _naming(source):
        encoded = source if isinstance(source, bytes) else Path(source).read_bytes()
        with Image.open(io.BytesIO(encoded)) as image:
            return _crop(image, encoded, _MODES[channels], choose)


def image_size(encoded: bytes) -> tuple[int, int]:
    """Height and width of an encoded image as it is stored, without decoding it.

    Raises:
        UnreadableImage: the format is not known.
    """
    with _naming(encoded), Image.open(io.BytesIO(encoded)) as image:
        return image.height, image.width


def _check_channels(channels: int) -> None:
    if channels not in _MODES:
        raise ValueError(f'channels is {channels}: it has to be 1 (grey) or 3 (RGB)')


@contextlib.contextmanager
def _naming(source: str | Path | bytes) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Of broken data each of Pillow's plugins raises what it stumbles over.
        name = f'{len(source)} bytes' if isinstance(source, bytes) else str(source)
        reason = 'its format is not known' if isinstance(error, UnidentifiedImageError) else error
        raise UnreadableImage(f'cannot read {name} as an image: {reason}') from error


def _crop(image: Image.Image, encoded: bytes, mode: str, choose: Callable[[int, int], Box]) -> Image.Image:
    simple = image.format == 'JPEG' and image.mode in _MODES.values() and _orientation(image) == 1
    if not simple:
        image.load()
        image = _convert(_upright(image), mode)
    top, left, height, width = choose(image.height, image.width)
    corners = (left, top, left + width, top + height)
    if simple:
        # Only a full decoding says whether the image is at fault.
        with contextlib.suppress(Exception), Image.open(io.BytesIO(_shorten(encoded, corners[3]))) as upper:
            return _convert(upper.crop(corners), mode)
    return _convert(image.crop(corners), mode)


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


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Damaged EXIF data is no reason to lose a good picture.
        return 1


def _upright(image: Image.Image) -> Image.Image:
    try:
        return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)
    except Exception:
        return image


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode and 'transparency' not in image.info:
        return image
    if image.mode.startswith('I'):
        # 257 * 255 = 65535: 16 bits that were made from 8 come back exactly.
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) // 257).astype(np.uint8))
    elif image.mode == 'F':
        raise ValueError('it holds floating-point pixels, whose range is not known')
    if image.has_transparency_data:
        picture = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', picture.size, 'white'), picture).convert('RGB')
    return image if image.mode == mode else image.convert(mode)


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image))


def _pixels(picture: Image.Image) -> np.ndarray:
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def prepare_for_evaluation(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Resize the shorter side to `floor(image_size / crop_fraction)` and cut out the centre, as timm does.

    Args:
        image: uint8 [height, width, channels].
        preprocessing: the image size, crop fraction and interpolation.

    Returns:
        uint8 [image_size, image_size, channels].
    """
    size = preprocessing.image_size
    shorter = math.floor(size / preprocessing.crop_fraction)
    height, width = image.shape[:2]
    if height < width:
        height, width = shorter, shorter * width // height
    else:
        height, width = shorter * height // width, shorter
    if image.shape[:2] != (height, width):
        image = _pixels(_picture(image).resize((width, height), RESAMPLING[preprocessing.interpolation]))
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[top : top + size, left : left + size]


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
    top, left, height, width = random_crop(image.shape[0], image.shape[1], augmentation, rng)
    return _vary(_picture(image[top : top + height, left : left + width]), preprocessing, augmentation, rng)


def read_for_training(
    source: str | Path | bytes, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    """`prepare_for_training(read_image(source), ...)`, bit for bit, without decoding what lies below the crop.

    Args:
        source: a path, or encoded bytes, of any format Pillow reads.
        preprocessing: the image size, channels and interpolation.
        augmentation: what is varied, and how much.
        rng: where the chances come from.

    Returns:
        uint8 [size, size, channels], `size` being `augmentation.training_size(preprocessing)`.

    Raises:
        UnreadableImage: as `read_image` does.
    """
    crop = read_crop(
        source, preprocessing.channels, lambda height, width: random_crop(height, width, augmentation, rng)
    )
    return _vary(crop, preprocessing, augmentation, rng)


def _vary(
    crop: Image.Image, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> np.ndarray:
    size = augmentation.training_size(preprocessing)
    picture = crop.resize(
        (size, size), choose_resampling(augmentation.train_interpolation or preprocessing.interpolation, rng)
    )
    if augmentation.flip and rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = _pixels(vary(picture, preprocessing, augmentation, rng))
    if augmentation.random_erasing and rng.random() < augmentation.random_erasing:
        pixels = erase(pixels, preprocessing, rng)
    return pixels
