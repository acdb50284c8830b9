"""The files that a report compares: written, and opened in their runtimes."""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from flaxmobile.export.by_suffix import export
from flaxmobile.export.checks import Session
from flaxmobile.export.extras import needed
from flaxmobile.export.int8 import Int8
from flaxmobile.export.litert.graph import read_graph
from flaxmobile.export.litert.points import int8_share
from flaxmobile.export.litert.running import LITERT
from flaxmobile.export.litert.running import open_session as open_litert
from flaxmobile.export.onnx.running import open_session as open_onnx
from flaxmobile.export.onnx.running import runtime
from flaxmobile.weights import Model

FILES = (
    *('float32.tflite', 'float16.tflite', 'int8.tflite', 'int8_trained.tflite'),
    *('float32.onnx', 'int8.onnx', 'int8_trained.onnx'),
)
"""All that may be written, in the order of the report."""


@dataclasses.dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes:
        runtime: what runs it, 'ai-edge-litert 2.3.0'.
        session: the file in it.
    """

    runtime: str
    session: Session


def check_trained(trained: Model | None, model: Model) -> None:
    """See that a model trained for int8 stands for the same as the model in float32.

    Raises:
        ValueError: it has other classes, or takes other images.
    """
    if trained is None:
        return
    alike = {'has other classes': trained.labels == model.labels}
    alike['takes other images'] = trained.preprocessing == model.preprocessing
    if others := [what for what, same in alike.items() if not same]:
        raise ValueError(f'trained=... {others[0]} than the model: give the same network, trained for int8')


def write_files(
    model: Model, folder: Path, calibration: np.ndarray, images: np.ndarray, trained: Model | None
) -> dict[Path, Written]:
    """Write those of `FILES` that there can be, and open each.

    Args:
        model: in float32.
        folder: to write them into.
        calibration: see `quantize_report`.
        images: pixels that int8 files are compared with the model on.
        trained: see `quantize_report`.

    Raises:
        ModuleNotFoundError: the packages of `flaxmobile[litert]` are not installed.
        ValueError: see `quantize_report`.
    """
    needed('ai_edge_litert.interpreter', 'LiteRT', 'litert')
    onnx = runtime('nchw').version if importlib.util.find_spec('onnx') else None
    int8: dict[str, Any] = {'int8': Int8(calibration), 'images': images}
    sources = {'float32': (model, {}), 'float16': (model, {'float16': True}), 'int8': (model, int8)}
    if trained:
        sources['int8_trained'] = trained, {'images': images}
    written = {}
    for path in (folder / name for name in FILES):
        if path.stem not in sources or (path.suffix == '.onnx' and onnx is None):
            continue
        source, options = sources[path.stem]
        export(source, path, **options)
        content = path.read_bytes()
        if path.suffix == '.onnx':
            written[path] = Written(str(onnx), open_onnx(content))
            continue
        _check_numbers(path.stem, int8_share(read_graph(content)))
        written[path] = Written(str(LITERT.version), open_litert(content))
    return written


def _check_numbers(kind: str, int8: float) -> None:
    """See that a model's plain file, with that share of its operations in int8, computes in what it is to stand for."""
    if kind == 'float32' and int8:
        raise ValueError('the model was trained for int8: give the one in float32, and this one as trained=...')
    if kind == 'int8_trained' and not int8:
        raise ValueError('trained=... computes in float32: give a run that was trained for int8')
