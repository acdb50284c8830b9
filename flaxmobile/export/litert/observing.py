"""What the tensors of a LiteRT file hold, image by image."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flaxmobile.export.extras import needed
from flaxmobile.export.litert.conversion import INPUT, SIGNATURE
from flaxmobile.export.litert.graph import Operation
from flaxmobile.export.ranges import Range, Tensors


def observing_interpreter(content: bytes) -> Any:
    """A LiteRT interpreter that keeps what is in the middle, which XNNPACK would keep to itself."""
    interpreters = needed('ai_edge_litert.interpreter', 'LiteRT', 'litert')
    interpreter = interpreters.Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=interpreters.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return interpreter


def activations(interpreter: Any, graph: Sequence[Operation], inputs: np.ndarray) -> Iterator[Tensors]:
    """What the tensors hold that an image decides, in float32, image by image; int8 numbers as what they stand for."""
    wanted = {tensor.name for operation in graph for tensor in (*operation.inputs, *operation.outputs)}
    wanted -= {tensor.name for operation in graph for tensor in operation.inputs if tensor.constant}
    readers = _readers(interpreter, wanted)
    runner = interpreter.get_signature_runner(SIGNATURE)
    for image in inputs:
        runner(**{INPUT: image[None]})
        yield {name: read() for name, read in readers.items()}


def extremes_of_constants(interpreter: Any, names: Collection[str]) -> dict[str, Range]:
    """The extremes of the constants of those names that are float32."""
    held = {name: read() for name, read in _readers(interpreter, names).items()}
    return {name: (float(array.min()), float(array.max())) for name, array in held.items()}


def _readers(interpreter: Any, names: Collection[str]) -> dict[str, Callable[[], np.ndarray]]:
    details = interpreter.get_tensor_details()
    chosen = [each for each in details if each['name'] in names and each['dtype'] in (np.float32, np.int8)]
    return {each['name']: functools.partial(_read, interpreter, each) for each in chosen}


def _read(interpreter: Any, detail: Mapping[str, Any]) -> np.ndarray:
    values: np.ndarray = interpreter.get_tensor(detail['index'])
    return as_float(values, detail)


def as_float(values: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    """Numbers of a tensor as float32: int8 ones by the scale and the zero point that its detail has."""
    if values.dtype != np.int8:
        return values
    scale, zero_point = detail['quantization']
    return np.float32(scale) * (values.astype(np.float32) - zero_point)
