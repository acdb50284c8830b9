"""One image: decoding, and what training and evaluation make of it. Arrays are uint8 [height, width, channels]."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from flaxmobile.data.preprocessing import Augmentation, Interpolation, Preprocessing

_RESAMPLING = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}
_MODES = {1: 'L', 3: 'RGB'}
_ORIENTATION = 0x0112


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
    if channels not in _MODES:
        raise ValueError(f'channels is {channels}: it has to be 1 (grey) or 3 (RGB)')
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            pixels = np.asarray(_convert(_upright(image), _MODES[channels]))
    except Exception as error:  # Of broken data each of Pillow's plugins raises what it stumbles over.
        name = f'{len(source)} bytes' if isinstance(source, bytes) else str(source)
        raise UnreadableImage(f'cannot read {name} as an image: {error}') from error
    return pixels if channels > 1 else pixels[..., np.newaxis]


def _upright(image: Image.Image) -> Image.Image:
    try:
        return image if image.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
    except Exception:  # Damaged EXIF data is no reason to lose a good picture.
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


def _resize(image: np.ndarray, height: int, width: int, interpolation: Interpolation) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    grey = image.shape[-1] == 1
    picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if grey else image))
    pixels = np.asarray(picture.resize((width, height), _RESAMPLING[interpolation]))
    return pixels[..., np.newaxis] if grey else pixels


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
    image = _resize(image, height, width, preprocessing.interpolation)
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
    """Crop at random, resize, and mirror half of the images.

    Args:
        image: uint8 [height, width, channels].
        preprocessing: the image size and interpolation.
        augmentation: the ranges of the crop and whether to mirror.
        rng: where the chances come from.

    Returns:
        uint8 [image_size, image_size, channels].
    """
    top, left, height, width = random_crop(image.shape[0], image.shape[1], augmentation, rng)
    size = preprocessing.image_size
    image = _resize(image[top : top + height, left : left + width], size, size, preprocessing.interpolation)
    return image[:, ::-1] if augmentation.flip and rng.random() < 0.5 else image
