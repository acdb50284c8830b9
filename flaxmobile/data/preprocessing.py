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

ImageSize = Annotated[int, between(1, 16_384)]
Channels = Annotated[int, among(1, 3)]
CropFraction = Annotated[float, between(0.05, 1)]
CropScale = tuple[Annotated[float, above(0, 1)], Annotated[float, above(0, 1)]]
CropRatio = tuple[Positive, Positive]
Magnitude = Annotated[float, between(0, 10)]
MagnitudeStd = Annotated[float, dataclasses.replace(at_least(0), infinite=True)]


@dataclass(frozen=True)
class Preprocessing:
    """How an image is resized, cropped and normalised before a network sees it.

    The default mean and standard deviation are ImageNet's. Raises ValueError for a value that is not allowed.
    """

    image_size: ImageSize = 224
    """Height and width the network sees, in pixels."""
    channels: Channels = 3
    """Channels of an image: 1 grey, 3 colour."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Mean of each channel, pixels counted from 0 to 1, which is subtracted."""
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)
    """Standard deviation of each channel, pixels counted from 0 to 1, which divides."""
    crop_fraction: CropFraction = 0.875
    """Side of the centre crop in evaluation, as a share of the resized image."""
    interpolation: Interpolation = 'bicubic'
    """How images are resized in evaluation."""

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

    The ratio of a crop's sides is drawn log-uniformly. Without `randaugment_increasing` posterize and solarize become
    weaker as the magnitude grows, and colour, contrast, brightness and sharpness go from less than in the image to
    more. Raises ValueError for a value that is not allowed.
    """

    crop_scale: CropScale = (0.08, 1.0)
    """Least and greatest area of a random training crop, as a share of the image."""
    crop_ratio: CropRatio = (3 / 4, 4 / 3)
    """Least and greatest width over height of a random training crop."""
    flip: bool = True
    """Mirror half of the training images left to right."""
    auto_augment: AutoAugment | None = None
    """Policy that varies training images: randaugment as timm has it, autoaugment (ImageNet's) and trivialaugment
    (wide) as torchvision has them."""
    randaugment_magnitude: Magnitude = 9.0
    """Strength of randaugment's operations, 0 to 10."""
    randaugment_layers: Count = 2
    """Operations that randaugment draws for an image, each made with probability 1/2."""
    randaugment_magnitude_std: MagnitudeStd = 0.0
    """Standard deviation of randaugment's magnitude; above 100: drawn evenly from 0 to randaugment_magnitude."""
    randaugment_increasing: bool = False
    """Whether all of randaugment's operations become more severe with the magnitude (timm's inc1)."""
    color_jitter: Share = 0.0
    """Greatest random change of brightness, contrast and saturation: 0.4 gives factors from 0.6 to 1.4."""
    random_erasing: Share = 0.0
    """Probability that a rectangle of a training image is filled with noise."""
    repeated_augmentation: Count = 1
    """Times that an image comes in a batch, varied differently; an epoch sees so many times fewer images."""
    train_interpolation: TrainInterpolation | None = None
    """How training images are resized and warped; random: bicubic or bilinear by chance; None: as in evaluation."""
    train_image_size: ImageSize | None = None
    """Height and width of training images, in pixels; None: image_size."""

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
