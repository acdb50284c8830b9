"""What a float32 network's file has to be: right, of its runtime's own operations, no larger than its parameters."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from flaxmobile.export import Check
from flaxmobile.weights import Model

ERROR = 5e-5
"""Largest error of an answer, as a share of the largest answer."""
SIZE = 0.01
"""Largest difference of a LiteRT or ONNX file's bytes from the parameters', as a share of these.

A file for JAX has a program for each of three platforms besides.
"""
DEPTHWISE = 'DEPTHWISE_CONV_2D'
"""What LiteRT calls a depthwise convolution; in an ONNX file it is a `Conv` in groups."""
PLAIN = {
    '.tflite': {
        *('CONV_2D', DEPTHWISE, 'FULLY_CONNECTED', 'ADD', 'MUL', 'PAD', 'MEAN', 'RESHAPE'),
        *('HARD_SWISH', 'LOGISTIC', 'GELU', 'AVERAGE_POOL_2D', 'SUM'),  # The sum is the mean of one pixel.
    },
    '.onnx': {
        *('Conv', 'Gemm', 'Add', 'Mul', 'GlobalAveragePool', 'Flatten', 'AveragePool'),
        *('Relu', 'Clip', 'HardSwish', 'HardSigmoid', 'Sigmoid', 'Gelu'),
    },
}
"""Operations of a convolutional network. Activations that are no part of a convolution are the runtime's own."""
ATTENTION = {
    '.tflite': {'BATCH_MATMUL', 'SOFTMAX'},
    '.onnx': {'MatMul', 'Softmax', 'Div', 'Reshape', 'Transpose', 'Unsqueeze'},
}
"""Those that attention has besides."""
RMS_NORM = {
    '.tflite': {'RSQRT', 'CONCATENATION', 'SLICE'},
    '.onnx': {'ReduceMean', 'Sqrt', 'Div', 'Concat', 'Resize', 'Gather'},
}
"""Those of MobileNetV5's norms and of its fusion."""
EXACT_GELU = {'SUB', 'NEG', 'DIV', 'MINIMUM', 'MAXIMUM'}
"""Those of LiteRT's polynomial for the exact GELU, of V4 hybrid large, besides `MUL` and `ADD`."""


@dataclasses.dataclass(frozen=True)
class Layers:
    """What of a network shows in its files.

    Attributes:
        size: of the parameters, in bytes.
        depthwise: how many depthwise convolutions it has.
        blurs: how many blur poolings, which an ONNX file has as depthwise convolutions.
        attentions: how many layers of attention.
        rms: whether its norms are root-mean-square ones, which no convolution takes in.
        exact_gelu: whether its activation is the exact GELU, which a LiteRT file has as a polynomial.
    """

    size: int
    depthwise: int
    blurs: int
    attentions: int
    rms: bool
    exact_gelu: bool = False


def layers_of(model: Model) -> Layers:
    """What of a model shows in its files, by the names of its parameters."""
    params = model.variables['params']
    names = [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in jax.tree.leaves_with_path(params)]
    blurred = getattr(model.module, 'anti_aliasing', None) == 'blur'
    kernels = [name.split('/') for name in names if name.endswith('kernel')]
    return Layers(
        size=sum(leaf.nbytes for leaf in jax.tree.leaves(params)),
        depthwise=sum(any(part.startswith('depthwise') for part in name) for name in kernels),
        blurs=sum(block.place.strides > 1 for block in model.module.plan.blocks) if blurred else 0,
        attentions=sum('query' in name for name in kernels),
        rms=model.module.norm == 'rms',
        exact_gelu=getattr(model.module, 'activation', None) == 'gelu',
    )


def depthwise_in(check: Check) -> int:
    """How many depthwise convolutions a file has."""
    if check.path.suffix != '.onnx':
        return check.operations.get(DEPTHWISE, 0)
    import onnx

    return depthwise_nodes(onnx.load(check.path))


def depthwise_nodes(model: Any) -> int:
    """How many convolutions of an ONNX model have as many groups as output channels."""
    channels = {weight.name: weight.dims[0] for weight in model.graph.initializer if weight.dims}
    nodes = [node for node in model.graph.node if node.op_type == 'Conv']
    return sum(
        given.name == 'group' and given.i == channels[node.input[1]] for node in nodes for given in node.attribute
    )


def unexpected(suffix: str, operations: Mapping[str, int], layers: Layers) -> dict[str, int]:
    """The operations that a file of such a network has no need of."""
    allowed = PLAIN[suffix] | (ATTENTION[suffix] if layers.attentions else set())
    allowed |= RMS_NORM[suffix] if layers.rms else set()
    allowed |= {'SLICE'} if layers.blurs else set()
    allowed |= EXACT_GELU if layers.exact_gelu and suffix == '.tflite' else set()
    return {name: count for name, count in operations.items() if name not in allowed}


def wrong_graph(check: Check, layers: Layers) -> list[str]:
    """What is wrong with a file's operations, in words; nothing where all is right, and for JAX."""
    suffix, found = check.path.suffix, []
    if suffix not in PLAIN:
        return []
    wanted = layers.depthwise + (layers.blurs if suffix == '.onnx' else 0)
    if (depthwise := depthwise_in(check)) != wanted:
        found.append(f'{depthwise} depthwise convolutions for {wanted} layers')
    if others := unexpected(suffix, check.operations, layers):
        found.append('has ' + ', '.join(f'{count} {name}' for name, count in others.items()))
    if suffix == '.tflite' and (check.partitions != 1 or check.left_out):
        left = ', '.join(f'{count} {name}' for name, count in check.left_out.items())
        found.append(f'XNNPACK: {check.partitions} pieces, without {left or "nothing"}')
    return found


def faults(check: Check, layers: Layers) -> list[str]:
    """What is wrong with a file, in words; nothing where all is right."""
    found = wrong_graph(check, layers)
    error, size = float('inf') if check.error is None else check.error, check.size / layers.size
    if not error <= ERROR:
        found.append(f'error {error:.1e}, {ERROR:.0e} allowed')
    if check.path.suffix in PLAIN and abs(size - 1) > SIZE:
        found.append(f'{size:.3f} times the size of the parameters')
    return found
