"""How images are resized, cropped, augmented and normalised."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxmobile.rules import Count, Positive, Share, above, among, at_least, between, check_fields, plain_values

Interpolation = Literal['bicubic', 'bilinear']
TrainInterpolation = Literal['bicubic', 'bilinear', 'random']
AutoAugment = Literal['randaugment', 'autoaugment', 'trivialaugment']

# What a field may be, for the configuration of a run too.
ImageSize = Annotated[int, between(1, 16_384)]
Channels = Annotated[int, among(1, 3)]
CropFraction = Annotated[float, between(0.05, 1)]
CropScale = tuple[Annotated[float, above(0, 1)], Annotated[float, above(0, 1)]]
CropRatio = tuple[Positive, Positive]
Magnitude = Annotated[float, between(0, 10)]
MagnitudeStd = Annotated[float, dataclasses.replace(at_least(0), infinite=True)]


@dataclass(frozen=True)
class Preprocessing:
    """What an image goes through before a network sees it.

    Args:
        image_size: side of the square a network is given, in pixels.
        channels: 1 (grey) or 3 (RGB).
        mean: what is subtracted from pixel values in [0, 1], one number per channel (the default is ImageNet's).
        std: what the difference is divided by, one number per channel.
        crop_fraction: side of the centre crop in evaluation, as a share of the resized image, 0.05 to 1.
        interpolation: 'bicubic' or 'bilinear', both antialiased.

    Raises:
        ValueError: a field is out of its range.
    """

    image_size: ImageSize = 224
    channels: Channels = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)
    crop_fraction: CropFraction = 0.875
    interpolation: Interpolation = 'bicubic'

    def __post_init__(self) -> None:
        plain_values(self)
        check_fields(self)
        for name in ('mean', 'std'):
            if (given := len(getattr(self, name))) != self.channels:
                raise ValueError(
                    f'Preprocessing: {name} has {given} numbers for {self.channels} channels: give one per channel'
                )

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

    crop_scale: CropScale = (0.08, 1.0)
    crop_ratio: CropRatio = (3 / 4, 4 / 3)
    flip: bool = True
    auto_augment: AutoAugment | None = None
    randaugment_magnitude: Magnitude = 9.0
    randaugment_layers: Count = 2
    randaugment_magnitude_std: MagnitudeStd = 0.0
    randaugment_increasing: bool = False
    color_jitter: Share = 0.0
    random_erasing: Share = 0.0
    repeated_augmentation: Count = 1
    train_interpolation: TrainInterpolation | None = None
    train_image_size: ImageSize | None = None

    def __post_init__(self) -> None:
        plain_values(self)
        check_fields(self)
        for name in ('crop_scale', 'crop_ratio'):
            least, greatest = getattr(self, name)
            if least > greatest:
                raise ValueError(f'Augmentation: {name} is {least, greatest}: give the lesser first')

    def training_size(self, preprocessing: Preprocessing) -> int:
        """Side of a training image in pixels."""
        return self.train_image_size or preprocessing.image_size
