"""Several processes as one program, by JAX's distributed runtime. If one process is lost, the others name it and end.

JAX finds the processes and moves data between them. Each process here writes signs of life to JAX's key-value store,
because JAX's own heartbeat ends the processes without naming the lost one.
"""

import ctypes
import functools
import itertools
import json
import os
import signal
import socket
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxmobile.messages import printable
from flaxmobile.parallel import runtime
from flaxmobile.parallel.launchers import launched

LOST = 75
"""Exit status of a process that ends because another one failed, died or hangs (EX_TEMPFAIL of sysexits.h)."""
BOUND = 100
"""Seconds within which all processes end after one died or hangs: JAX's heartbeat timeout. The signs of life that are
written here show it in less than half of that time."""
_KEY = 'flaxmobile/'
_SILENCE = 0.3  # A process without a sign of life for this share of BOUND is lost.
_GRACE = 3  # Seconds that process 0 waits before it ends, so that the others can read its message.
_PATIENCE = 3  # At the start, processes wait for each other this many times BOUND.
Describe = Callable[[BaseException], tuple[int, str]]


@contextmanager
def joined(describe: Describe, advice: str = '', *, stoppable: bool = False) -> Iterator[None]:
    """In the body, this process is joined with the others that a launcher started. Without a launcher nothing is done.

    If one process has an error, dies or hangs, the others end too, with a message on stderr that names it and says why,
    and with the exit status `LOST`. Enter this before JAX uses a device.

    Args:
        describe: returns the exit status and the message for what the body raised.
        advice: is added to the message when a process was lost.
        stoppable: whether the body calls `asked`. Without it SIGTERM ends the process at once.

    Raises:
        ValueError: the launcher's environment variables are wrong or incomplete.
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


def from_first(value: Any) -> Any:
    """The `value` of process 0 on every process. JSON must be able to hold it.

    Use it for what is read from a shared file: the processes may see different versions of it.
    """
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    told = content if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(told), np.uint8)))


def check_alike(**facts: object) -> None:
    """Wait for all processes, and check that each got the same `facts`.

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
    """The signal because of which to stop after `step`; None to go on. All processes get it after the same step.

    Call it after every step. `received` are the signals that this process received itself.
    """
    if jax.process_count() == 1:
        return received[0] if received else None
    if multihost_utils.reached_preemption_sync_point(step):
        return received[0] if received else signal.SIGTERM
    return None


def checksum(tree: Any) -> int:
    """A CRC-32 of all arrays of a tree: equal trees have equal numbers."""
    return functools.reduce(lambda sum, leaf: zlib.crc32(np.asarray(leaf).tobytes(), sum), jax.tree.leaves(tree), 0)


def _connect(arguments: dict[str, Any], names: list[str], advice: str) -> Callable[[], None]:
    """Join the other processes, write their names into `names` and start to watch them.

    Returns a function that waits for all processes and leaves them.
    """
    _delay_abort()
    late = threading.Timer(_PATIENCE * BOUND, _end_alone)
    late.daemon = True
    late.start()
    try:  # JAX's own limit has to be later than ours: it ends the process without naming the address.
        jax.distributed.initialize(
            heartbeat_timeout_seconds=BOUND, initialization_timeout=(_PATIENCE + 1) * BOUND, **arguments
        )
    except jax.errors.JaxRuntimeError as error:
        raise ConnectionError(f'the processes of this run cannot be joined: {error}') from error
    finally:
        late.cancel()
    client, (number, count) = _store(), runtime.place()
    names += [f'process {other} of {count}' for other in range(count)]
    done, heard = threading.Event(), threading.Event()
    threads = [
        threading.Thread(target=watch, args=(client, names, advice, done, heard), daemon=True)
        for watch in ((_watch, _watch_coordinator) if number else (_watch,))
    ]
    for thread in threads:
        thread.start()
    client.key_value_set(f'{_KEY}host/{number}', socket.gethostname())
    for other in range(count):
        try:
            names[other] += f' on {client.blocking_key_value_get(f"{_KEY}host/{other}", 450 * BOUND)}'
        except runtime.Unanswered:
            lost = names[other if number == 0 or _coordinator_answers() else 0]
            _end(f'{lost} died or hangs: it was not heard of once all had come{advice}')

    def leave() -> None:
        client.wait_at_barrier(f'{_KEY}done', 3_600_000)
        done.set()
        for thread in threads:
            thread.join()  # A call to a client that shuts down crashes.
        jax.distributed.shutdown()

    return leave


