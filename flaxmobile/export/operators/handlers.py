"""Which function writes which kind of operation."""

from collections.abc import Callable
from typing import TypeVar

from flaxmobile.export.graph import Operation
from flaxmobile.export.operators.writer import Tensor, Writer

Function = TypeVar('Function')
Handler = Callable[[Writer, Operation], Tensor]
HANDLERS: dict[str, Handler] = {}
"""By kind. A handler writes the nodes of an operation, and gives the tensor of its output."""


def registering(handlers: dict[str, Function]) -> Callable[..., Callable[[Function], Function]]:
    """A decorator that registers a function among handlers for the kinds that it is given."""

    def handles(*kinds: str) -> Callable[[Function], Function]:
        def register(handler: Function) -> Function:
            handlers.update(dict.fromkeys(kinds, handler))
            return handler

        return register

    return handles


handles = registering(HANDLERS)
"""Register a function for those kinds of operations."""
