"""A step's temporary memory in pieces that malloc keeps."""

import platform
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flaxmobile import create_model
from flaxmobile.data import Preprocessing
from flaxmobile.inspection.rehearsal import random_batch, rehearse, repeated
from flaxmobile.training import compiled
from flaxmobile.training.compiled import KEPT, SMALLEST, compile_step
from flaxmobile.training.state import initial_variables
from flaxmobile.weights import Model

PIECE = 'xla_multiheap_size_constraint_per_heap'
MEGABYTE = 2**20


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """`.ci/run` keeps compiled programs on disk, which are whole."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', None)
    compilation_cache.reset_cache()
    yield
    jax.config.update('jax_compilation_cache_dir', before)
    compilation_cache.reset_cache()


def page_faults(call: Callable[[], Any]) -> int:
    """The fewest of several calls: `malloc` keeps memory by thread, and a thread that is new to the step has none."""
    faults = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        call()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(faults)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason="it is glibc's malloc that gives large pieces back")
def test_memory_is_kept_from_step_to_step() -> None:
    model = create_model('mobilenetv1_025')
    variables = initial_variables(model, jax.random.key(0), (1, 64, 64, 3))
    loaded = Model(model, variables, Preprocessing(224))
    step, state, batch = rehearse(loaded, random_batch(loaded, 8))
    whole, pieces = step.lower(state, batch).compile(), compile_step(step, state, batch)
    needed = whole.memory_analysis().temp_size_in_bytes
    assert pieces.memory_analysis().temp_size_in_bytes < 1.05 * needed
    programs = {
        name: repeated(each, jax.tree.map(jnp.copy, state), batch) for name, each in (('w', whole), ('p', pieces))
    }
    chex.assert_trees_all_equal(programs['p'](), programs['w']())
    faults = {name: page_faults(call) for name, call in programs.items()}
    assert faults['w'] > needed / resource.getpagesize() / 2
    assert faults['p'] < faults['w'] / 2


@pytest.mark.parametrize(
    ('largest', 'piece'), [(1, SMALLEST), (16 * MEGABYTE, 17 * MEGABYTE), (29 * MEGABYTE, 29 * MEGABYTE * 17 // 16)]
)
def test_a_piece_holds_the_largest_array(largest: int, piece: int) -> None:
    assert compiled._in_pieces(largest) == {PIECE: str(piece)}


def test_arrays_that_malloc_would_not_keep_are_left_alone() -> None:
    assert compiled._in_pieces(KEPT) is None


def test_arrays_of_calls_within_calls_count() -> None:
    def scanned(values: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda sum_, value: (sum_ + jnp.outer(value, value).sum(), None), 0.0, values)[0]

    program = jax.make_jaxpr(jax.jit(scanned))(jnp.ones((3, 100)))
    assert max(compiled._sizes(program)) == 4 * 100 * 100


def test_a_program_that_is_kept_on_disk_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA writes none whose memory is in pieces."""
    asked: list[float] = []
    monkeypatch.setattr(compiled, '_in_pieces', asked.append)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update('jax_compilation_cache_dir', str(tmp_path))
    try:
        compile_step(jax.jit(jnp.add), jnp.ones(3), jnp.ones(3))
    finally:
        jax.config.update('jax_compilation_cache_dir', before)
    assert asked == []


def test_devices_share_the_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(compiled, '_in_pieces', asked.append)
    sharding = jax.NamedSharding(jax.make_mesh((jax.device_count(),), ('data',)), jax.P())
    batch = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=sharding)
    compile_step(jax.jit(jnp.matmul), batch, batch)
    assert asked == [4 * 64 * 64 / jax.device_count()]
