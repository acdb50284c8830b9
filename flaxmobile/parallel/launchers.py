"""Whether a launcher started several processes, by what it left in the environment."""

import os
import re
import warnings
from typing import Any

from flaxmobile.messages import printable
from flaxmobile.parallel import runtime

_ADDRESS, _COUNT, _NUMBER = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
_HOST_AND_PORT = re.compile(r'(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s:/\[\]]+):([0-9]{1,5})')
_WHOLE = re.compile('[0-9]{1,18}')
_OF_CLUSTERS = {
    'slurm': ('SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_JOB_ID'),
    'ompi': ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
"""Whole numbers that JAX reads: how many processes there are, which this is, and more."""


def launched() -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize` where a launcher started several processes; None where it did not.

    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` go first; else TPU, SLURM, Open MPI and
    Kubernetes are asked, as JAX knows them.

    Raises:
        ValueError: one of the variables is missing or has a value that it cannot have; the message names it.
    """
    if any(variable in os.environ for variable in (_ADDRESS, _COUNT, _NUMBER)):
        return _by_environment()
    try:
        kind = runtime.find_cluster()
        if kind and (variables := _OF_CLUSTERS.get(kind.name)):
            _check_place(*variables)
        if kind is None or kind.get_process_count() == 1:
            return None
    except OSError as error:  # A TPU outside Google's cloud, whose server of metadata is not there.
        warnings.warn(
            f'could not find out whether this host is one of several, so it goes on alone: {error}', stacklevel=2
        )
        return None
    _check_devices()
    return {}


def _by_environment() -> dict[str, Any] | None:
    address = os.environ.get(_ADDRESS)
    found = _HOST_AND_PORT.fullmatch(address or '')
    if not found or not 0 < int(found[1]) < 1 << 16:
        raise _wrong(_ADDRESS, 'the host and port of process 0, as in node-1:1234')
    count, number = _check_place(_COUNT, _NUMBER)
    if count == 1:
        return None
    _check_devices()
    return {'num_processes': count, 'process_id': number}


def _check_place(count: str, number: str, *others: str) -> tuple[int, int]:
    """How many processes there are and which this is, by those two variables; `others` have to be whole numbers too."""
    for variable in (count, number, *others):
        if not _WHOLE.fullmatch(os.environ.get(variable, '')):
            raise _wrong(variable, f'a whole number, {1 if variable == count else 0} or more')
    of, which = int(os.environ[count]), int(os.environ[number])
    if of < 1:
        raise _wrong(count, 'a whole number, 1 or more')
    if which >= of:
        raise _wrong(number, f'less than {count}, which is {of}: processes are numbered from 0 on')
    return of, which


def _check_devices() -> None:
    variable = 'JAX_LOCAL_DEVICE_IDS'
    given = os.environ.get(variable, '')
    if given and not all(_WHOLE.fullmatch(part.strip()) for part in given.split(',')):
        raise _wrong(variable, "whole numbers with commas between, this process's devices")


def _wrong(variable: str, allowed: str) -> ValueError:
    given = os.environ.get(variable)
    advice = f'; set {_ADDRESS}, {_COUNT} and {_NUMBER}, or none of them' if variable.startswith('JAX_') else ''
    said = 'is not set' if given is None else f"is '{printable(given)}'"
    return ValueError(f'{variable} {said}: it has to be {allowed}{advice}')
