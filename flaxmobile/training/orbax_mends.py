"""What Orbax needs around it: a path it can take, writes that end before their event loop does, and quiet."""

import asyncio
import logging
import os
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from orbax.checkpoint._src import asyncio_utils

from flaxmobile.messages import printable

OPEN_FILES = Path('/proc/self/fd')
# Orbax globs whole paths (so that `[`, `*` and `?` are patterns) and makes them URLs of a kind (`gs:/`), TensorStore
# takes `\\` for `/` and UTF-8 alone.
_PLAIN = re.compile(r'[\w /.,;+=@~%#&!()\'"-]*')


def plain_path(folder: Path) -> tuple[Path, Callable[[], None]]:
    """A path of `folder`, which exists, that Orbax and TensorStore take as it is, and what ends its use.

    Raises:
        ValueError: there is none: the folder's own has characters that they do not take, and this is no Linux.
    """
    if _PLAIN.fullmatch(str(folder)):
        return folder, lambda: None
    if not OPEN_FILES.is_dir():
        odd = sorted({character for character in str(folder) if not _PLAIN.fullmatch(character)})
        raise ValueError(
            f'checkpoints cannot be kept in {printable(folder)}: Orbax does not take {printable(" ".join(odd))} in a '
            'path here. Take another folder (--run-dir)'
        )
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return OPEN_FILES / str(number), lambda: os.close(number)


def hush(logger: logging.Logger) -> Callable[[], None]:
    """Keep what Orbax has to say out of `logger`, and nothing else; gives what ends that."""

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return '/orbax/checkpoint/' not in Path(record.pathname).as_posix()

    logger.addFilter(from_elsewhere)
    return lambda: logger.removeFilter(from_elsewhere)


def _run_to_the_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(coroutine)
        except BaseException:
            with suppress(RuntimeError):  # Another thread may be adding a task of its own.
                left = asyncio.all_tasks(loop)
                for task in left:
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            raise
    finally:
        asyncio.set_event_loop(None)
        loop.close()


# Orbax 0.12 closes the loop at the first error; the other writes then end one by one with a traceback on the terminal.
# Before that version it has no such function, and asyncio.run ends them. All of this process's use of Orbax has it.
if hasattr(asyncio_utils, '_run_sync_via_new_loop'):
    asyncio_utils._run_sync_via_new_loop = _run_to_the_end
