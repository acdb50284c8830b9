"""Several processes as one program, by JAX's distributed runtime: when it is started, and what is said of a lost one.

JAX finds the processes, moves data between them and listens for their heartbeats; nothing of that is done here.
"""

import ctypes
import functools
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import jax
import numpy as np
from jax._src import clusters
from jax._src import distributed as runtime  # Its key-value store has no public name.
from jax.experimental import multihost_utils

from flaxmobile.messages import printable

LOST = 75
"""Exit status of a process that ends because another one failed, died or hangs (EX_TEMPFAIL of sysexits.h)."""
BOUND = 100
"""Seconds within which all processes end once one died or hangs: JAX's heartbeat timeout. All but a hanging coordinator
is found out in less than half of it."""
_KEY = 'flaxmobile/'
_GRACE = 3  # Seconds that process 0 stays for the others to hear what it says.
_PATIENCE = 3  # So many times BOUND processes wait for each other at the start.
_ADDRESS, _COUNT, _NUMBER = 'JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'
_HOST_AND_PORT = re.compile(r'(?:\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\s:/\[\]]+):([0-9]{1,5})')
_WHOLE = re.compile('[0-9]{1,18}')
_OF_CLUSTERS = {
    'slurm': ('SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_JOB_ID'),
    'ompi': ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
"""Whole numbers that JAX reads: how many processes there are, which this is, and more."""
Describe = Callable[[BaseException], tuple[int, str]]


@contextmanager
def joined(describe: Describe, advice: str = '', *, stoppable: bool = False) -> Iterator[None]:
    """Be one of several processes in the body, where a launcher says that this one is; else do nothing at all.

    An error in one process, its death and its silence end the others too, with what is known of it on stderr and the
    exit status `LOST`. To be entered before JAX has touched a device.

    Args:
        describe: gives the exit status and the text for people of what the body raised.
        advice: what people are told to do when a process was lost.
        stoppable: whether `asked` is called in the body; SIGTERM ends the process at once if not.

    Raises:
        ValueError: what the environment says of the processes is wrong or not all that is needed.
    """
    arguments = launched()
    if arguments is None:
        yield
        return
    ended, names = None, list[str]()
    try:
        jax.config.update('jax_enable_preemption_service', stoppable)
        leave = _connect(arguments, names, advice)
        try:
            yield
        except SystemExit as one:
            ended = one
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if 0 < status < 128:
                _fail(status, f'it ended with exit status {status}')
        leave()
    except BaseException as error:
        status, text = describe(error)
        if isinstance(error, Exception):
            _await_the_others(error, names, advice)
        print(f'{text} [{_here()}]', file=sys.stderr, flush=True)
        _fail(status, text)
    if ended is not None:
        raise ended


def launched() -> dict[str, Any] | None:
    """The arguments of `jax.distributed.initialize` where a launcher started several processes; None where it did not.

    `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` go first; else TPU, SLURM, Open MPI and
    Kubernetes are asked, as JAX knows them.

    Raises:
        ValueError: one of the variables is missing or has a value that it cannot have; the message names it.
    """
    if any(variable in os.environ for variable in (_ADDRESS, _COUNT, _NUMBER)):
        return _by_environment()
    # In a pod that is not one of a job JAX would warn, or fail.
    foreign = () if 'JOB_COMPLETION_INDEX' in os.environ else (clusters.K8sCluster,)
    kinds = [kind for kind in clusters.ClusterEnv._cluster_types if not kind.opt_in_only_method and kind not in foreign]
    try:
        kind = next((kind for kind in kinds if kind.is_env_present()), None)
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


def from_first(value: Any) -> Any:
    """Process 0's `value`, which JSON can hold, on every process: what each sees of a shared file may differ."""
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    told = content if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(told), np.uint8)))


def check_alike(**facts: object) -> None:
    """Wait until all processes are here, and see that they were given the same.

    Raises:
        ValueError: one of `facts` differs between them.
    """
    if jax.process_count() == 1:
        return
    ours = np.array([zlib.crc32(repr(fact).encode()) for fact in facts.values()], np.uint32)
    for name, sums in zip(facts, multihost_utils.process_allgather(ours).T, strict=True):
        differing = np.flatnonzero(sums != sums[0])
        if len(differing):
            raise ValueError(
                f'process {differing[0]} and process 0 have different {name.replace("_", " ")}: start all processes '
                'with the same command, on the same data'
            )


def asked(received: list[int], step: int) -> int | None:
    """The signal for which to stop after `step`, which all processes are told after the same one; None to go on.

    Call it after every step. `received` are the signals that this process heard itself.
    """
    if jax.process_count() == 1:
        return received[0] if received else None
    if multihost_utils.reached_preemption_sync_point(step):
        return received[0] if received else signal.SIGTERM
    return None


def checksum(tree: Any) -> int:
    """A number that says whether trees of arrays are the same, bit for bit."""
    return functools.reduce(lambda sum, leaf: zlib.crc32(np.asarray(leaf).tobytes(), sum), jax.tree.leaves(tree), 0)


