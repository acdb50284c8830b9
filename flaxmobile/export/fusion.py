"""Operations that belong together, made one: activations, softmax, means, biases.

Each pattern is held to its exact constants, and what lies between may have no other user; where anything differs the
plain operations stay.
"""

import math
from typing import Any

import numpy as np

from flaxmobile.export.activations import ACTIVATIONS
from flaxmobile.export.graph import Graph, Operation, Value, constant
from flaxmobile.export.matching import Rule, either, made_by
from flaxmobile.export.simplification import REDUCTIONS, SIMPLER
from flaxmobile.export.stencils import fuse_stencils
from flaxmobile.quantization.rounding import GREATEST, LEAST


def fuse(graph: Graph) -> None:
    """Fuse what there is, in place.

    Kinds that come of it, beside JAX's own primitives:

    - `reshape` (of `squeeze`, and of `broadcast_in_dim` as far as it makes no side longer) and `broadcast`
      (which only makes sides of 1 longer), without parameters;
    - `reduce_sum`, `reduce_max`, `reduce_min`, `reduce_prod` and `reduce_mean`, with `axes` and `keepdims`;
    - `take`: constant `indices` along `axis`;
    - `relu`, `clip` (`low`, `high`), `hard_sigmoid` (`relu6(x + 3) / 6`), `hard_swish`, `gelu` (`approximate`);
    - `softmax` (`axis`);
    - `average_pool` of `[batch, height, width, channels]` (`size`, which is its stride too);
    - `conv_general_dilated` and `dense` (a product with a constant `[channels, features]`) with a bias as third input;
    - `resize_nearest` of whole factors (`factors`, of height and width).
    """
    for rules in (SIMPLER, REDUCTIONS, ACTIVATIONS, LARGER):
        _apply(graph, rules)
    fuse_stencils(graph)
    _apply(graph, (into_weights,))


def _apply(graph: Graph, rules: tuple[Rule, ...]) -> None:
    for operation in list(graph.operations):
        for rule in rules:
            if operation.kind and rule(graph, operation):
                break
    graph.tidy()


def average_pool(graph: Graph, operation: Operation) -> bool:
    """The mean over tiles that a reshape makes, and what is cut off before because it fills no tile."""
    if operation.kind != 'reduce_mean' or operation.params != {'axes': (2, 4), 'keepdims': False}:
        return False
    tiles = made_by(operation.inputs[0], 'reshape')
    if tiles is None or len(tiles.inputs[0].shape) != 4 or len(tiles.output.shape) != 6:
        return False
    values = tiles.inputs[0]
    batch, rows, height, columns, width, channels = operation.inputs[0].shape
    if values.shape != (batch, rows * height, columns * width, channels):
        return False
    cut = made_by(values, 'slice')
    if cut and not any(cut.params['start_indices']) and set(cut.params.get('strides') or [1]) == {1}:
        whole = cut.inputs[0].shape
        lost = [whole[axis] - values.shape[axis] for axis in (1, 2)]
        if whole[0] == batch and whole[3] == channels and lost[0] < height and lost[1] < width:
            values = cut.inputs[0]
    graph.replace(operation, 'average_pool', [values], size=(height, width))
    return True


def resize_nearest(graph: Graph, operation: Operation) -> bool:
    """Rows and columns repeated, each as often: two `take`s."""
    if operation.kind != 'take' or len(operation.output.shape) != 4:
        return False
    inner = made_by(operation.inputs[0], 'take')
    if inner is None or {inner.params['axis'], operation.params['axis']} != {1, 2}:
        return False
    repeated = {each.params['axis']: _repeats(each) for each in (inner, operation)}
    if not all(repeated.values()):
        return False
    graph.replace(operation, 'resize_nearest', inner.inputs, factors=(repeated[1], repeated[2]))
    return True


def _repeats(operation: Operation) -> int:
    """How often each index comes, one after the other; 0 where they do not come so."""
    length, indices = operation.inputs[0].shape[operation.params['axis']], operation.params['indices']
    times, rest = divmod(len(indices), length)
    return 0 if rest or not np.array_equal(indices, np.repeat(np.arange(length), times)) else times


