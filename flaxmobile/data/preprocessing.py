"""How images are resized, cropped, augmented and normalised."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from flaxmobile.messages import unknown

Interpolation = Literal['bicubic', 'bilinear']
TrainInterpolation = Literal['bicubic', 'bilinear', 'random']
AutoAugment = Literal['randaugment', 'autoaugment', 'trivialaugment']


@dataclass(frozen=True)
class Preprocessing:
    """What an image goes through before a network sees it.

    Args:
        image_size: side of the square a network is given, in pixels.
        channels: 1 (grey) or 3 (RGB).
        mean: what is subtracted from pixel values in [0, 1], one number per channel (the default is ImageNet's).
        std: what the difference is divided by, one number per channel.
        crop_fraction: side of the centre crop in evaluation, as a share of the resized image.
        interpolation: 'bicubic' or 'bilinear', both antialiased.

    Raises:
        ValueError: a field is out of its range.
    """

    image_size: int = 224
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_fraction: float = 0.875
    interpolation: Interpolation = 'bicubic'

    def __post_init__(self) -> None:
        for name in ('mean', 'std'):  # JSON gives lists.
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if self.image_size < 1:
            raise ValueError(f'image_size is {self.image_size}: it has to be 1 or more')
        if self.channels not in (1, 3):
            raise ValueError(f'channels is {self.channels}: it has to be 1 (grey) or 3 (RGB)')
        for name in ('mean', 'std'):
            values = getattr(self, name)
            if len(values) != self.channels:
                raise ValueError(f'{name} has {len(values)} numbers for {self.channels} channels: give one per channel')
        if not all(math.isfinite(value) for value in self.mean) or not all(0 < value < math.inf for value in self.std):
            raise ValueError(f'mean {self.mean} has to be finite and std {self.std} greater than 0')
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f'crop_fraction is {self.crop_fraction}: it has to be over 0 and at most 1')
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f'interpolation is {self.interpolation!r}: it has to be bicubic or bilinear')

    def normalize(self, images: jax.typing.ArrayLike) -> jax.Array:
        """uint8 [..., height, width, channels] to float32: `(images / 255 - mean) / std`."""
        images = jnp.asarray(images)
        if images.dtype != jnp.uint8 or images.ndim < 3 or images.shape[-1] != self.channels:
            raise ValueError(
                f'cannot normalise {images.dtype} {list(images.shape)}: '
                f'uint8 [..., height, width, {self.channels}] is expected'
            )
        mean, std = (jnp.asarray(values, jnp.float32) for values in (self.mean, self.std))
        return (images.astype(jnp.float32) / 255 - mean) / std

    def denormalize(self, images: np.ndarray) -> np.ndarray:
        """What `normalize` makes of pixels, to the nearest uint8 [..., height, width, channels]."""
        return np.rint(255 * (np.asarray(images) * self.std + self.mean)).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training image, made in this order: crop, flip, policy, colour jitter, erasing.

    Args:
        crop_scale: least and greatest area of the crop, as a share of the image.
        crop_ratio: least and greatest width over height of the crop, drawn log-uniformly.
        flip: mirror half of the images.
        auto_augment: the policy: `randaugment` as timm has it, `autoaugment` (that for ImageNet) and `trivialaugment`
            (wide) as torchvision has them.
        randaugment_magnitude: how strong RandAugment's operations are, 0 to 10.
        randaugment_layers: how many operations RandAugment draws, each made with probability 1/2.
        randaugment_magnitude_std: standard deviation of a magnitude; above 100 (infinity too) it is instead drawn
            evenly from 0 to `randaugment_magnitude`.
        randaugment_increasing: every operation becomes more severe with the magnitude; otherwise posterize and
            solarize become less so, and colour, contrast, brightness and sharpness fall and rise.
        color_jitter: greatest change of brightness, contrast and saturation, 0.4 being factors from 0.6 to 1.4.
        random_erasing: probability that a rectangle is filled with noise.
        repeated_augmentation: how many times each image comes in a batch, changed differently each time.
        train_interpolation: how training images are resized and warped; `random`: bicubic or bilinear by chance; None:
            as in evaluation.
        train_image_size: side of a training image in pixels; None: as in evaluation.

    Raises:
        ValueError: a field is out of its range.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    auto_augment: AutoAugment | None = None
    randaugment_magnitude: float = 9.0
    randaugment_layers: int = 2
    randaugment_magnitude_std: float = 0.0
    randaugment_increasing: bool = False
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    repeated_augmentation: int = 1
    train_interpolation: TrainInterpolation | None = None
    train_image_size: int | None = None

    def __post_init__(self) -> None:
        for name, greatest in (('crop_scale', 1.0), ('crop_ratio', math.inf)):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != 2 or not 0 < values[0] <= values[1] <= greatest or values[1] == math.inf:
                raise ValueError(
                    f'{name} is {values}: give two numbers over 0, the lesser first'
                    + (', at most 1' if greatest == 1 else '')
                )
        for name, choices in (('auto_augment', AutoAugment), ('train_interpolation', TrainInterpolation)):
            value = getattr(self, name)
            if value is not None and value not in get_args(choices):
                raise ValueError(unknown(name, str(value), get_args(choices)))
        for name, least, greatest in _BOUNDS:
            value = getattr(self, name)
            if not isinstance(value, int | float) or not least <= value <= greatest:
                raise ValueError(f'{name} is {value!r}: it has to be {_range(least, greatest)}')
        for name in ('randaugment_layers', 'repeated_augmentation', 'train_image_size'):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f'{name} is {value!r}: it has to be a whole number, 1 or more')

    def training_size(self, preprocessing: Preprocessing) -> int:
        """Side of a training image in pixels."""
        return self.train_image_size or preprocessing.image_size


_BOUNDS = (
    ('randaugment_magnitude', 0, 10),
    ('randaugment_magnitude_std', 0, math.inf),
    ('color_jitter', 0, 1),
    ('random_erasing', 0, 1),
)


def _range(least: float, greatest: float) -> str:
    return f'{least} or more' if greatest == math.inf else f'from {least} to {greatest}'
