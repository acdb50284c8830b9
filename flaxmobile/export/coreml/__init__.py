"""A model as a Core ML package, an ML program that iPhones, iPads and Macs run."""

import sys
import warnings
from pathlib import Path

import numpy as np

from flaxmobile.export.checks import (
    TOLERANCE,
    Check,
    answer_of,
    check_images,
    checked_error,
    most_frequent_first,
)
from flaxmobile.export.coreml.package import operations, save, version
from flaxmobile.export.coreml.running import runtime
from flaxmobile.export.description import describe
from flaxmobile.export.extras import needed
from flaxmobile.export.operators.writing import write
from flaxmobile.export.program import in_float32, make_program
from flaxmobile.export.target import check_target
from flaxmobile.files import folder_size, whole_folder
from flaxmobile.messages import printable
from flaxmobile.quantization import Quantized
from flaxmobile.weights import Model

__all__ = ['to_coreml']

IN_FLOAT16 = 3e-2
"""Largest error of a package that computes in float16 too."""


def to_coreml(
    model: Model,
    path: str | Path,
    *,
    float16: bool = False,
    uint8_input: bool = False,
    softmax: bool = False,
    images: np.ndarray | None = None,
    overwrite: bool = False,
) -> Check:
    """Write a model as a Core ML package (an ML program for iOS 15, macOS 12 and later): whole, or not at all.

    A package is a folder. It is for one image at a time. Its input is `image`: with `uint8_input` an image as Core ML
    and Vision have them (RGB, or grey), otherwise an array `[1, channels, height, width]`. Its output is `logits`,
    `probabilities` or `embedding`. With `softmax`, a model whose labels are known is a classifier in Core ML's sense:
    it answers `classLabel` and, by label, `classLabel_probs`. Name, licence and a description stand where Xcode shows
    them, and under the name 'flaxmobile' a JSON text: what the model is, and how images are prepared for it.

    Args:
        model: what to export.
        path: of the folder to write, with the suffix `.mlpackage`.
        float16: keep the weights as float16 and compute in it; otherwise float32.
        uint8_input: take images, and normalise them inside; otherwise float32 arrays, normalised already.
        softmax: answer probabilities in place of logits.
        images: pixels to compare the package with JAX on, uint8 `[images, height, width, channels]`; None: seeded
            noise.
        overwrite: replace a package that is there.

    Returns:
        What was found out about the package. Core ML runs on macOS alone: elsewhere a UserWarning says that nothing was
        compared.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set, or it holds other files than a package's.
        ModuleNotFoundError: the package `coremltools` is not installed.
        ValueError: another suffix or size; a model trained for int8; `softmax` of a network without classes; an
            operation that the exporter does not know, named with its layer; on macOS, the package answers otherwise
            than the model.
    """
    path = Path(path)
    check_target(path, {'.mlpackage': 'Core ML'}, float16=float16, overwrite=overwrite)
    if isinstance(model.module, Quantized):
        raise ValueError(
            f'{printable(path, None)}: the model was trained for int8, which .tflite, .onnx and .jax files hold: '
            'export the float network that it came from'
        )
    needed('coremltools', 'Core ML', 'coreml')
    model = in_float32(model)
    program = make_program(model, uint8_input=uint8_input, softmax=softmax)
    made = {'format': 'coreml', 'precision': 'float16' if float16 else 'float32', 'coremltools': version()}
    labels = model.labels if softmax else None
    pixels = check_images(program, images)
    answer = answer_of(model, program, pixels) if sys.platform == 'darwin' else None
    ran, error = None, None
    with whole_folder(path, overwrite=overwrite) as new:
        save(write(program), new, describe(model, program, made), labels=labels, float16=float16)
        counts = most_frequent_first(operations(new))
        if answer is not None:
            ran = runtime(new, labels)
            error = checked_error(path, answer, ran, IN_FLOAT16 if float16 else TOLERANCE)
    if answer is None:
        warnings.warn(f'{printable(path, None)} was not compared with JAX: Core ML runs on macOS alone', stacklevel=2)
    return Check(path, folder_size(path), counts, ran.version if ran else None, error)
