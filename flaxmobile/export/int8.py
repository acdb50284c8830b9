"""What is asked of an int8 file, and the pixels that it is calibrated on."""

import dataclasses
from collections.abc import Mapping
from typing import TypedDict

import numpy as np

from flaxmobile.export.ranges import Observer, check_observer
from flaxmobile.quantization import Quantized
from flaxmobile.quantization.training import LEAST_IMAGES
from flaxmobile.weights import Model


class Int8Options(TypedDict, total=False):
    """The arguments of an exporter that make an int8 file.

    Attributes:
        int8: compute in int8: weights in steps of their own for each output channel, activations in those of the ranges
            that `calibration` shows.
        calibration: pixels to find the ranges on, uint8 `[images, height, width, channels]`, `LEAST_IMAGES` or more; 48
            to 100 are usual.
        observer: how a range is chosen, see `ranges.Observer`; None: 'extremes' for LiteRT, 'percentile' for ONNX.
        int8_io: take and answer int8 (of LiteRT alone; with `uint8_input` it takes uint8 and answers int8). Without it
            what goes in and comes out is what a float32 file has.
    """

    int8: bool
    calibration: np.ndarray | None
    observer: Observer | None
    int8_io: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Int8:
    """What is asked of an int8 file, see `Int8Options`."""

    calibration: np.ndarray
    observer: Observer | None = None
    int8_io: bool = False

    def held_out(self, images: np.ndarray | None) -> bool:
        """Whether it is compared on images of its own, and on none that it is calibrated on."""
        own = {image.tobytes() for image in self.calibration}
        return images is not None and not any(image.tobytes() in own for image in images)


def int8_of(model: Model, given: Int8Options, *, float16: bool = False) -> Int8 | None:
    """What is asked of an int8 file of that model.

    Raises:
        ValueError: see `check_trained` and `int8_options`.
    """
    check_trained(model, {'float16': float16, **given})
    return int8_options(**given)


def check_trained(model: Model, asked: Mapping[str, object]) -> None:
    """See that nothing is asked of the numbers in the file of a model that was trained for int8, which has its own.

    Raises:
        ValueError: something is.
    """
    names = [name for name, value in asked.items() if value is not None and value is not False]
    if names and isinstance(model.module, Quantized):
        raise ValueError(
            f'{names[0]}=... does not go with this model: it was trained for int8, and its file is int8 with the '
            'ranges that it learnt'
        )


def int8_options(
    int8: bool = False,
    calibration: np.ndarray | None = None,
    observer: Observer | None = None,
    int8_io: bool = False,
) -> Int8 | None:
    """What is asked of an int8 file; None where another is asked for.

    Raises:
        ValueError: as `check_asked`, or `calibration` has fewer than `LEAST_IMAGES` images.
    """
    check_asked(int8=int8, calibration=calibration, observer=observer, int8_io=int8_io)
    if calibration is None:
        return None
    images = np.asarray(calibration)
    if images.ndim:  # Another shape is refused with the program at hand.
        check_enough('calibration', len(images))
    return Int8(images, observer, int8_io)


def check_asked(*, int8: bool, calibration: object, observer: Observer | None, int8_io: bool) -> None:
    """See that these go together, before anything costly.

    Raises:
        ValueError: int8 without images to calibrate on; what int8 alone has, without it; no such observer.
    """
    if int8 and calibration is None:
        raise ValueError('int8=True needs images to find the ranges of the activations on: give calibration=...')
    told = {'calibration': calibration is not None, 'observer': observer is not None, 'int8_io': int8_io}
    if not int8 and any(told.values()):
        raise ValueError(f'{next(name for name, given in told.items() if given)}=... goes with int8=True')
    if observer is not None:
        check_observer(observer)


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
