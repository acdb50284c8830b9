"""What a report on quantisation says."""

import dataclasses
import math
from pathlib import Path

from flaxmobile.analysis.latency import Times

WORST = 5
"""Activations that are named as the worst."""


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """What was measured of a file.

    Attributes:
        path: of the file.
        runtime: what ran it, 'ai-edge-litert 2.3.0'.
        size: in bytes.
        accuracy: the share of the images whose first answer is their label.
        agreement: the share of the images whose first answer is that of the float32 file of LiteRT.
        times: of computing one image, in milliseconds of processor time on one thread.
        ratio: of each such time to that of the float32 file of the same runtime a moment before.
    """

    path: Path
    runtime: str
    size: int
    accuracy: float
    agreement: float
    times: Times
    ratio: Times


@dataclasses.dataclass(frozen=True)
class ActivationError:
    """How far an activation of the int8 file is from that of the float32 file.

    Attributes:
        layer: path of the layer that it is of, as in the parameters: 'block_03/depthwise'; 'image' for what goes in.
        operation: what makes it, as LiteRT calls it: 'DEPTHWISE_CONV_2D'; 'QUANTIZE' for the image.
        type: how its numbers are kept: 'int8', or 'float32' where XNNPACK computes it in no other.
        sqnr: signal to quantisation noise ratio in decibels, `10 log10(sum of x^2 / sum of (x - x_int8)^2)` over all
            images; infinite where all numbers are equal.
    """

    layer: str
    operation: str
    type: str
    sqnr: float


@dataclasses.dataclass(frozen=True)
class QuantizeReport:
    """What float16 and int8 cost a model.

    Attributes:
        folder: with the report, its picture and the files.
        images: how many images the accuracies are of.
        calibration_images: how many the ranges were found on.
        seen: how many of the images are among those that the ranges were found on.
        observed_images: how many of the images the errors of the activations are of.
        files: each that was written, those of LiteRT first, and float32 first among those of a runtime.
        activations: in the order in which they are computed.
    """

    folder: Path
    images: int
    calibration_images: int
    seen: int
    observed_images: int
    files: tuple[ExportedFile, ...]
    activations: tuple[ActivationError, ...]

    @property
    def worst(self) -> tuple[ActivationError, ...]:
        """The `WORST` activations of the greatest error, the worst first."""
        return tuple(self.activations[place] for place in self.worst_places)

    @property
    def worst_places(self) -> tuple[int, ...]:
        """Their places among `activations`."""
        return tuple(sorted(range(len(self.activations)), key=lambda place: self.activations[place].sqnr)[:WORST])

    @property
    def standard_error(self) -> float:
        """Of the first file's accuracy, by the number of images."""
        accuracy = self.files[0].accuracy
        return math.sqrt(accuracy * (1 - accuracy) / self.images)
