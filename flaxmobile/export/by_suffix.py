"""A model into the format that a file's name asks for."""

from pathlib import Path
from typing import Any

import numpy as np

from flaxmobile.export.checks import Check
from flaxmobile.export.int8 import Int8
from flaxmobile.export.target import check_target
from flaxmobile.weights import Model


def export(
    model: Model,
    path: str | Path,
    *,
    float16: bool = False,
    uint8_input: bool = False,
    softmax: bool = False,
    images: np.ndarray | None = None,
    overwrite: bool = False,
    int8: Int8 | None = None,
) -> Check:
    """Write a model in its suffix's format: whole, or not at all.

    `.tflite` (LiteRT), `.onnx`, `.mlpackage` (Core ML) or `.jax` (plain JAX).

    Args:
        model: what to export.
        path: of the file to write.
        float16: keep the weights as float16 (`.tflite`), or compute in float16 too (`.mlpackage`).
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32 images, normalised already.
        softmax: answer probabilities in place of logits.
        images: pixels to compare the file with the model on, uint8 `[images, height, width, channels]`; None: seeded
            noise, and for int8 those of `calibration`.
        overwrite: replace a file that is there.
        int8: compute in int8 (`.tflite` and `.onnx`), by the ranges of `Int8(calibration=pixels)`.

    Returns:
        What was found out about the file.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set.
        ModuleNotFoundError: the packages for the format are not installed.
        ValueError: no such suffix, or see `to_litert`, `to_onnx`, `to_coreml` and `to_jax`.
    """
    suffix = check_target(path, float16=float16, int8=int8 is not None, overwrite=overwrite)
    options: dict[str, Any] = {
        'uint8_input': uint8_input,
        'softmax': softmax,
        'images': images,
        'overwrite': overwrite,
    }
    if suffix == '.tflite':
        from flaxmobile.export.litert import to_litert

        return to_litert(model, path, float16=float16, int8=int8, **options)
    if suffix == '.onnx':
        from flaxmobile.export.onnx.saving import to_onnx

        return to_onnx(model, path, int8=int8, **options)
    if suffix == '.mlpackage':
        from flaxmobile.export.coreml import to_coreml

        return to_coreml(model, path, float16=float16, **options)
    from flaxmobile.export.jax_artifact import to_jax

    return to_jax(model, path, **options)
