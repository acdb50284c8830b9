"""What a configuration says of quantisation-aware training."""

import dataclasses
from typing import Annotated

from flaxmobile.rules import at_least, check_fields, plain_values

LEAST_IMAGES = 16
"""Fewer images give no ranges to rely on; 48 to 100 are usual."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationAware:
    """Training of a network that rounds as an int8 file does. Raises ValueError for a value that is not allowed."""

    qat: bool = False
    """Train for int8 from the float network that init names: the recipe of quantisation-aware training, but for the
    options that are given as well. Without dropout and stochastic depth."""
    calibration_images: Annotated[int, at_least(LEAST_IMAGES)] = 256
    """With qat, the training images at least whose extremes the ranges of activations begin with."""

    def __post_init__(self) -> None:
        plain_values(self)
        check_fields(self)
