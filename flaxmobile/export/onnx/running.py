"""An ONNX file's operations, and the file in ONNX Runtime."""

import collections
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxmobile.export.checks import Runtime, Session
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


def open_session(content: bytes) -> Session:
    """A file of the layout 'nchw' in ONNX Runtime, on one thread."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = InferenceSession(content, options, providers=['CPUExecutionProvider'])
    (given,) = session.get_inputs()

    def answer(image: np.ndarray) -> np.ndarray:
        (answers,) = session.run(None, {given.name: turned(image[None], 'nchw', NCHW)})
        return np.asarray(answers)

    return Session(lambda images: np.concatenate([answer(image) for image in images]), answer)


def turned(maps: Any, layout: str, order: tuple[int, ...]) -> np.ndarray:
    """Maps in another order of axes where the layout is NCHW; what is no map stays."""
    values = np.asarray(maps)
    return values.transpose(order) if layout == 'nchw' and values.ndim == 4 else values
