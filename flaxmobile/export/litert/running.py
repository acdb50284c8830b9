"""A LiteRT file's operations, and the file in its runtime."""

import collections
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxmobile.export.checks import Runtime, Session
from flaxmobile.export.litert.conversion import INPUT, SIGNATURE
from flaxmobile.export.litert.graph import read_graph
from flaxmobile.export.litert.observing import as_float
from flaxmobile.messages import listing

NOT_RUN = ('STABLEHLO_', 'CUSTOM', 'DELEGATE', 'PLACEHOLDER')
"""How the names begin of what the converter leaves where LiteRT has nothing of its own."""


def operations(content: bytes) -> dict[str, int]:
    """How often each operation is in a LiteRT file's graph, by the names of LiteRT's schema.

    Raises:
        ValueError: there is an operation in it that LiteRT does not run.
    """
    found = collections.Counter(operation.kind for operation in read_graph(content))
    if foreign := sorted(name for name in found if name.startswith(NOT_RUN)):
        raise ValueError(f'LiteRT has no operation for {listing(foreign)}, which the network needs')
    return dict(found)


def run(content: bytes, images: np.ndarray) -> tuple[np.ndarray, int | None]:
    """What a LiteRT file answers to each image, in float32, and how many pieces of its graph XNNPACK takes."""
    interpreter = _interpreter(content)
    delegated = sum(operation['op_name'] == 'DELEGATE' for operation in interpreter._get_ops_details())
    return _answers(interpreter, images), delegated


def open_session(content: bytes) -> Session:
    """A LiteRT file on one thread, as `run` has it."""
    interpreter = _interpreter(content, num_threads=1)
    (given,) = interpreter.get_input_details()

    def compute(image: np.ndarray) -> None:
        interpreter.set_tensor(given['index'], image[None])
        interpreter.invoke()

    return Session(functools.partial(_answers, interpreter), compute)


def _answers(interpreter: Any, images: np.ndarray) -> np.ndarray:
    runner = interpreter.get_signature_runner(SIGNATURE)
    given = runner.get_input_details()[INPUT]
    ((name, answered),) = runner.get_output_details().items()
    answers = [as_float(runner(**{INPUT: _as_given(image[None], given)})[name], answered) for image in images]
    return np.concatenate(answers)


def _as_given(values: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    """What an input takes: int8 where that is its type, as it says of itself."""
    if detail['dtype'] is not np.int8:
        return values
    scale, zero_point = detail['quantization']
    return np.clip(np.rint(values / scale) + zero_point, -128, 127).astype(np.int8)


def left_out(content: bytes) -> dict[str, int]:
    """How often each operation is in a LiteRT file's graph that XNNPACK does not take, whatever pieces there are.

    The `CAST` of uint8 images is not counted: XNNPACK takes none, and it is one step over the image.
    """
    interpreter = _interpreter(content)
    images = {each['index'] for each in interpreter.get_input_details()}
    nodes = interpreter._get_ops_details()
    makers = {output: node for node in nodes if node['op_name'] != 'DELEGATE' for output in node['outputs']}
    taken: set[int] = set()
    for piece in (node for node in nodes if node['op_name'] == 'DELEGATE'):
        given, wanted = set(piece['inputs']), list(piece['outputs'])
        while wanted:
            node = makers.get(tensor := wanted.pop())
            if tensor not in given and node is not None and node['index'] not in taken:
                taken.add(node['index'])
                wanted.extend(node['inputs'])
    others = [node for node in makers.values() if node['index'] not in taken]
    return dict(
        collections.Counter(
            node['op_name'] for node in others if node['op_name'] != 'CAST' or not images.intersection(node['inputs'])
        )
    )


def _interpreter(content: bytes, num_threads: int | None = None) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=num_threads)
    interpreter.allocate_tensors()
    return interpreter


LITERT = Runtime('ai-edge-litert', 'ai_edge_litert', run, left_out)
