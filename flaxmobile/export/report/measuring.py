"""What files answer to labelled images, and how long they compute."""

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flaxmobile.analysis.latency import Times, in_turn, summarize
from flaxmobile.data import Dataset, Preprocessing
from flaxmobile.export.calibration import BATCH
from flaxmobile.export.report.files import Written

WARM_UP, ROUNDS = 5, 100
"""Calls of each file before any is timed, and timed."""


@dataclasses.dataclass(frozen=True)
class Judged:
    """What files answer.

    Attributes:
        images: how many they answered.
        seen: how many of them are among the images of calibration.
        shares: by file, the share of first answers that are the label, and of those that are the first file's.
    """

    images: int
    seen: int
    shares: dict[Path, tuple[float, float]]


def judge(
    written: Mapping[Path, Written],
    dataset: Dataset,
    preprocessing: Preprocessing,
    positions: np.ndarray,
    calibration: np.ndarray,
) -> Judged:
    """Run each file over a data set.

    Args:
        written: the files, float32 first.
        dataset: the labelled images.
        preprocessing: of the model.
        positions: the model's number for each class of the data set.
        calibration: the images that the ranges were found on.
    """
    own = {image.tobytes() for image in calibration}
    images = seen = 0
    right, alike = (dict.fromkeys(written, 0) for _ in range(2))
    for batch in dataset.evaluation_batches(BATCH, preprocessing):
        pixels, labels = (batch[name][batch['mask']] for name in ('image', 'label'))
        if not len(pixels):
            continue
        images, seen = images + len(pixels), seen + sum(image.tobytes() in own for image in pixels)
        values = np.asarray(preprocessing.normalize(pixels))
        answers = {path: each.session.answers(values).argmax(-1) for path, each in written.items()}
        for path, answered in answers.items():
            right[path] += int(np.sum(answered == positions[labels]))
            alike[path] += int(np.sum(answered == next(iter(answers.values()))))
    return Judged(images, seen, {path: (right[path] / images, alike[path] / images) for path in written})


def time_files(written: Mapping[Path, Written], image: np.ndarray) -> dict[Path, tuple[Times, Times]]:
    """The processor time of each file on one thread, in milliseconds, and its ratio to its runtime's first file's.

    All compute the same image in turn, so that all see the same load.

    Args:
        written: the files, in each runtime float32 first.
        image: float32, `[height, width, channels]`.
    """
    calls = {str(path): functools.partial(each.session.compute, image) for path, each in written.items()}
    in_turn(calls, WARM_UP, time.thread_time)
    samples = in_turn(calls, ROUNDS, time.thread_time)
    first: dict[str, list[float]] = {}
    found = {}
    for path, each in written.items():
        own = samples[str(path)]
        base = first.setdefault(each.runtime, own)
        found[path] = summarize(own), summarize([mine / theirs for mine, theirs in zip(own, base, strict=True)])
    return found
