"""TPUs that need not be there: what a chip has, and devices of a slice that a program can be compiled for.

libtpu compiles for a topology on a machine without one: JAX's ahead-of-time compilation.
"""

import importlib.util
import os
import re
from typing import NamedTuple

import jax


class Chip(NamedTuple):
    """What one chip has.

    Attributes:
        memory: bytes of HBM.
        bandwidth: bytes a second between HBM and the cores.
        peak: FLOPs a second in bfloat16.
        cores: devices that JAX sees of a chip; they share its memory, bandwidth and peak.
        example: a slice of four chips.
    """

    memory: float
    bandwidth: float
    peak: float
    cores: int
    example: str


CHIPS = {
    'v4': Chip(32e9, 1228e9, 275e12, 2, '2x2x1'),
    'v5e': Chip(16e9, 819e9, 197e12, 1, '2x2'),
    'v5p': Chip(95e9, 2765e9, 459e12, 1, '2x2x1'),
    'v6e': Chip(32e9, 1640e9, 918e12, 1, '2x2'),
}
"""By generation, as its maker publishes it."""

# Without these libtpu waits for the cloud's metadata server to say what machine this is, and serves one process alone.
ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


class Slice(NamedTuple):
    """A slice of a TPU: its name, what a chip of it has, and its devices, which can be compiled for and not run."""

    name: str
    chip: Chip
    devices: list[jax.Device]

    @property
    def chips(self) -> int:
        """How many."""
        return len(self.devices) // self.chip.cores


def open_slice(target: str) -> Slice:
    """The slice that `tpu:GENERATION:SHAPE` names, as `tpu:v5e:2x2`; the shape is in chips.

    Sets what libtpu reads of the environment where it is not set.

    Raises:
        ModuleNotFoundError: libtpu is not installed.
        ValueError: there is no such slice.
    """
    examples = [f'tpu:{name}:{chip.example}' for name, chip in CHIPS.items()]
    found = re.fullmatch(r'tpu:(\w+):(\d+x\d+(?:x\d+)?)', target)
    if not found or found[1] not in CHIPS:
        raise ValueError(f'unknown target {target!r}: there are {", ".join(examples)}, and other shapes named alike')
    if importlib.util.find_spec('libtpu') is None:
        raise ModuleNotFoundError(f"compiling for {target} needs libtpu: pip install 'flaxmobile[tpu]'", name='libtpu')
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(platform='tpu', topology_name=f'{found[1]}:{found[2]}')
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise ValueError(f'{target} is no slice that libtpu knows ({error}); try {", ".join(examples)}') from error
    return Slice(target, CHIPS[found[1]], list(topology.devices))


def compile_for(piece: Slice, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compile a program that was lowered for the devices of a slice.

    Raises:
        ValueError: it needs more memory than a chip has.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        first = str(error).splitlines()[0]
        raise ValueError(f'it does not fit the memory of {piece.name}: take a smaller batch_size. {first}') from error
