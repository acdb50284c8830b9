"""What is asked of an int8 file, and the pixels that it is calibrated on."""

import dataclasses

import numpy as np

from flaxmobile.export.ranges import Observer
from flaxmobile.messages import printable
from flaxmobile.quantization import Quantized
from flaxmobile.quantization.training import LEAST_IMAGES
from flaxmobile.rules import check_fields
from flaxmobile.weights import Model


@dataclasses.dataclass(frozen=True, eq=False)
class Int8:
    """What is asked of a file that computes in int8: its weights have steps of their own for each output channel.

    Attributes:
        calibration: pixels to find the ranges of the activations on, uint8 `[images, height, width, channels]`,
            `LEAST_IMAGES` or more; 48 to 100 are usual.
        observer: how a range is chosen, see `ranges.Observer`; None: 'extremes' for LiteRT, 'percentile' for ONNX.
        int8_io: take and answer int8 (of LiteRT alone; with `uint8_input` it takes uint8 and answers int8). Without it
            what goes in and comes out is what a float32 file has.

    Raises:
        ValueError: a value that is not allowed, or `calibration` has fewer than `LEAST_IMAGES` images.
    """

    calibration: np.ndarray
    observer: Observer | None = None
    int8_io: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.calibration.ndim:  # Another shape is refused with the program at hand.
            check_enough('calibration', len(self.calibration))

    def held_out(self, images: np.ndarray | None) -> bool:
        """Whether it is compared on images of its own, and on none that it is calibrated on."""
        own = {image.tobytes() for image in self.calibration}
        return images is not None and not any(image.tobytes() in own for image in images)


def check_asked(model: Model, *, float16: bool, int8: Int8 | None) -> None:
    """See that the numbers in a file may be those that are asked for.

    Raises:
        ValueError: `int8` is no `Int8`; see `check_trained`.
    """
    if not isinstance(int8, Int8 | None):
        raise ValueError(f'int8 must be flaxmobile.export.Int8(calibration=pixels), not {printable(repr(int8))}')
    check_trained(model, float16=float16, int8=int8 is not None)


def check_trained(model: Model, *, float16: bool, int8: bool) -> None:
    """See that nothing is asked of the numbers in the file of a model that was trained for int8, which has its own.

    Raises:
        ValueError: something is.
    """
    names = [name for name, given in (('float16', float16), ('int8', int8)) if given]
    if names and isinstance(model.module, Quantized):
        raise ValueError(
            f'{names[0]}=... does not go with this model: it was trained for int8, and its file is int8 with the '
            'ranges that it learnt'
        )


def check_enough(what: str, count: int) -> None:
    """See that images are enough to calibrate on.

    Raises:
        ValueError: they are not.
    """
    if count < LEAST_IMAGES:
        raise ValueError(
            f'{what} has {count} images, and {LEAST_IMAGES} at least are needed to find the ranges of the activations; '
            '48 to 100 are usual'
        )
