"""A model into an ONNX file."""

from pathlib import Path

import numpy as np

from flaxmobile.export.checks import Check, Int8Check, answer_of, check_images, inputs_of, write_checked
from flaxmobile.export.description import TRAINED, describe
from flaxmobile.export.extras import distribution_of, needed
from flaxmobile.export.int8 import Int8, check_asked
from flaxmobile.export.onnx import quantization
from flaxmobile.export.onnx.model import check_layout, onnx_model
from flaxmobile.export.onnx.running import operations, runtime
from flaxmobile.export.operators.writing import Layout
from flaxmobile.export.program import in_float32, make_program
from flaxmobile.export.target import check_target
from flaxmobile.weights import Model


def to_onnx(
    model: Model,
    path: str | Path,
    *,
    uint8_input: bool = False,
    softmax: bool = False,
    layout: Layout = 'nchw',
    images: np.ndarray | None = None,
    overwrite: bool = False,
    int8: Int8 | None = None,
) -> Check:
    """Write a model as an ONNX file, which takes any number of images: whole, or not at all.

    It computes in float32, also where the network's `dtype` is a narrower one, or in int8, as that of a model trained
    for int8 always does. Its input is `image`, its output `logits`, `probabilities` or `embedding`. Labels,
    preprocessing, licence and source stand in its metadata, as a JSON text under the name 'flaxmobile'.

    Args:
        model: what to export.
        path: of the file, with the suffix `.onnx`.
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32, normalised already.
        softmax: answer probabilities in place of logits.
        layout: of the images, and of an output that is a map: 'nchw', `[batch, channels, height, width]`, or 'nhwc'.
        images: pixels to compare the file with JAX on, uint8 `[images, height, width, channels]`; None: seeded noise,
            and for int8 the images of `calibration`.
        overwrite: replace a file that is there.
        int8: compute in int8, by the ranges of `Int8(calibration=pixels)`. ONNX Runtime quantises it.

    Returns:
        What was found out about the file. A UserWarning says if the first answers of an int8 file are often others than
        the model's.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set, or it is a folder.
        ModuleNotFoundError: the package `onnx` is not installed, or `onnxruntime` for int8.
        ValueError: another suffix or layout; `softmax` of a network without classes; an operation that the
            exporter does not know, named with its layer; constants of more than 2 GiB; the file answers otherwise than
            the model; see `check_asked`; 'mse' or `int8_io`, which ONNX files have not.
    """
    path = Path(path)
    check_asked(model, float16=False, int8=int8)
    if int8:
        quantization.check_options(int8.observer, int8_io=int8.int8_io)
    check_layout(layout)
    check_target(path, {'.onnx': 'ONNX'}, overwrite=overwrite)
    needed('onnx', 'ONNX', 'onnx')
    model = in_float32(model)
    program = make_program(model, uint8_input=uint8_input, softmax=softmax)
    made: dict[str, str | int] = {'format': 'onnx', 'layout': layout}
    if program.marked:
        made |= TRAINED
    if int8:
        quantization.quantizer()
        pixels = check_images(program, int8.calibration, 'calibration')
        observer = int8.observer or quantization.OBSERVER
        made |= {'weights': 'int8', 'observer': observer, 'calibration_images': len(pixels)}
        made |= dict([distribution_of('onnxruntime', 'onnxruntime')])
    answer = answer_of(model, program, pixels if int8 and images is None else images)
    written = onnx_model(program, layout=layout, description=describe(model, program, made))
    known = None
    if int8:
        written = quantization.to_int8(written, inputs_of(model, program, pixels), observer, layout)
    if int8 or program.marked:
        held_out = int8.held_out(images) if int8 else None
        known = Int8Check(quantization.int8_share(written), held_out=held_out)
    content, counts = written.SerializeToString(), operations(written)
    ran = runtime(layout)
    return write_checked(path, content, counts, answer=answer, runtime=ran, overwrite=overwrite, int8=known)
