"""Which function writes which kind of operation."""

from collections.abc import Callable

from flaxmobile.export.graph import Operation
from flaxmobile.export.operators.writer import Tensor, Writer

Handler = Callable[[Writer, Operation], Tensor]
HANDLERS: dict[str, Handler] = {}
"""By kind. A handler writes the nodes of an operation, and gives the tensor of its output."""


def handles(*kinds: str) -> Callable[[Handler], Handler]:
    """Register a function for those kinds."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(kinds, handler))
        return handler

    return register