def _connect(arguments: dict[str, Any], names: list[str], advice: str) -> Callable[[], None]:
    """Join the other processes, name them in `names` and keep an eye on them.

    What is returned waits for all, and leaves them.
    """
    handler = _answer_abort(names, advice)
    try:
        jax.distributed.initialize(
            heartbeat_timeout_seconds=BOUND, initialization_timeout=_PATIENCE * BOUND, **arguments
        )
    except jax.errors.JaxRuntimeError as error:
        raise ConnectionError(f'the processes of this run cannot be joined: {error}') from error
    client: Any = runtime.global_state.client
    number, count = runtime.global_state.process_id, runtime.global_state.num_processes
    names += [f'process {other} of {count}' for other in range(count)]
    client.key_value_set(f'{_KEY}host/{number}', socket.gethostname())
    for other in range(count):
        try:
            names[other] += f' on {client.blocking_key_value_get(f"{_KEY}host/{other}", 450 * BOUND)}'
        except jax.errors.JaxRuntimeError:
            lost = names[other if number == 0 or _coordinator_answers() else 0]
            _end(f'{lost} died or hangs: it was not heard of once all had come{advice}')
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(client, names, advice, done), daemon=True)
    watch.start()

    def leave(_: Any = handler) -> None:  # C holds no reference to it.
        client.wait_at_barrier(f'{_KEY}done', 3_600_000)
        done.set()
        watch.join()  # A client that is asked while it shuts down crashes.
        jax.distributed.shutdown()

    return leave


def _by_number(client: Any, what: str) -> dict[int, str]:
    return {int(key.rsplit('/')[-1]): value for key, value in client.key_value_dir_get(f'{_KEY}{what}/')}


def _watch(client: Any, names: Sequence[str], advice: str, done: threading.Event) -> None:
    """Show life, and end this process once it is said that another one failed.

    Process 0 says it of those that show no life, before JAX's runtime aborts all processes for it and names none.
    """
    # The runtime speaks after half of the bound at the earliest.
    number, silence = runtime.global_state.process_id, 0.3 * BOUND
    seen = {other: ('', time.monotonic()) for other in range(1, len(names))}
    for tick in itertools.count():
        if done.wait(BOUND / 100):
            return
        with suppress(jax.errors.JaxRuntimeError):  # The coordinator is gone, and JAX's runtime will say so.
            if said := _by_number(client, 'failed'):
                # This one may be about to say more of itself; the others hear it from process 0.
                time.sleep(1 if number else _GRACE)
                _end(f'{said[0]}{advice}')
            if number:
                client.key_value_set(f'{_KEY}life/{number}', str(tick), allow_overwrite=True)
                continue
            now = time.monotonic()
            seen |= {other: (beat, now) for other, beat in _by_number(client, 'life').items() if seen[other][0] != beat}
            if dead := [names[other] for other, (_, last) in seen.items() if now - last > silence]:
                verdict = f'{" and ".join(dead)} died or hangs: not heard of for {silence:.0f} seconds'
                client.key_value_set(f'{_KEY}failed/0', verdict)


def _answer_abort(names: Sequence[str], advice: str) -> Any:
    """Say more where JAX's runtime aborts this process, as it does when it does not find or has lost the coordinator.

    The runtime has no other way to tell: a callback of ours it cannot call (its status has no form in Python).
    """

    def answer(number: int) -> None:
        if not names:
            address, seconds = runtime.global_state.coordinator_address, _PATIENCE * BOUND
            _end(f'not all processes came to {address} within {seconds} seconds; were all of them started?')
        if runtime.global_state.process_id and not _coordinator_answers():
            _end(f'{names[0]} died or hangs: it answers no more{advice}')

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(answer)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    return handler


def _coordinator_answers() -> bool:
    answered = threading.Event()

    def ask() -> None:
        client: Any = runtime.global_state.client
        with suppress(jax.errors.JaxRuntimeError):
            client.key_value_try_get(f'{_KEY}host/0')
            answered.set()

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(2)


def _await_the_others(error: Exception, names: Sequence[str], advice: str) -> None:
    """Return once all other processes have shown that they live after `error` came up.

    Until then one of them may be its cause: `_watch` ends this process when it is known which, and so does JAX's
    runtime where it is process 0. No kind of error tells: of some that Gloo has, JAX makes a ValueError.
    """
    client: Any = runtime.global_state.client
    if client is None or not names:  # It has not come so far that others could be the cause.
        return
    start, told = time.monotonic(), False
    silent = set(range(len(names))) - {runtime.global_state.process_id}
    first: dict[int, int] = {}
    while time.monotonic() - start < BOUND + _GRACE:
        with suppress(jax.errors.JaxRuntimeError):  # Process 0 does not answer.
            beats = {other: int(beat) for other, beat in _by_number(client, 'life').items()}
            first = first or {other: beats.get(other, -1) for other in silent}
            # The first beat to come may have been under way when its process died. Process 0 has answered.
            silent = {other for other in silent if other and beats.get(other, -1) < first[other] + 2}
        if not silent:
            return
        if not told and time.monotonic() - start > 5 * BOUND / 100:
            told = True
            reason = f'{printable(error)}; waiting to hear which process is lost'
            print(f'flaxmobile: {reason} [{_here()}]', file=sys.stderr, flush=True)
        time.sleep(BOUND / 500)
    _end(f'{" and ".join(names[other] for other in sorted(silent))} died or hangs: it answers no more{advice}')


def _end(text: str) -> NoReturn:
    sys.stdout.flush()
    print(f'flaxmobile: {text} [{_here()}]', file=sys.stderr, flush=True)
    os._exit(LOST)  # Not by way of a shutdown, which would wait for all processes.


def _fail(status: int, text: str) -> NoReturn:
    """Tell the others why this process ends, and end it."""
    sys.stdout.flush()
    client: Any = runtime.global_state.client
    if client is not None:
        with suppress(jax.errors.JaxRuntimeError):  # Another one was first.
            client.key_value_set(f'{_KEY}failed/0', f'{_here()} failed: {text}')
        if runtime.global_state.process_id == 0:
            time.sleep(_GRACE)  # The others hear it from here.
    os._exit(status)


def _here() -> str:
    return (
        f'process {runtime.global_state.process_id} of {runtime.global_state.num_processes} on {socket.gethostname()}'
    )
