"""Reading ahead, by threads of this process or by worker processes."""

import atexit
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import closing
from multiprocessing import resource_tracker
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

_BATCHES_AHEAD = 2  # Of each worker, besides the one it works on.
_OF_THE_PROGRAM = (signal.SIGINT, signal.SIGTERM)
_UNGUARDED = 77
"""Exit code of a worker whose script would start workers again when it is imported."""
_GUARD = (
    'each worker imports the script of the program first, and this script starts workers while it is imported: put '
    "what it does under `if __name__ == '__main__':`, or take workers=0"
)


def read_ahead(batches: grain.MapDataset, workers: int, threads: int) -> Generator[Any]:
    """The elements of `batches` in their order, made in advance.

    Workers are spawned, never forked, as JAX has threads here; they leave Ctrl-C and SIGTERM to this process and end
    when the iterator is closed or this process does, however it does.

    Args:
        batches: each element a batch.
        workers: processes that make them, each every so many-th; 0 for threads.
        threads: of this process, without workers.

    Raises:
        ChildProcessError: a worker was killed, or the program's script does not keep its work from workers.
    """
    if not workers:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 2)
        return _elements(iter(batches.to_iter_dataset(options)))
    if getattr(multiprocessing.current_process(), '_inheriting', False):  # A worker that imports the script.
        print(_GUARD, file=sys.stderr)
        raise SystemExit(_UNGUARDED)
    elements = _from_workers(batches, workers)
    # At the very end Python no longer has what closing needs.
    atexit.register(_close, weakref.ref(elements))
    return elements


def _close(reference: 'weakref.ref[Generator[Any]]') -> None:
    if elements := reference():
        elements.close()


def _elements(iterator: grain.DatasetIterator) -> Generator[Any]:
    with closing(iterator):
        yield from iterator


def _own(leaf: Any) -> Any:
    # A copy, so that the memory shared with a worker is freed at once, and not when JAX or Python are done with it.
    return np.array(leaf) if isinstance(leaf, np.ndarray) else leaf


def _from_workers(batches: grain.MapDataset, workers: int) -> Generator[Any]:
    if not flags.FLAGS.is_parsed():  # Grain asks for flags of its own, which are for programs that parse absl's.
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_BATCHES_AHEAD)
    each = batches.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    with closing(iter(each.mp_prefetch(options, worker_init_fn=_start))) as iterator:
        try:
            elements = map(functools.partial(jax.tree.map, _own), iterator)
            yield from itertools.chain(_first(elements), elements)
        except RuntimeError as error:
            if 'terminated unexpectedly' not in str(error):
                raise
            if f'exit code {_UNGUARDED}.' in str(error):
                raise ChildProcessError(_GUARD) from None
            raise ChildProcessError(
                f'one of the {workers} workers that read images ended: {error} Where memory ran out, take fewer '
                'workers or a smaller batch; resume=True goes on with a run'
            ) from error


def _first(iterator: Iterator[Any]) -> list[Any]:
    """The first element, if there is one, got by a thread with signals blocked: workers inherit that, and start so."""
    found: Future[list[Any]] = Future()

    def get() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_PROGRAM)
        try:
            found.set_result(list(itertools.islice(iterator, 1)))
        except Exception as error:
            found.set_exception(error)

    resource_tracker.ensure_running()  # Where a thread starts it, that thread's signals are unblocked.
    threading.Thread(target=get, daemon=True).start()
    return found.result()


def _start(index: int, count: int) -> None:
    for number in _OF_THE_PROGRAM:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
