"""A saved Core ML package computed by torch, from the specification of its format alone.

The format: https://github.com/apple/coremltools/blob/main/mlmodel/format/MIL.proto. The operations:
https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html
"""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools
import numpy as np
import torch
from torch.nn import functional

STRING, HALF, SINGLE = 2, 10, 11
"""Of the format's types."""
DTYPES = {1: np.bool_, HALF: np.float16, SINGLE: np.float32, 23: np.int32}


class Package:
    """A package's specification, its operations without constants, and the constants by name."""

    def __init__(self, folder: Path) -> None:
        self.spec = coremltools.utils.load_spec(str(folder))
        (function,) = self.spec.mlProgram.functions.values()
        (block,) = function.block_specializations.values()
        (self.outputs, blobs) = (list(block.outputs), list(folder.rglob('weight.bin')))
        self.blob = blobs[0].read_bytes() if blobs else b''
        self.operations = [each for each in block.operations if each.type != 'const']
        constants = [each for each in block.operations if each.type == 'const']
        self.constants = {each.outputs[0].name: self.value(each.attributes['val']) for each in constants}

    def value(self, value: Any) -> Any:
        """A constant as an array, a text, or a list of texts."""
        if value.type.WhichOneof('type') == 'listType':
            return [each.immediateValue.tensor.strings.values[0] for each in value.immediateValue.list.values]
        told = value.type.tensorType
        shape = [each.constant.size for each in told.dimensions]
        if value.WhichOneof('value') == 'blobFileValue':
            mark, _, size, start = struct.unpack_from('<IIQQ', self.blob, value.blobFileValue.offset)
            assert mark == 0xDEADBEEF
            return np.frombuffer(self.blob[start : start + size], DTYPES[told.dataType]).reshape(shape)
        tensor = value.immediateValue.tensor
        values = getattr(tensor, tensor.WhichOneof('value')).values
        if told.dataType == STRING:
            return values[0]
        if isinstance(values, bytes):
            return np.frombuffer(values, DTYPES[told.dataType]).reshape(shape)
        return np.array(values, DTYPES[told.dataType]).reshape(shape)

    def given(self, operation: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """What an operation takes: tensors, constants, and lists of them where there are several."""
        taken: dict[str, Any] = {}
        for name, argument in operation.inputs.items():
            values = [
                self.value(each.value) if each.WhichOneof('binding') == 'value' else tensors[each.name]
                for each in argument.arguments
            ]
            taken[name] = values if name == 'values' else values[0]
        return taken


def run(folder: Path, image: np.ndarray) -> dict[str, Any]:
    """What a package answers of an array `[1, channels, height, width]`; what is float32 is computed in float64.

    A classifier answers `{label: probability}` under the name of its probabilities, as Core ML does.
    """
    package = Package(folder)
    tensors: dict[str, Any] = {name: _tensor(value) for name, value in package.constants.items()}
    tensors[package.spec.description.input[0].name] = torch.from_numpy(image.astype(np.float64))
    for operation in package.operations:
        taken = package.given(operation, tensors)
        if operation.type == 'classify':
            probabilities = dict(zip(taken['classes'], taken['probabilities'].ravel().tolist(), strict=True))
            best = max(probabilities, key=lambda label: probabilities[label])
            tensors |= {operation.outputs[0].name: best, operation.outputs[1].name: probabilities}
            continue
        made = OPERATIONS[operation.type](**taken)
        (output,) = operation.outputs
        assert list(made.shape) == [each.constant.size for each in output.type.tensorType.dimensions], operation.type
        assert (made.dtype == torch.float16) == (output.type.tensorType.dataType == HALF), operation.type
        tensors[output.name] = made
    answers = {name: tensors[name] for name in package.outputs}
    return {name: np.asarray(value) if torch.is_tensor(value) else value for name, value in answers.items()}


def _tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.ndim and value.dtype in (np.float16, np.float32):
        return torch.from_numpy(value.astype(np.float64 if value.dtype == np.float32 else np.float16))
    return value.item() if isinstance(value, np.ndarray) and not value.ndim else value


def _convolution(x, weight, strides, pad_type, pad, dilations, groups, bias=None):
    assert pad_type in ('valid', 'custom')
    (top, bottom, left, right) = pad.tolist() if pad_type == 'custom' else (0, 0, 0, 0)
    x = functional.pad(x, (left, right, top, bottom))
    return functional.conv2d(x, weight, bias, tuple(strides.tolist()), 0, tuple(dilations.tolist()), groups)


def _slice(x, begin, end, stride=None, begin_mask=None, end_mask=None, squeeze_mask=None):
    assert begin_mask is None or not begin_mask.any()
    assert squeeze_mask is None or not squeeze_mask.any()
    strides = np.ones_like(begin) if stride is None else stride
    ends = end if end_mask is None else np.where(end_mask, x.shape, end)
    return x[tuple(slice(*map(int, each)) for each in zip(begin, ends, strides, strict=True))]


def _pad(x, pad, mode, constant_val):
    assert mode == 'constant'
    pairs = np.reshape(pad, (-1, 2))[::-1]
    return functional.pad(x, pairs.ravel().tolist(), value=constant_val)


def _pool(x, kernel_sizes, strides, pad_type, **others):
    assert pad_type == 'valid'
    assert not others.get('ceil_mode', False)
    return functional.avg_pool2d(x, tuple(kernel_sizes.tolist()), tuple(strides.tolist()))


def _both(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """With numbers as tensors."""
    return lambda x, y: function(*(each if torch.is_tensor(each) else torch.tensor(each) for each in (x, y)))


def _along(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, axes, keep_dims: function(x, dim=tuple(axes.tolist()), keepdim=keep_dims)


def _product(x, axes, keep_dims):
    for axis in sorted(axes.tolist(), reverse=True):
        x = x.prod(axis, keepdim=keep_dims)
    return x


CAST = {'fp16': torch.float16, 'fp32': torch.float64}
OPERATIONS: dict[str, Callable[..., Any]] = {
    'abs': lambda x: x.abs(),
    'add': lambda x, y: x + y,
    'avg_pool': _pool,
    'batch_norm': lambda x, mean, variance, gamma, beta, epsilon: functional.batch_norm(
        x, mean, variance, gamma, beta, eps=epsilon
    ),
    'cast': lambda x, dtype: x.to(CAST[dtype]),
    'ceil': lambda x: x.ceil(),
    'clip': lambda x, alpha, beta: x.clip(alpha, beta),
    'concat': lambda values, axis, interleave=False: torch.cat(values, axis),
    'conv': _convolution,
    'cos': lambda x: x.cos(),
    'erf': lambda x: x.erf(),
    'exp': lambda x: x.exp(),
    'expand_dims': lambda x, axes: x.reshape(np.expand_dims(np.empty(x.shape, bool), tuple(axes.tolist())).shape),
    'floor': lambda x: x.floor(),
    'gather': lambda x, indices, axis, **_: x.index_select(axis, torch.from_numpy(np.asarray(indices, np.int64))),
    'gelu': lambda x, mode: functional.gelu(x, approximate={'EXACT': 'none', 'TANH_APPROXIMATION': 'tanh'}[mode]),
    'identity': lambda x: x,
    'linear': lambda x, weight, bias: functional.linear(x, weight, bias),
    'matmul': lambda x, y, transpose_x, transpose_y: (x.mT if transpose_x else x) @ (y.mT if transpose_y else y),
    'maximum': _both(torch.maximum),
    'minimum': _both(torch.minimum),
    'mul': lambda x, y: x * y,
    'pad': _pad,
    'pow': lambda x, y: x**y,
    'real_div': lambda x, y: x / y,
    'reduce_max': _along(torch.amax),
    'reduce_mean': _along(torch.mean),
    'reduce_min': _along(torch.amin),
    'reduce_prod': _product,
    'reduce_sum': _along(torch.sum),
    'relu': lambda x: functional.relu(x),
    'relu6': lambda x: functional.relu6(x),
    'reshape': lambda x, shape: x.reshape(shape.tolist()),
    'rsqrt': lambda x, epsilon: (x + epsilon).rsqrt(),
    'sigmoid': lambda x: x.sigmoid(),
    'sigmoid_hard': lambda x, alpha, beta: (alpha * x + beta).clip(0, 1),
    'sign': lambda x: x.sign(),
    'sin': lambda x: x.sin(),
    'slice_by_index': _slice,
    'softmax': lambda x, axis: x.softmax(axis),
    'sqrt': lambda x: x.sqrt(),
    'square': lambda x: x.square(),
    'squeeze': lambda x, axes: x.reshape([side for axis, side in enumerate(x.shape) if axis not in axes.tolist()]),
    'sub': lambda x, y: x - y,
    'tanh': lambda x: x.tanh(),
    'tile': lambda x, reps: x.tile(reps.tolist()),
    'transpose': lambda x, perm: x.permute(perm.tolist()),
    'upsample_nearest_neighbor': lambda x, scale_factor_height, scale_factor_width: functional.interpolate(
        x, scale_factor=(float(scale_factor_height), float(scale_factor_width)), mode='nearest'
    ),
}
