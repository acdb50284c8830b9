"""A model as a LiteRT (TensorFlow Lite) file, with no TensorFlow."""

from pathlib import Path

import numpy as np

from flaxmobile.export.checks import (
    FLOAT16_TOLERANCE,
    TOLERANCE,
    Check,
    Int8Check,
    answer_of,
    check_images,
    inputs_of,
    write_checked,
)
from flaxmobile.export.description import KEY, TRAINED, describe, to_json
from flaxmobile.export.int8 import Int8, check_asked
from flaxmobile.export.litert.conversion import convert, to_float16, versions
from flaxmobile.export.litert.graph import read_graph
from flaxmobile.export.litert.metadata import MODEL_METADATA, check_labels, model_metadata, with_labels
from flaxmobile.export.litert.points import int8_share
from flaxmobile.export.litert.quantization import OBSERVER, to_int8
from flaxmobile.export.litert.running import LITERT, operations
from flaxmobile.export.program import Program, in_float32, make_program
from flaxmobile.export.target import check_target
from flaxmobile.weights import Model

__all__ = ['to_litert']


def to_litert(
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
    """Write a model as a LiteRT file, for one image at a time: whole, or not at all.

    The file has one signature, 'serving_default', from 'image' to 'logits', 'probabilities' or 'embedding'. It computes
    in float32, or in int8, as that of a model trained for int8 always does. In it are the metadata that MediaPipe and
    Android's ImageClassifier read (size and normalisation of the image, labels), the labels as `labels.txt` in a zip at
    its end, and under the name 'flaxmobile' a JSON text: what the model is, and how images are prepared for it.

    MediaPipe shows the outputs as scores, so it wants `softmax=True`; it refuses a file with a mean or standard
    deviation for each channel, so such a model needs `uint8_input=True` there.

    Args:
        model: what to export.
        path: of the file to write.
        float16: keep the weights of convolutions and of the classifier as float16, half the size; it computes in
            float32.
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32 images, normalised already.
        softmax: answer probabilities in place of logits.
        images: pixels to compare the file with JAX on, uint8 `[images, height, width, channels]`; None: seeded noise,
            and for int8 the images of `calibration`.
        overwrite: replace a file that is there.
        int8: compute in int8, by the ranges of `Int8(calibration=pixels)`.

    Returns:
        What was found out about the file. A UserWarning says if XNNPACK does not take the graph in one piece, and names
        the operations that it leaves out; another, if the first answers of an int8 file are often others than the
        model's.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set.
        ModuleNotFoundError: the packages of `flaxmobile[litert]` are not installed.
        ValueError: softmax without classes, an operation that LiteRT has not, a label with a line break, or
            the file answers otherwise than the model; see `check_asked` and `find_ranges`.
    """
    path = Path(path)
    check_asked(model, float16=float16, int8=int8)
    check_target(path, {'.tflite': 'LiteRT'}, float16=float16, int8=int8 is not None, overwrite=overwrite)
    labels = check_labels(model.labels)
    model = in_float32(model)
    program = make_program(model, uint8_input=uint8_input, softmax=softmax)
    if int8:
        pixels = check_images(program, int8.calibration, 'calibration')
    made = {'format': 'litert', **_weights(program, float16, int8), **versions(quantized=float16 or int8 is not None)}
    description = describe(model, program, made, int8_io=int8 is not None and int8.int8_io)
    answer = answer_of(model, program, pixels if int8 and images is None else images)
    # The quantiser keeps buffers that are there and cannot be followed by new ones; a zip is no buffer.
    held = {MODEL_METADATA: model_metadata(description), KEY: to_json(description).encode()}
    content, known = convert(program, held), None
    if float16:
        content = to_float16(content)
    if int8:
        operations(content)  # What LiteRT lacks is refused here, by name.
        content = to_int8(content, inputs_of(model, program, pixels), int8)
    if int8 or program.marked:
        known = Int8Check(int8_share(read_graph(content)), held_out=int8.held_out(images) if int8 else None)
    counts = operations(content)
    content = with_labels(content, labels)
    return write_checked(
        path,
        content,
        counts,
        answer=answer,
        runtime=LITERT,
        tolerance=FLOAT16_TOLERANCE if float16 else TOLERANCE,
        overwrite=overwrite,
        int8=known,
    )


def _weights(program: Program, float16: bool, int8: Int8 | None) -> dict[str, str | int]:
    """What a description's `made` says of the numbers in the file."""
    if program.marked:
        return TRAINED
    if int8 is None:
        return {'weights': 'float16' if float16 else 'float32'}
    return {'weights': 'int8', 'observer': int8.observer or OBSERVER, 'calibration_images': len(int8.calibration)}
