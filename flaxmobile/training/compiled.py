"""A training step compiled for the devices that hold its state and batch."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxprs_in_params

from flaxmobile.models.inference import is_known

KEPT = 31 * 2**20
"""Bytes of the largest piece of memory that glibc's `malloc` keeps when it is freed, minus room for alignment."""
SMALLEST = 8 * 2**20
"""Bytes of the smallest piece to ask for: smaller ones gained nothing more."""
MARGIN = 17 / 16
"""Factor from the bytes of an array in the traced program to those in XLA's program, which pads arrays."""


def compile_step(step: jax.stages.Wrapped, state: Any, *batches: Any) -> jax.stages.Compiled:
    """Compile `step` for such a state and such batches, arrays or their shapes with shardings.

    On a CPU, XLA allocates the temporary memory of a program as one piece at every call. When a piece over 32 MiB is
    freed, glibc's `malloc` returns it to the system, and the next call maps it again, which takes about a third of a
    step (docs/performance.md). `malloc` keeps smaller pieces. If the largest array of the step fits into such a piece,
    the step is compiled to allocate its memory in pieces just large enough for that array. XLA cannot write such a
    program to disk, so the memory stays in one piece where JAX keeps compiled programs on disk
    (`jax_compilation_cache_dir`).
    """
    traced = step.trace(state, *batches)
    devices = jax.tree.leaves(state)[0].sharding.device_set
    largest = max(_sizes(traced.jaxpr)) / len(devices)
    on_a_cpu = {device.platform for device in devices} == {'cpu'}
    options = _in_pieces(largest) if on_a_cpu and not _are_kept_on_disk() else None
    return traced.lower().compile(compiler_options=options)


def _are_kept_on_disk() -> bool:
    config: Any = jax.config
    return bool(config.jax_enable_compilation_cache and config.jax_compilation_cache_dir)


def _in_pieces(largest: float) -> dict[str, str] | None:
    """The compiler's options for temporary memory in pieces; None if an array of `largest` bytes is too large."""
    options = {'xla_multiheap_size_constraint_per_heap': str(max(SMALLEST, int(largest * MARGIN)))}
    return options if largest * MARGIN <= KEPT and is_known(options) else None


def _sizes(program: ClosedJaxpr | Jaxpr) -> Iterator[int]:
    """Bytes of the arrays that a program computes."""
    for equation in program.eqns:
        for variable in equation.outvars:
            aval: Any = variable.aval
            yield aval.size * aval.dtype.itemsize
        for inner in jaxprs_in_params(equation.params):
            yield from _sizes(inner)
