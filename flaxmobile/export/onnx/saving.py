"""A model into an ONNX file."""

from pathlib import Path
from typing import Unpack

import numpy as np

from flaxmobile.export.checks import Check, Int8Check, answer_of, check_images, inputs_of, write_checked
from flaxmobile.export.description import TRAINED, describe
from flaxmobile.export.extras import distribution_of, needed
from flaxmobile.export.int8 import Int8, Int8Options, int8_of
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
    image_size: int | None = None,
    uint8_input: bool = False,
    softmax: bool = False,
    layout: Layout = 'nchw',
    images: np.ndarray | None = None,
    overwrite: bool = False,
    **int8: Unpack[Int8Options],
) -> Check:
    """Write a model as an ONNX file, which takes any number of images: whole, or not at all.

    It computes in float32, also where the network's `dtype` is a narrower one, or in int8, as that of a model trained
    for int8 always does. Its input is `image`, its output `logits`, `probabilities` or `embedding`. Labels,
    preprocessing, licence and source stand in its metadata, as a JSON text under the name 'flaxmobile'.

    Args:
        model: what to export.
        path: of the file, with the suffix `.onnx`.
        image_size: side of the images in pixels; None: the model's own.
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32, normalised already.
        softmax: answer probabilities in place of logits.
        layout: of the images, and of an output that is a map: 'nchw', `[batch, channels, height, width]`, or 'nhwc'.
        images: pixels to compare the file with JAX on, uint8 `[images, height, width, channels]`; None: seeded noise,
            and for int8 the images of `calibration`.
        overwrite: replace a file that is there.
        int8: `int8=True, calibration=pixels`, see `Int8Options`. ONNX Runtime quantises it.

    Returns:
        What was found out about the file. A UserWarning says if the first answers of an int8 file are often others than
        the model's.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set, or it is a folder.
        ModuleNotFoundError: the package `onnx` is not installed, or `onnxruntime` for int8.
        ValueError: another suffix, layout or size; `softmax` of a network without classes; an operation that the
            exporter does not know, named with its layer; constants of more than 2 GiB; the file answers otherwise than
            the model; see `int8_of`; 'mse' or `int8_io`, which ONNX files have not.
    """
    path, asked = Path(path), _asked(model, int8)
    check_layout(layout)
    check_target(path, {'.onnx': 'ONNX'}, overwrite=overwrite)
    needed('onnx', 'ONNX', 'onnx')
    model = in_float32(model)
    program = make_program(model, image_size=image_size, uint8_input=uint8_input, softmax=softmax)
    made: dict[str, str | int] = {'format': 'onnx', 'layout': layout}
    if program.marked:
        made |= TRAINED
    if asked:
        quantization.quantizer()
        pixels = check_images(program, asked.calibration, 'calibration')
        observer = asked.observer or quantization.OBSERVER
        made |= {'weights': 'int8', 'observer': observer, 'calibration_images': len(pixels)}
        made |= dict([distribution_of('onnxruntime', 'onnxruntime')])
    answer = answer_of(model, program, pixels if asked and images is None else images)
    written = onnx_model(program, layout=layout, description=describe(model, program, made))
    known = None
    if asked:
        written = quantization.to_int8(written, inputs_of(model, program, pixels), observer, layout)
    if asked or program.marked:
        held_out = asked.held_out(images) if asked else None
        known = Int8Check(quantization.int8_share(written), held_out=held_out)
    content, counts = written.SerializeToString(), operations(written)
    ran = runtime(layout)
    return write_checked(path, content, counts, answer=answer, runtime=ran, overwrite=overwrite, int8=known)


def _asked(model: Model, given: Int8Options) -> Int8 | None:
    asked = int8_of(model, given)
    if asked:
        quantization.check_observer(asked.observer)
    if asked and asked.int8_io:
        raise ValueError('int8_io=True goes with a .tflite file alone')
    return asked
