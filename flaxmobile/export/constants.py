"""What a primitive makes of constants, in NumPy: XLA would compile each of a network's hundred shapes.

An array stands for a value of its rank, and a side of 1 for one of any length: `broadcast_in_dim` copies nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive

Shapes = Sequence[tuple[Any, ...]]

# Of floats and of whole numbers alike.
PLAIN: dict[str, Callable[..., Any]] = {
    'add': np.add,
    'sub': np.subtract,
    'mul': np.multiply,
    'max': np.maximum,
    'min': np.minimum,
    'neg': np.negative,
    'square': np.square,
    'sqrt': np.sqrt,
    'abs': np.abs,
    'floor': np.floor,
    'ceil': np.ceil,
    'eq': np.equal,
    'ne': np.not_equal,
    'lt': np.less,
    'le': np.less_equal,
    'gt': np.greater,
    'ge': np.greater_equal,
}


def evaluate(
    primitive: Primitive, arrays: list[np.ndarray], params: Mapping[str, Any], given: Shapes, made: Shapes
) -> list[np.ndarray] | None:
    """The results of a primitive, or None where they depend on a length that is not known.

    Args:
        primitive: JAX's.
        arrays: its operands.
        params: its parameters.
        given: the shapes of the operands.
        made: the shapes of the results.
    """
    with np.errstate(all='ignore'):
        result = _in_numpy(primitive.name, arrays, params, given, made)
    if result is not None:
        return [result]
    if not arrays or not all(isinstance(side, int) for shape in (*given, *made) for side in shape):
        return None
    operands = [np.broadcast_to(array, shape) for array, shape in zip(arrays, given, strict=True)]
    with jax.ensure_compile_time_eval():
        results = primitive.bind(*operands, **primitive.get_bind_params(dict(params)))
    return [np.asarray(result) for result in (results if primitive.multiple_results else [results])]


def _in_numpy(
    name: str, arrays: list[np.ndarray], params: Mapping[str, Any], given: Shapes, made: Shapes
) -> np.ndarray | None:
    if name in PLAIN:
        return np.asarray(PLAIN[name](*arrays))
    if name == 'div' and arrays[0].dtype.kind == 'f':
        return np.asarray(arrays[0] / arrays[1])
    if name == 'select_n' and len(arrays) == 3 and arrays[0].dtype == bool:
        return np.where(arrays[0], arrays[2], arrays[1])
    if name == 'iota':
        length = made[0][params['dimension']]
        if isinstance(length, int):
            sides = [length if axis == params['dimension'] else 1 for axis in range(len(made[0]))]
            return np.arange(length, dtype=params['dtype']).reshape(sides)
    if name == 'convert_element_type' and arrays[0].dtype.kind == np.dtype(params['new_dtype']).kind:
        return arrays[0].astype(params['new_dtype'])
    return _reshaped(name, arrays, params, given, made)


def _reshaped(
    name: str, arrays: list[np.ndarray], params: Mapping[str, Any], given: Shapes, made: Shapes
) -> np.ndarray | None:
    if name == 'broadcast_in_dim' and len(arrays) == 1:
        sides = [1] * len(made[0])
        for axis, side in zip(params['broadcast_dimensions'], arrays[0].shape, strict=True):
            sides[axis] = side
        return arrays[0].reshape(sides)
    if name == 'squeeze':
        return arrays[0].squeeze(params['dimensions'])
    if name == 'transpose':
        return arrays[0].transpose(params['permutation'])
    if name == 'reshape' and params['dimensions'] is None:
        if arrays[0].size == 1:
            return arrays[0].reshape([1] * len(made[0]))
        if arrays[0].shape == tuple(given[0]) and all(isinstance(side, int) for side in made[0]):
            return arrays[0].reshape(made[0])
    return None