def _delay_abort() -> None:
    """Delay an abort of this process by some seconds, in which the watching threads can say why it ends.

    JAX's runtime aborts a process as soon as it loses process 0, and has no callback that Python can use. The signal's
    handler is libc's own `sleep`, which POSIX allows in a handler; no Python runs in it. Its argument is the signal's
    number, SIGABRT = 6. So the process ends by the signal 6 seconds later, if nothing has ended it before.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


def _end_alone() -> None:
    _end(
        f'not all processes came to {runtime.coordinator()} within {_PATIENCE * BOUND} seconds; were all of them '
        'started?'
    )


def _store() -> Any:
    store = runtime.store()
    if store is None:
        raise RuntimeError('this process is not connected to others')
    return store


def _by_number(client: Any, what: str) -> dict[int, str]:
    return {int(key.rsplit('/')[-1]): value for key, value in client.key_value_dir_get(f'{_KEY}{what}/')}


def _watch(client: Any, names: Sequence[str], advice: str, done: threading.Event, heard: threading.Event) -> None:
    """Write signs of life, and end this process when another one has failed, died or hangs.

    Process 0 names the processes that give no sign of life, before JAX's runtime aborts all processes without naming
    any. The other processes set `heard` whenever process 0 has answered, and name it when its store is gone.
    """
    # JAX's runtime ends the processes after half of BOUND at the earliest.
    number, silence = runtime.place()[0], _SILENCE * BOUND
    seen = {other: ('', time.monotonic()) for other in range(1, len(names))}
    answered = time.monotonic()
    for tick in itertools.count():
        if done.wait(BOUND / 100):
            return
        try:
            if said := _by_number(client, 'failed'):
                # This process may be about to report its own error; the others get it from process 0.
                time.sleep(1 if number else _GRACE)
                _end(f'{said[0]}{advice}')
            if number:
                client.key_value_set(f'{_KEY}life/{number}', str(tick), allow_overwrite=True)
                answered = time.monotonic()
                heard.set()
                continue
            now = time.monotonic()
            seen |= {other: (beat, now) for other, beat in _by_number(client, 'life').items() if seen[other][0] != beat}
            if dead := [names[other] for other, (_, last) in seen.items() if now - last > silence]:
                verdict = f'{" and ".join(dead)} died or hangs: not heard of for {silence:.0f} seconds'
                client.key_value_set(f'{_KEY}failed/0', verdict)
        except runtime.Unanswered:
            if number and time.monotonic() - answered > _GRACE:
                _end(f'{names[0]} died or hangs: it answers no more{advice}')


def _watch_coordinator(
    _: Any, names: Sequence[str], advice: str, done: threading.Event, heard: threading.Event
) -> None:
    """End this process when process 0 is gone or hangs. A call to its store may not return then, so `_watch` cannot.

    Ticks are counted, not seconds, because this process may have been stopped for a while itself.
    """
    missed = 0
    while missed < 100 * _SILENCE:
        if done.wait(BOUND / 100):
            return
        missed = 0 if heard.is_set() else missed + 1
        heard.clear()
        if missed > 1 and _is_gone():
            break
    _end(f'{names[0]} died or hangs: it answers no more{advice}')


def _is_gone() -> bool:
    """Whether nothing listens at the address of process 0 any more. No answer within a second is no proof of it."""
    host, _, port = (runtime.coordinator() or '').rpartition(':')
    try:
        socket.create_connection((host.strip('[]'), int(port)), timeout=1).close()
    except (TimeoutError, socket.gaierror, ValueError):
        return False
    except OSError:
        return True
    return False


def _coordinator_answers() -> bool:
    answered = threading.Event()

    def ask() -> None:
        with suppress(runtime.Unanswered):
            _store().key_value_try_get(f'{_KEY}host/0')
            answered.set()

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(2)


def _await_the_others(error: Exception, names: Sequence[str], advice: str) -> None:
    """Return when all other processes have given a sign of life after `error` was raised.

    Until then a lost process may be the cause of `error`, and `_watch` ends this process when it knows which one. The
    type of the error does not tell: JAX turns some errors of Gloo into a ValueError.
    """
    client = runtime.store()
    if client is None or not names:  # Not joined yet, so another process cannot be the cause.
        return
    start, told = time.monotonic(), False
    silent = set(range(len(names))) - {runtime.place()[0]}
    first: dict[int, int] = {}
    while time.monotonic() - start < BOUND + _GRACE:
        with suppress(runtime.Unanswered):  # Process 0 does not answer.
            beats = {other: int(beat) for other, beat in _by_number(client, 'life').items()}
            first = first or {other: beats.get(other, -1) for other in silent}
            # The first sign of life may have been sent before its process died, so two are needed. Process 0 answered.
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
    os._exit(LOST)  # A regular exit would wait for all processes.


def _fail(status: int, text: str) -> NoReturn:
    """Write to the others why this process ends, and end it."""
    sys.stdout.flush()
    client = runtime.store()
    if client is not None:
        with suppress(runtime.Unanswered):  # Another process has already failed.
            client.key_value_set(f'{_KEY}failed/0', f'{_here()} failed: {text}')
        if runtime.place()[0] == 0:
            time.sleep(_GRACE)  # The others read it from this process.
    os._exit(status)


def _here() -> str:
    number, count = runtime.place()
    return f'process {number} of {count} on {socket.gethostname()}'
