"""Random augmentation: each function draws from a generator what is done to a training image, and does nothing itself.

What is drawn is a value: moves of all pixels (`geometry`) and changes of colours (`photometric`). The tests check how
often each is drawn, and the same value can be applied to an image, its boxes and its mask.
"""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from flaxmobile.data import operations
from flaxmobile.data.geometry import RESAMPLING, Crop, Flip, Warp
from flaxmobile.data.photometric import Adjustment, Erasure
from flaxmobile.data.preprocessing import Augmentation, Preprocessing, TrainInterpolation

Change = Flip | Warp | Adjustment | Erasure
_ENHANCEMENTS = ('color', 'contrast', 'brightness', 'sharpness')

RAND_AUGMENT = (*operations.PLAIN, *operations.VALUED, *operations.WARPS)
"""What RandAugment draws from: timm's default operations."""

AUTO_AUGMENT = (
    (('posterize', 0.4, 8), ('rotate', 0.6, 9)),
    (('solarize', 0.6, 5), ('auto_contrast', 0.6, 0)),
    (('equalize', 0.8, 0), ('equalize', 0.6, 0)),
    (('posterize', 0.6, 7), ('posterize', 0.6, 6)),
    (('equalize', 0.4, 0), ('solarize', 0.2, 4)),
    (('equalize', 0.4, 0), ('rotate', 0.8, 8)),
    (('solarize', 0.6, 3), ('equalize', 0.6, 0)),
    (('posterize', 0.8, 5), ('equalize', 1.0, 0)),
    (('rotate', 0.2, 3), ('solarize', 0.6, 8)),
    (('equalize', 0.6, 0), ('posterize', 0.4, 6)),
    (('rotate', 0.8, 8), ('color', 0.4, 0)),
    (('rotate', 0.4, 9), ('equalize', 0.6, 0)),
    (('equalize', 0.0, 0), ('equalize', 0.8, 0)),
    (('invert', 0.6, 0), ('equalize', 1.0, 0)),
    (('color', 0.6, 4), ('contrast', 1.0, 8)),
    (('rotate', 0.8, 8), ('color', 1.0, 2)),
    (('color', 0.8, 8), ('solarize', 0.8, 7)),
    (('sharpness', 0.4, 7), ('invert', 0.6, 0)),
    (('shear_x', 0.6, 5), ('equalize', 1.0, 0)),
    (('color', 0.4, 0), ('equalize', 0.6, 0)),
    (('equalize', 0.4, 0), ('solarize', 0.2, 4)),
    (('solarize', 0.6, 5), ('auto_contrast', 0.6, 0)),
    (('invert', 0.6, 0), ('equalize', 1.0, 0)),
    (('color', 0.6, 4), ('contrast', 1.0, 8)),
    (('equalize', 0.8, 0), ('equalize', 0.6, 0)),
)
"""AutoAugment's policy for ImageNet (1805.09501, appendix), of which one row is drawn: two operations, each with its
probability and its magnitude, 0 to 9."""

TRIVIAL_AUGMENT = (
    'identity',
    *operations.WARPS,
    *_ENHANCEMENTS,
    'posterize',
    'solarize',
    'auto_contrast',
    'equalize',
)
"""What TrivialAugment draws from: the wide space of 2103.10158."""


class Step(NamedTuple):
    """An operation with the number it takes."""

    operation: str
    value: float


class _Space(NamedTuple):
    """How far the operations go at the greatest magnitude."""

    shear: float
    translate: float
    rotate: float
    enhance: float
    posterize: int

    def value(self, operation: str, share: float, rng: np.random.Generator) -> float:
        """What an operation takes at a share of the greatest magnitude, with a sign by chance where it has two."""
        if operation in _ENHANCEMENTS:
            return 1 + _either(self.enhance * share, rng)
        if operation in operations.WARPS:
            greatest: float = getattr(self, operation.split('_')[0])
            return _either(greatest * share, rng)
        return {'posterize': 8 - round(self.posterize * share), 'solarize': 255 - 255 * share}.get(operation, 0.0)


_AUTO_AUGMENT_SPACE = _Space(shear=0.3, translate=math.nan, rotate=30.0, enhance=0.9, posterize=4)
_TRIVIAL_AUGMENT_SPACE = _Space(shear=0.99, translate=32.0, rotate=135.0, enhance=0.99, posterize=6)


def _either(value: float, rng: np.random.Generator) -> float:
    return value if rng.random() < 0.5 else -value


def draw_rand_augment(augmentation: Augmentation, size: int, rng: np.random.Generator) -> list[Step]:
    """Draw RandAugment's steps for a picture of `size` pixels a side (1909.13719; as `timm.data.auto_augment`).

    Each of `randaugment_layers` operations is drawn evenly and with replacement, and made with probability 1/2.
    """
    steps = []
    for _ in range(augmentation.randaugment_layers):
        operation = RAND_AUGMENT[rng.integers(len(RAND_AUGMENT))]
        if rng.random() < 0.5:
            share = _draw_magnitude(augmentation, rng) / 10
            steps.append(Step(operation, _rand_augment_value(operation, share, augmentation, size, rng)))
    return steps


def _draw_magnitude(augmentation: Augmentation, rng: np.random.Generator) -> float:
    magnitude, deviation = augmentation.randaugment_magnitude, augmentation.randaugment_magnitude_std
    if deviation > 100:
        return rng.uniform(0, magnitude)
    return min(max(rng.normal(magnitude, deviation), 0.0), 10.0)


