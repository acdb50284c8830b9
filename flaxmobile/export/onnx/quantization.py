"""From a float32 ONNX model to an int8 one, by ONNX Runtime's own quantiser."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxmobile.export.extras import needed
from flaxmobile.export.onnx.running import turned
from flaxmobile.export.operators.writer import NCHW
from flaxmobile.export.ranges import CUT, Observer

if TYPE_CHECKING:
    import onnx

OBSERVER: Observer = 'percentile'
"""What ONNX files take where no other is asked for."""
METHODS = {'extremes': 'MinMax', 'percentile': 'Percentile'}
"""ONNX Runtime's names of the observers that it has."""
FIRST = ('Conv', 'Gemm', 'MatMul')
"""The operators before the first of which pixels are normalised, which stays float32."""
MOVED = ('QuantizeLinear', 'DequantizeLinear')
"""What goes between int8 and float32, and computes nothing."""
AT_ONCE = 8
"""Images at most whose activations are in memory at once."""


def check_options(observer: Observer | None, *, int8_io: bool) -> None:
    """See that ONNX Runtime has what is asked of an int8 file, before anything costly.

    Raises:
        ValueError: it has not.
    """
    if int8_io:
        raise ValueError('int8_io=True goes with a .tflite file alone')
    if observer is not None and observer not in METHODS:
        raise ValueError(f'observer={observer} goes with a .tflite file; for .onnx there are {", ".join(METHODS)}')


def to_int8(model: 'onnx.ModelProto', inputs: np.ndarray, observer: Observer | None, layout: str) -> 'onnx.ModelProto':
    """An ONNX model that computes in int8, between `QuantizeLinear` and `DequantizeLinear`.

    Weights are int8, in steps of their own for each output channel; activations uint8, which is faster on x86 than
    int8.

    Args:
        model: the float32 model.
        inputs: what it is given of the images of calibration, `[images, height, width, channels]`.
        observer: how a range is chosen.
        layout: of the images: 'nchw' or 'nhwc'.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """
    import onnx

    quantization = quantizer()
    told = {each.key: each.value for each in model.metadata_props}
    prepared = type(model)()
    prepared.CopyFrom(model)
    needed('onnxruntime.quantization.quant_utils', 'int8 ONNX', 'onnx').add_pre_process_metadata(prepared)  # It is.
    # What it says to stdout of its progress is nobody's answer.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / 'int8.onnx'
        quantization.quantize_static(
            prepared,
            path,
            Reader(model.graph.input[0].name, turned(inputs, layout, NCHW)),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod[METHODS[observer or OBSERVER]],
            nodes_to_exclude=_name_normalisation(prepared),
            extra_options={'CalibPercentile': 100 * (1 - CUT), 'CalibStridedMinMax': _at_once(len(inputs))},
        )
        found = onnx.load(path)
    onnx.helper.set_model_props(found, told)
    onnx.checker.check_model(found, full_check=True)
    return found


def _at_once(count: int) -> int:
    """How many images go through calibration at once: it wants a divisor of their number."""
    return max(size for size in range(1, AT_ONCE + 1) if count % size == 0)


def quantizer() -> Any:
    """The module of ONNX Runtime that quantises.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """
    try:
        return needed('onnxruntime.quantization', 'int8 ONNX', 'onnx')
    except ModuleNotFoundError as error:
        if not (error.name or '').startswith('onnxruntime'):
            raise
        raise ModuleNotFoundError(
            'an int8 ONNX file needs the package onnxruntime: pip install onnxruntime', name='onnxruntime'
        ) from error


class Reader:
    """Images one by one, as ONNX Runtime's calibration asks for them."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self._name, self._images, self._next = name, images, iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image by the name of the input, None behind the last."""
        image = next(self._next, None)
        return None if image is None else {self._name: image[None]}

    def __len__(self) -> int:
        return len(self._images)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with those images alone."""
        self._next = iter(self._images[start_index:end_index])


def int8_share(model: 'onnx.ModelProto') -> float:
    """The share of a model's operators that compute on dequantised values and have their answers quantised."""
    made = {name: node for node in model.graph.node for name in node.output}
    read: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            read.setdefault(name, []).append(node)
    computing = [node for node in model.graph.node if node.op_type not in MOVED]
    found = [node for node in computing if _is_quantised(node, made, read)]
    return len(found) / max(1, len(computing))


def _is_quantised(node: Any, made: dict[str, Any], read: dict[str, list[Any]]) -> bool:
    answers = [reader for name in node.output for reader in read.get(name, [])]
    return (
        node.input[0] in made
        and made[node.input[0]].op_type == 'DequantizeLinear'
        and bool(answers)
        and all(reader.op_type == 'QuantizeLinear' for reader in answers)
    )


def _name_normalisation(model: 'onnx.ModelProto') -> list[str]:
    """Give the nodes before the first convolution names of their own; those names."""
    nodes = list(_before_convolutions(model))
    for number, node in enumerate(nodes):
        node.name = f'normalization_{number}'
    return [node.name for node in nodes]


def _before_convolutions(model: 'onnx.ModelProto') -> Iterator[Any]:
    for node in model.graph.node:
        if node.op_type in FIRST:
            return
        yield node