def dense(graph: Graph, operation: Operation) -> bool:
    """A product of `[batch, channels]` with a constant `[channels, features]`."""
    if operation.kind != 'dot_general' or len(operation.inputs) != 2:
        return False
    values, kernel = operation.inputs
    numbers = operation.params['dimension_numbers']
    (left, right), (some, others) = ([tuple(each) for each in pair] for pair in numbers)
    wide = operation.params.get('preferred_element_type')
    if some or others or left != (1,) or len(values.shape) != 2 or len(kernel.shape) != 2 or kernel.constant is None:
        return False
    if {values.dtype.name, kernel.dtype.name, np.dtype(wide or np.float32).name} != {'float32'}:
        return False
    weights = kernel.full() if right == (0,) else kernel.full().T
    graph.replace(operation, 'dense', [values, constant(weights)])
    return True


def into_weights(graph: Graph, operation: Operation) -> bool:
    """A factor or summand of each feature, taken into the convolution or the product before it."""
    if operation.kind not in ('add', 'sub', 'mul', 'div') or operation.output.dtype != np.float32:
        return False
    commutes = operation.kind in ('add', 'mul')
    for value, other in either(operation) if commutes else [tuple(operation.inputs)]:
        source = made_by(value, 'conv_general_dilated') or made_by(value, 'dense')
        if source is None or source.inputs[1].constant is None or value.shape != operation.output.shape:
            continue
        feature = 1 if source.kind == 'dense' else source.params['dimension_numbers'].out_spec[1]
        numbers = _by_feature(other, feature, value.shape)
        if numbers is None:
            continue
        inputs = _scaled(source, numbers, operation.kind) if operation.kind in ('mul', 'div') else None
        if inputs is None:
            shift = numbers if operation.kind == 'add' else -numbers
            before = [each.full() for each in source.inputs[2:]]
            inputs = [*source.inputs[:2], constant(sum(before, start=shift).astype(np.float32))]
        layer = source.layer
        graph.replace(operation, source.kind, inputs, **source.params)
        operation.layer = layer
        return True
    return False


def _by_feature(value: Value, feature: int, shape: tuple[Any, ...]) -> np.ndarray | None:
    """The constant `[features]`, where it is the same for all else."""
    array = value.constant
    if array is None or array.ndim not in (0, len(shape)):
        return None
    if any(side != 1 and axis != feature for axis, side in enumerate(array.shape)):
        return None
    return np.broadcast_to(array.reshape(-1), (shape[feature],))


def _scaled(source: Operation, numbers: np.ndarray, kind: str) -> list[Value]:
    kernel = source.inputs[1].full()
    axis = 1 if source.kind == 'dense' else source.params['dimension_numbers'].rhs_spec[0]
    along = numbers.reshape([-1 if each == axis else 1 for each in range(kernel.ndim)])
    times = np.multiply if kind == 'mul' else np.divide
    return [
        source.inputs[0],
        constant(times(kernel, along)),
        *(constant(times(b.full(), numbers)) for b in source.inputs[2:]),
    ]


def saturated(graph: Graph, operation: Operation) -> bool:
    """A ReLU before int8 numbers that stand for nothing outside of its range."""
    if operation.kind != 'fake_quantize':
        return False
    source = made_by(operation.inputs[0], 'relu') or made_by(operation.inputs[0], 'clip')
    if source is None:
        return False
    scale, zero_point = operation.params['scale'], operation.params['zero_point']
    low, high = source.params.get('low', 0.0), source.params.get('high', math.inf)
    if (LEAST - zero_point + 0.5) * scale <= low or (GREATEST - zero_point - 0.5) * scale >= high:
        return False
    graph.replace(operation, operation.kind, source.inputs, **operation.params)
    return True


LARGER: tuple[Rule, ...] = (average_pool, resize_nearest, dense, into_weights, saturated)