def _rand_augment_value(
    operation: str, share: float, augmentation: Augmentation, size: int, rng: np.random.Generator
) -> float:
    increasing = augmentation.randaugment_increasing
    if operation in _ENHANCEMENTS:
        return max(0.1, 1 + _either(0.9 * share, rng)) if increasing else 0.1 + 1.8 * share
    match operation:
        case 'posterize' | 'solarize':
            greatest = {'posterize': 4, 'solarize': 256}[operation]
            return greatest - int(greatest * share) if increasing else int(greatest * share)
        case 'solarize_add':
            return int(110 * share)
        case 'rotate':
            return _either(30 * share, rng)
        case 'shear_x' | 'shear_y':
            return _either(0.3 * share, rng)
        case 'translate_x' | 'translate_y':
            return _either(0.45 * size * share, rng)
    return 0.0


def draw_auto_augment(rng: np.random.Generator) -> list[Step]:
    """Draw one row of AutoAugment's policy for ImageNet, as torchvision does (`transforms.AutoAugment`)."""
    row = AUTO_AUGMENT[rng.integers(len(AUTO_AUGMENT))]
    return [
        Step(operation, _AUTO_AUGMENT_SPACE.value(operation, magnitude / 9, rng))
        for operation, probability, magnitude in row
        if rng.random() < probability
    ]


def draw_trivial_augment(rng: np.random.Generator) -> list[Step]:
    """Draw TrivialAugment's one step, of 31 magnitudes, as torchvision does (`transforms.TrivialAugmentWide`)."""
    operation = TRIVIAL_AUGMENT[rng.integers(len(TRIVIAL_AUGMENT))]
    value = _TRIVIAL_AUGMENT_SPACE.value(operation, rng.integers(31) / 30, rng)
    if operation == 'identity':
        return []
    return [Step(operation, int(value) if operation in ('translate_x', 'translate_y') else value)]


def draw_color_jitter(strength: float, rng: np.random.Generator) -> list[Step]:
    """Draw factors of brightness, contrast and colour, each within `strength` of 1, in an order by chance.

    As torchvision's `ColorJitter(strength, strength, strength)` and timm's `color_jitter` do; there is no hue.
    """
    names = np.array(('brightness', 'contrast', 'color'))
    return [Step(str(name), rng.uniform(1 - strength, 1 + strength)) for name in rng.permutation(names)]


def draw_rectangle(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """Draw the (top, left, height, width) that random erasing fills (1708.04896; as `timm.data.random_erasing`).

    Ten times an area of 2 % to a third of the image and a ratio of height to width of 0.3 to its inverse are drawn;
    None if none lies within the image.
    """
    for _ in range(10):
        area = height * width * rng.uniform(0.02, 1 / 3)
        ratio = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        rows, columns = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if rows < height and columns < width:
            return int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1)), rows, columns
    return None


def draw_erasure(height: int, width: int, preprocessing: Preprocessing, rng: np.random.Generator) -> Erasure | None:
    """Draw a rectangle of an image of that size, and noise for it that is normal once it is normalised.

    What timm's mode `pixel` paints, rounded and clipped to what a pixel can be.
    """
    rectangle = draw_rectangle(height, width, rng)
    if rectangle is None:
        return None
    top, left, height, width = rectangle
    noise = rng.standard_normal((height, width, preprocessing.channels), np.float32)
    return Erasure(top, left, preprocessing.denormalize(noise))


def choose_resampling(interpolation: TrainInterpolation, rng: np.random.Generator) -> Image.Resampling:
    """Pillow's filter of that name; of `random`, one of the two."""
    if interpolation == 'random':
        interpolation = 'bilinear' if rng.random() < 0.5 else 'bicubic'
    return RESAMPLING[interpolation]


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


def draw_crop(
    height: int, width: int, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> Crop:
    """Draw which part of an image of that size is taken, and the filter that makes the training image of it."""
    corners, size = random_crop(height, width, augmentation, rng), augmentation.training_size(preprocessing)
    resampling = choose_resampling(augmentation.train_interpolation or preprocessing.interpolation, rng)
    return Crop(*corners, (size, size), resampling)


def draw_changes(
    size: int, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[Change, ...]:
    """Draw what is done to a training image of `size` pixels a side after its crop, in this order: the flip, the
    operations of the policy, those of the colour jitter, the erasure.

    What comes from outside of the image has the mean colour with RandAugment, as in timm, and is black with the other
    policies, as in torchvision.
    """
    changes: list[Change] = [Flip()] if augmentation.flip and rng.random() < 0.5 else []
    steps, fill = _draw_policy(augmentation, size, rng), (0,) * preprocessing.channels
    if augmentation.auto_augment == 'randaugment':
        fill = tuple(round(255 * value) for value in preprocessing.mean)
    if augmentation.color_jitter:
        steps += draw_color_jitter(augmentation.color_jitter, rng)
    for operation, value in steps:
        resampling = choose_resampling(augmentation.train_interpolation or preprocessing.interpolation, rng)
        is_warp = operation in operations.WARPS
        changes.append(Warp(operation, value, resampling, fill) if is_warp else Adjustment(operation, value))
    if augmentation.random_erasing and rng.random() < augmentation.random_erasing:
        erasure = draw_erasure(size, size, preprocessing, rng)
        changes += [erasure] if erasure else []
    return tuple(changes)


def _draw_policy(augmentation: Augmentation, size: int, rng: np.random.Generator) -> list[Step]:
    match augmentation.auto_augment:
        case 'randaugment':
            return draw_rand_augment(augmentation, size, rng)
        case 'autoaugment':
            return draw_auto_augment(rng)
        case 'trivialaugment':
            return draw_trivial_augment(rng)
    return []
