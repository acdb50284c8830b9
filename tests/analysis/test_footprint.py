"""Collectives in the text of programs, worked by hand; the rest against a product of known size."""

import jax
import jax.numpy as jnp
import pytest

from flaxmobile.analysis.footprint import Collective, Memory, collectives, footprint

PROGRAM = """
  %all-reduce.1 = f32[2,32]{1,0} all-reduce(f32[2,32]{1,0} %stack), replica_groups={{0,1}}, to_apply=%add
  %all-reduce-start = (f32[8]{0:T(256)}, bf16[4,4]{1,0}) all-reduce-start(%a, %b), channel_id=2
  %done = (f32[8]{0:T(256)}, bf16[4,4]{1,0}) all-reduce-done(%all-reduce-start)
  %all-gather-start = (s8[2]{0}, s8[16]{0}) all-gather-start(%c), dimensions={0}
  %permute = pred[3]{0} collective-permute(%d), source_target_pairs={{0,1}}
  %fusion = f32[2]{0} fusion(%all-reduce.1), metadata={op_name="all-reduce(x)"}
"""


def test_collectives_of_a_program() -> None:
    assert collectives(PROGRAM) == (
        Collective('all-reduce', 2, 4 * 64 + 4 * 8 + 2 * 16),
        Collective('all-gather', 1, 16),
        Collective('collective-permute', 1, 3),
    )


def test_memory_without_what_is_written_in_place() -> None:
    assert Memory(arguments=10, outputs=7, aliased=5, temporaries=3, code=1).total == 16


def test_a_product() -> None:
    """[64, 32] times [32, 16]: two FLOPs a multiply-add; both read and the result written."""
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((64, 32), (32, 16))]
    needed = footprint(jax.jit(jnp.dot).lower(*shapes).compile())
    assert needed.flops == pytest.approx(2 * 64 * 32 * 16, rel=0.01)
    assert needed.bytes_moved == pytest.approx(4 * (64 * 32 + 32 * 16 + 64 * 16), rel=0.01)
    assert (needed.memory.arguments, needed.memory.outputs) == (4 * (64 * 32 + 32 * 16), 4 * 64 * 16)
    assert needed.collectives == ()
