"""A training step compiled for the devices that its state and batch are on."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxprs_in_params

from flaxmobile.models.inference import is_known

KEPT = 31 * 2**20
"""Bytes: the largest piece of memory that glibc's `malloc` keeps when it is freed, less what alignment takes."""
SMALLEST = 8 * 2**20
"""Bytes of a piece where the arrays are small: smaller pieces gain no more."""
MARGIN = 17 / 16
"""What XLA's arrays have more than those of the traced program: padding."""


def compile_step(step: jax.stages.Wrapped, state: Any, *batches: Any) -> jax.stages.Compiled:
    """Compile `step` for such a state and such batches, arrays or their shapes with shardings.

    On a CPU XLA asks for the temporary memory of a program as one piece, at every call. A piece over 32 MiB glibc's
    `malloc` gives back to the system when it is freed, and mapping it anew is a third of a step. As several pieces no
    larger than it has to be for the largest array it is kept, where that array is small enough. XLA cannot write such a
    program to disk, so it stays whole where JAX keeps compiled programs (`jax_compilation_cache_dir`).
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
    """The compiler's options for temporary memory in pieces, where arrays of `largest` bytes allow them."""
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
