"""From a float32 LiteRT file to an int8 one, by ranges of our own and the package litert-quantizer."""

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxmobile.export.extras import needed
from flaxmobile.export.int8 import Int8
from flaxmobile.export.litert.graph import Operation, read_graph
from flaxmobile.export.litert.observing import activations, extremes_of_constants, observing_interpreter
from flaxmobile.export.litert.points import SUMS, float_operations
from flaxmobile.export.ranges import Observer, find_ranges

OBSERVER: Observer = 'extremes'
"""What LiteRT's files take where no other is asked for."""
BITS = 8
LONGEST = 10_000
"""Characters of an operation's name that the quantiser looks at."""


def to_int8(content: bytes, inputs: np.ndarray, asked: Int8) -> bytes:
    """An int8 LiteRT file of a float32 one.

    Weights are symmetric, in steps of their own for each output channel; activations have a zero point.

    Args:
        content: the float32 file. What it holds besides the graph stays.
        inputs: what it is given of the images of calibration, `[images, height, width, channels]`.
        asked: the observer, and whether input and output are int8.

    Raises:
        ModuleNotFoundError: litert-quantizer or ai-edge-litert is not installed.
        ValueError: a tensor has values that are not finite.
    """
    graph, interpreter = read_graph(content), observing_interpreter(content)
    ranges = find_ranges(functools.partial(activations, interpreter, graph, inputs), asked.observer or OBSERVER)
    added = [tensor for operation in graph if operation.kind in SUMS for tensor in operation.inputs if tensor.constant]
    constants = extremes_of_constants(interpreter, {tensor.name for tensor in added})
    left = float_operations(graph, ranges | constants)
    made = _package('quantizer').Quantizer(bytearray(content), _recipe(left, asked.int8_io))
    statistics = {
        name: {'min': np.array([low], np.float32), 'max': np.array([high], np.float32)}
        for name, (low, high) in ranges.items()
    }
    # It draws a bar of its progress whatever it is told, and warns of a way of LiteRT's that it takes itself.
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        done = made.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    return bytes(done.quantized_model)


def _recipe(left: Sequence[Operation], int8_io: bool) -> list[dict[str, object]]:
    """What the quantiser is to do: all in int8 but what stays float32."""
    manager, types = _package('recipe_manager').RecipeManager(), _package('qtyping')
    names, nothing = types.TFLOperationName, _package('algorithm_manager').AlgorithmName.NO_QUANTIZE
    manager.add_static_config('.*', names.ALL_SUPPORTED, activation_num_bits=BITS, weight_num_bits=BITS)
    for kind in () if int8_io else ('INPUT', 'OUTPUT'):
        manager.add_quantization_config('.*', names(kind), algorithm_key=nothing)
    for operation in left:
        scope = re.escape(f'{operation.outputs[0].name};'[:LONGEST])
        manager.add_quantization_config(f'^{scope}$', names(operation.kind), algorithm_key=nothing)
    recipe: list[dict[str, object]] = manager.get_quantization_recipe()
    return recipe


def _package(module: str) -> Any:
    return needed(f'litert_quantizer.{module}', 'LiteRT', 'litert')
