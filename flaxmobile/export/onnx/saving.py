"""A model into an ONNX file."""

from pathlib import Path

import numpy as np

from flaxmobile.export.checks import Check, answer_of, write_checked
from flaxmobile.export.description import describe
from flaxmobile.export.extras import needed
from flaxmobile.export.onnx.model import Layout, check_layout, onnx_model
from flaxmobile.export.onnx.running import operations, runtime
from flaxmobile.export.program import in_float32, make_program
from flaxmobile.export.target import check_target
from flaxmobile.weights import Model


def to_onnx(
    model: Model,
    path: str | Path,
    *,
    image_size: int | None = None,
    uint8_input: bool = False,
    softmax: bool = False,
    layout: Layout = 'nchw',
    images: np.ndarray | None = None,
    overwrite: bool = False,
) -> Check:
    """Write a model as an ONNX file, which takes any number of images: whole, or not at all.

    It computes in float32, also where the network's `dtype` is a narrower one. Its input is `image`, its output
    `logits`, `probabilities` or `embedding`. Labels, preprocessing, licence and source stand in its metadata.

    Args:
        model: what to export.
        path: of the file, with the suffix `.onnx`.
        image_size: side of the images in pixels; None: the model's own.
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32, normalised already.
        softmax: answer probabilities in place of logits.
        layout: of the images, and of an output that is a map: 'nchw', `[batch, channels, height, width]`, or 'nhwc'.
        images: pixels to compare the file with JAX on, uint8 `[images, height, width, channels]`; None: seeded noise.
        overwrite: replace a file that is there.

    Returns:
        What was found out about the file.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set, or it is a folder.
        ModuleNotFoundError: the package `onnx` is not installed.
        ValueError: another suffix, layout or size; `softmax` of a network without classes; an operation that the
            exporter does not know, named with its layer; constants of more than 2 GiB; the file answers otherwise than
            the model.
    """
    path = Path(path)
    check_layout(layout)
    check_target(path, {'.onnx': 'ONNX'}, overwrite=overwrite)
    needed('onnx', 'ONNX', 'onnx')
    model = in_float32(model)
    program = make_program(model, image_size=image_size, uint8_input=uint8_input, softmax=softmax)
    description = describe(model, program, {'format': 'onnx', 'layout': layout})
    answer = answer_of(model, program, images)
    written = onnx_model(program, layout=layout, description=description)
    content = written.SerializeToString()
    counts = operations(written)
    return write_checked(path, content, counts, answer=answer, runtime=runtime(layout), overwrite=overwrite)
