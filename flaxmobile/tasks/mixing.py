"""Mixup and CutMix, inside the compiled step: images of a batch are mixed with one another, and so are their targets.

Sources: Zhang et al. 2017 (1710.09412); Yun et al. 2019 (1905.04899); one share for a batch, one of both drawn for each
batch, as timm and torchvision do.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flaxmobile.rules import Count, NotNegative, check_fields, plain_values


class Mixture(NamedTuple):
    """How one batch is mixed.

    Attributes:
        weights: `[height, width]`, float32: what is kept of each pixel; the partner gives the rest.
        share: what is kept of the targets, the mean of the weights.
        cutmix: whether a rectangle was drawn, in which the weights are 0, as they are 1 around it.
    """

    weights: jax.Array
    share: jax.Array
    cutmix: jax.Array


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Mixes each image of a batch with the one `distance` places before it.

    Rolling the batch moves at most `distance` images from each device to its neighbour; reversing it would move all of
    them. Repeated augmentation puts the copies of an image next to each other, so there `distance` is their number.

    Args:
        mixup_alpha: of the distribution Beta(alpha, alpha) of Mixup's share; 0: no Mixup.
        cutmix_alpha: the same for CutMix. Where both are over 0, one of the two is drawn for each batch, evenly.
        distance: places from an image to its partner, 1 or more.

    Raises:
        ValueError: an alpha is negative or not finite; the distance is below 1.
    """

    mixup_alpha: NotNegative = 0.0
    cutmix_alpha: NotNegative = 0.0
    distance: Count = 1

    def __post_init__(self) -> None:
        plain_values(self)
        check_fields(self)

    def __bool__(self) -> bool:
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    def __call__(self, images: jax.Array, targets: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mix images `[B, H, W, C]`, normalised, and targets `[B, K]`, smoothed; a function of these and the key."""
        if not self:
            return images, targets
        mixture = self.draw(key, images.shape[1], images.shape[2])
        weights = mixture.weights[:, :, None].astype(images.dtype)
        return self._mix(images, weights), self._mix(targets, mixture.share.astype(targets.dtype))

    def _mix(self, own: jax.Array, share: jax.Array) -> jax.Array:
        return share * own + (1 - share) * jnp.roll(own, self.distance, axis=0)

    def draw(self, key: jax.Array, height: int, width: int) -> Mixture:
        """Draw how a batch of images of `height` and `width` pixels is mixed. At least one alpha has to be over 0."""
        choice, beta, box = jax.random.split(key, 3)
        both = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        cutmix = jax.random.bernoulli(choice) if both else jnp.array(self.cutmix_alpha > 0)
        alpha = jnp.where(cutmix, self.cutmix_alpha, self.mixup_alpha)
        share = jax.random.beta(beta, alpha, alpha, dtype=jnp.float32)
        center = jax.random.randint(box, (2,), 0, jnp.array([height, width]))
        outside = 1 - rectangle(share, center, height, width)
        return Mixture(
            weights=jnp.where(cutmix, outside, share),
            share=jnp.where(cutmix, outside.mean(), share),
            cutmix=cutmix,
        )


UNMIXED = Mixing()


def rectangle(share: jax.Array, center: jax.Array, height: int, width: int) -> jax.Array:
    """CutMix's rectangle: `[height, width]`, float32, 1 in it and 0 around it.

    Its sides are `sqrt(1 - share)` of the image's, cut down to an even number of pixels, about the pixel `center`
    (row, column); what would lie outside of the image is cut off (torchvision's `CutMix`).
    """
    half = 0.5 * jnp.sqrt(1 - share)
    rows, columns = (
        _near(middle, jnp.floor(half * side), side) for middle, side in zip(center, (height, width), strict=True)
    )
    return (rows[:, None] & columns).astype(jnp.float32)


def _near(middle: jax.Array, reach: jax.Array, side: int) -> jax.Array:
    places = jnp.arange(side)
    return (places >= middle - reach) & (places < middle + reach)
