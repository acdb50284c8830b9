"""A process for each contender, so that no library's threads, memory or settings disturb another's times."""

import importlib
import multiprocessing
import os
import traceback
from collections.abc import Mapping
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from benchmarks.timing import seconds_of

ENVIRONMENT = {
    'JAX_PLATFORMS': 'cpu',
    'JAX_ENABLE_COMPILATION_CACHE': 'false',
    'CUDA_VISIBLE_DEVICES': '',
    'TF_CPP_MIN_LOG_LEVEL': '3',
}


class Unavailable(Exception):
    """A contender cannot take part here, for the reason given."""


class Case(NamedTuple):
    """What is run: the network by name, images in the batch, threads, and the convention the peer knows."""

    network: str
    batch: int
    threads: int
    convention: str = 'torch'


class Contender(NamedTuple):
    """A library's way to do a piece of work.

    Attributes:
        module: of `benchmarks`, imported in the contender's own process.
        function: in it; takes a `Case`, returns the work, a function of nothing, and its outcome, an array to compare.
        arguments: further ones of the function, by name.
        needs: modules without which it is left out.
        convention: 'torch' or 'tensorflow', whichever padding and epsilon the library knows.
        environment: variables of its process.
        children: whether it starts processes of its own.
    """

    module: str
    function: str
    arguments: Mapping[str, Any] = {}
    needs: tuple[str, ...] = ()
    convention: str = 'torch'
    environment: Mapping[str, str] = {}
    children: bool = False


def jax_contender(function: str, **arguments: Any) -> Contender:
    """Ours or plain Flax."""
    return Contender('jax_contenders', function, arguments)


def torch_contender(function: str, *needs: str, **arguments: Any) -> Contender:
    """torch, or what starts from it and needs more."""
    return Contender('torch_contenders', function, arguments, ('torch', 'timm', *needs))


def keras_contender(function: str, backend: str, *needs: str) -> Contender:
    """Keras on a backend, or what starts from it and needs more."""
    return Contender(
        'keras_contenders', function, {}, ('keras', backend, *needs), 'tensorflow', {'KERAS_BACKEND': backend}
    )


class Worker:
    """A contender in a process of its own: `prepare` a case, then `run` its work as often as told.

    Raises:
        Unavailable: something it needs is not installed.
    """

    def __init__(self, contender: Contender) -> None:
        missing = [module for module in contender.needs if find_spec(module) is None]
        if missing:
            raise Unavailable(f'not installed: {", ".join(missing)}')
        self.contender = contender
        context = multiprocessing.get_context('spawn')
        self._connection, other = context.Pipe()
        kept = dict(os.environ)
        os.environ.update({**ENVIRONMENT, **contender.environment})
        try:
            self._process = context.Process(target=_serve, args=(other, contender), daemon=not contender.children)
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(kept)
        other.close()

    def prepare(self, case: Case) -> np.ndarray:
        """Build the case and do its work once; its outcome.

        Raises:
            Unavailable: the contender says why it cannot.
            RuntimeError: it failed, with its own traceback.
        """
        outcome: np.ndarray = self._ask(case._replace(convention=self.contender.convention))
        return outcome

    def run(self, calls: int) -> float:
        """Seconds that so many calls take."""
        seconds: float = self._ask(calls)
        return seconds

    def _ask(self, request: Any) -> Any:
        self._connection.send(request)
        try:
            answer = self._connection.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(f'its process ended with status {self._process.exitcode}') from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, contender: Contender) -> None:
    build = getattr(importlib.import_module(f'benchmarks.{contender.module}'), contender.function)
    work: Any = None
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        try:
            if isinstance(request, Case):
                work = None
                work, answer = build(request, **contender.arguments)
            else:
                answer = seconds_of(work, request)
        except Unavailable as reason:
            answer = reason
        except Exception:
            answer = RuntimeError(traceback.format_exc())
        connection.send(answer)
