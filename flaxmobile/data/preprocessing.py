"""How images are resized, cropped, augmented and normalised."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import jax
import jax.numpy as jnp

Interpolation = Literal['bicubic', 'bilinear']


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


@dataclass(frozen=True)
class Augmentation:
    """Random changes to a training image: a crop resized to the image size, and a horizontal flip.

    Args:
        crop_scale: least and greatest area of the crop, as a share of the image.
        crop_ratio: least and greatest width over height of the crop, drawn log-uniformly.
        flip: mirror half of the images.

    Raises:
        ValueError: a range is out of bounds or the wrong way round.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        for name, greatest in (('crop_scale', 1.0), ('crop_ratio', math.inf)):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if len(values) != 2 or not 0 < values[0] <= values[1] <= greatest or values[1] == math.inf:
                raise ValueError(
                    f'{name} is {values}: give two numbers over 0, the lesser first'
                    + (', at most 1' if greatest == 1 else '')
                )
