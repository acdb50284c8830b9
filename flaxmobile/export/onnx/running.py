"""An ONNX file's operations, and the file in ONNX Runtime."""

import collections
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxmobile.export.checks import Runtime
from flaxmobile.export.operators.writer import NCHW

if TYPE_CHECKING:
    import onnx

TO_NHWC = (0, 2, 3, 1)


def operations(model: 'onnx.ModelProto') -> Mapping[str, int]:
    """How often each operator is in a model's graph."""
    return collections.Counter(node.op_type for node in model.graph.node)


def runtime(layout: str) -> Runtime:
    """ONNX Runtime for files of that layout."""

    def run(content: bytes, images: np.ndarray) -> tuple[np.ndarray, int | None]:
        from onnxruntime import InferenceSession

        session = InferenceSession(content, providers=['CPUExecutionProvider'])
        (given,) = session.get_inputs()
        (answers,) = session.run(None, {given.name: turned(images, layout, NCHW)})
        return turned(answers, layout, TO_NHWC), None

    return Runtime('onnxruntime', 'onnxruntime', run)


def turned(maps: Any, layout: str, order: tuple[int, ...]) -> np.ndarray:
    """Maps in another order of axes where the layout is NCHW; what is no map stays."""
    values = np.asarray(maps)
    return values.transpose(order) if layout == 'nchw' and values.ndim == 4 else values
