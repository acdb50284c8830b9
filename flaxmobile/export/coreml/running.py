"""A Core ML package on macOS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxmobile.export.checks import Runtime
from flaxmobile.export.operators.writing import IMAGES


def runtime(package: Path, labels: Sequence[str] | None) -> Runtime:
    """Core ML for that package on the CPU, which computes float32 in float32.

    Args:
        package: its folder.
        labels: of a classifier, in the order of the model's answers; None of others.
    """

    def run(content: bytes, images: np.ndarray) -> tuple[np.ndarray, int | None]:
        loaded = _load(package)
        said = loaded.get_spec().description
        name = said.predictedProbabilitiesName if labels else said.output[0].name
        answers = [loaded.predict({IMAGES: _given(image)})[name] for image in images]
        if labels:
            return np.array([[answer[label] for label in labels] for answer in answers], np.float32), None
        values = np.concatenate(answers)
        return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values, None

    return Runtime('coremltools', 'coremltools', run)


def _load(package: Path) -> Any:
    import coremltools

    return coremltools.models.MLModel(str(package), compute_units=coremltools.ComputeUnit.CPU_ONLY)


def _given(image: np.ndarray) -> Any:
    """Pixels as Pillow's image, normalised images as an array."""
    if image.dtype != np.uint8:
        return image.transpose(2, 0, 1)[None]
    from PIL import Image

    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])
