"""The error of each activation of an int8 LiteRT file, beside the float32 file on the same images."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from flaxmobile.export.litert.graph import Operation, Tensor, read_graph
from flaxmobile.export.litert.observing import activations, observing_interpreter
from flaxmobile.export.litert.points import MOVED
from flaxmobile.export.ranges import Tensors
from flaxmobile.export.report.results import ActivationError

QUANTIZE = 'QUANTIZE'
COPYING = (*MOVED, 'RESHAPE', 'PAD', 'PADV2')
"""Operations that compute nothing."""
TYPES = {'INT8': 'int8', 'FLOAT32': 'float32'}
"""Of activations, by LiteRT's names of them."""
WITH_WEIGHTS = ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED')
"""Operations whose second operand are the weights of a layer."""


def activation_errors(float32: bytes, int8: bytes, inputs: np.ndarray) -> tuple[ActivationError, ...]:
    """Compare the activations of two LiteRT files, in the order in which they are computed; the image is the first.

    Args:
        float32: the file in float32.
        int8: the file that was quantised from it.
        inputs: what both take of the images, float32 `[images, height, width, channels]`.
    """
    kept = kept_activations(read_graph(int8))
    sums = {name: np.zeros(2) for name in kept}
    for exact, found in zip(_values(float32, inputs), _values(int8, inputs), strict=True):
        for name, (_, tensor) in kept.items():
            signal = exact[name].astype(np.float64)
            sums[name] += np.sum(signal**2), np.sum((found[tensor.name] - signal) ** 2)
    return tuple(
        ActivationError(layer_of(name, operation), operation.kind, TYPES[tensor.type], sqnr(*sums[name]))
        for name, (operation, tensor) in kept.items()
    )


def kept_activations(graph: Sequence[Operation]) -> dict[str, tuple[Operation, Tensor]]:
    """The activations of an int8 graph by their names in the float32 graph: what makes each, and what is read of it."""
    kept: dict[str, tuple[Operation, Tensor]] = {}
    made: set[str] = set()
    for operation in graph:
        source, (result, *_) = operation.inputs[0], operation.outputs
        if operation.kind == QUANTIZE and source.type == 'FLOAT32':
            if source.name in kept or source.name not in made:
                kept[source.name] = kept.get(source.name, (operation, source))[0], result
        elif operation.kind not in COPYING and result.type in TYPES:
            kept[result.name] = operation, result
        made.update(tensor.name for tensor in operation.outputs)
    return kept


def layer_of(name: str, operation: Operation) -> str:
    """The path in the parameters of the layer that an activation is of.

    A tensor is named by the layers whose operations became one, and by those: `block_03/project/add;...`.

    Args:
        name: of the activation.
        operation: what makes it.
    """
    if operation.kind == QUANTIZE:
        return 'image'
    traced = operation.inputs[1].name if operation.kind in WITH_WEIGHTS else name
    *scopes, computed = traced.split(';')[0].split('/')
    layer = '/'.join(scope for scope in scopes if not set(scope) & set('(,>'))  # Without `jit(relu)`, `bqhd,bkd->bqhk`.
    return layer or computed


def sqnr(signal: float, noise: float) -> float:
    """The signal to quantisation noise ratio of two sums of squares, in decibels; infinite without noise."""
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def _values(content: bytes, inputs: np.ndarray) -> Iterator[Tensors]:
    return activations(observing_interpreter(content), read_graph(content), inputs)
