"""A model as a LiteRT (TensorFlow Lite) file, with no TensorFlow."""

from pathlib import Path

import numpy as np

from flaxmobile.export.checks import FLOAT16_TOLERANCE, TOLERANCE, Check, answer_of, write_checked
from flaxmobile.export.description import KEY, describe, to_json
from flaxmobile.export.litert.conversion import convert, to_float16, versions
from flaxmobile.export.litert.metadata import MODEL_METADATA, check_labels, model_metadata, with_labels
from flaxmobile.export.litert.running import LITERT, operations
from flaxmobile.export.program import in_float32, make_program
from flaxmobile.export.target import check_target
from flaxmobile.weights import Model

__all__ = ['to_litert']


def to_litert(
    model: Model,
    path: str | Path,
    *,
    image_size: int | None = None,
    float16: bool = False,
    uint8_input: bool = False,
    softmax: bool = False,
    images: np.ndarray | None = None,
    overwrite: bool = False,
) -> Check:
    """Write a model as a LiteRT file, for one image at a time: whole, or not at all.

    The file has one signature, 'serving_default', from 'image' to 'logits', 'probabilities' or 'embedding'. It computes
    in float32. In it are the metadata that MediaPipe and Android's ImageClassifier read (size and normalisation of the
    image, labels), the labels as `labels.txt` in a zip at its end, and under the name 'flaxmobile' a JSON text: what
    the model is, and how images are prepared for it.

    MediaPipe shows the outputs as scores, so it wants `softmax=True`; it normalises all channels alike, so a model with
    a mean or standard deviation for each needs `uint8_input=True` there.

    Args:
        model: what to export.
        path: of the file to write.
        image_size: side of the images in pixels; None: the model's own.
        float16: keep the weights of convolutions and of the classifier as float16, half the size; it computes in
            float32.
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32 images, normalised already.
        softmax: answer probabilities in place of logits.
        images: pixels to compare the file with JAX on, uint8 `[images, height, width, channels]`; None: seeded noise.
        overwrite: replace a file that is there.

    Returns:
        What was found out about the file. A UserWarning says if XNNPACK does not take the graph in one piece, and names
        the operations that it leaves out.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set.
        ModuleNotFoundError: the packages of `flaxmobile[litert]` are not installed.
        ValueError: a bad size, softmax without classes, an operation that LiteRT has not, a label with a line break, or
            the file answers otherwise than the model.
    """
    path = Path(path)
    check_target(path, {'.tflite': 'LiteRT'}, overwrite=overwrite)
    labels = check_labels(model.labels)
    model = in_float32(model)
    program = make_program(model, image_size=image_size, uint8_input=uint8_input, softmax=softmax)
    made = {'format': 'litert', 'weights': 'float16' if float16 else 'float32', **versions()}
    description = describe(model, program, made)
    answer = answer_of(model, program, images)
    # The quantiser keeps buffers that are there and cannot be followed by new ones; a zip is no buffer.
    held = {MODEL_METADATA: model_metadata(description), KEY: to_json(description).encode()}
    content = convert(program, held)
    if float16:
        content = to_float16(content)
    counts = operations(content)
    tolerance = FLOAT16_TOLERANCE if float16 else TOLERANCE
    content = with_labels(content, labels)
    return write_checked(path, content, counts, answer=answer, runtime=LITERT, tolerance=tolerance, overwrite=overwrite)
