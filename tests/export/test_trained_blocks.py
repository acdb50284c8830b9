"""Blocks that round as int8 does in JAX, and in LiteRT: equal numbers but for single steps."""

import collections
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from benchmarks.random_variables import random_variables
from flaxmobile import ops
from flaxmobile.export.litert.conversion import convert
from flaxmobile.export.program import Program
from flaxmobile.export.quantizers import marked
from flaxmobile.layers import InvertedResidual, MultiQueryAttention
from flaxmobile.quantization import Quantized, quantized_variables
from flaxmobile.quantization.network import ranges_of
from flaxmobile.quantization.rounding import affine

pytestmark = pytest.mark.export

HARD_SWISH = {'activation': 'hard_swish', 'squeeze_excite': True, 'kernel_size': 5}
BLOCKS: dict[str, tuple[Any, int]] = {
    'a sum': (InvertedResidual(features=24), 28),
    'squeeze-excite': (InvertedResidual(features=24, expansion_ratio=4, **HARD_SWISH), 14),
    'attention': (MultiQueryAttention(heads=4, key_features=16, key_strides=2, layer_scale=0.5), 12),
}
CHANNELS = 24


class Alone(nn.Module):
    """A block as a network of maps."""

    block: nn.Module

    @nn.compact
    def __call__(self, maps: jax.Array) -> jax.Array:
        return self.block(maps)


def in_litert(content: bytes, maps: np.ndarray) -> tuple[np.ndarray, collections.Counter]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner('serving_default')
    answers = np.concatenate([runner(image=each[None])['maps'] for each in maps])
    return answers, collections.Counter(each['op_name'] for each in interpreter._get_ops_details())


@pytest.mark.parametrize('name', BLOCKS)
def test_a_block_answers_as_in_jax_to_a_step(name: str) -> None:
    block, side = BLOCKS[name]
    network, shape = Alone(block), (4, side, side, CHANNELS)
    variables = random_variables(network, (1, *shape[1:]))
    maps = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    module, quantized = Quantized(network), quantized_variables(network, variables, [maps])
    wanted = np.asarray(jax.jit(module.apply)(quantized, maps))
    held = jax.tree.map(np.asarray, quantized)
    function = ops.standard(lambda maps: (marked(module, held, maps),))
    program = Program(function, jax.ShapeDtypeStruct((1, *shape[1:]), np.float32), ('maps',), True)
    answers, operations = in_litert(convert(program, {}), maps)
    scale = affine(*ranges_of(held)['block/residual/output'])[0]
    steps = np.rint((answers - wanted) / scale)
    assert operations['DELEGATE'] == 1
    assert np.abs(steps).max() <= 1
    assert np.mean(steps == 0) >= 0.995
