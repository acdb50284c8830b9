"""Workarounds for Orbax: paths that it accepts, writes that end before their event loop closes, and a quiet log."""

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
# Orbax treats a whole path as a glob pattern (`[`, `*`, `?`) and as a URL (`gs:/`). TensorStore reads `\\` as `/`, and
# accepts only UTF-8.
_PLAIN = re.compile(r'[\w /.,;+=@~%#&!()\'"-]*')


def plain_path(folder: Path) -> tuple[Path, Callable[[], None]]:
    """A path to the existing `folder` that Orbax and TensorStore accept, and a function to call when it is not needed.

    On Linux a folder whose own path they do not accept is opened, and its path in /proc is returned.

    Raises:
        ValueError: they do not accept the folder's path, and this is not Linux.
    """
    if _PLAIN.fullmatch(str(folder)):
        return folder, lambda: None
    if not OPEN_FILES.is_dir():
        odd = sorted({character for character in str(folder) if not _PLAIN.fullmatch(character)})
        raise ValueError(
            f'checkpoints cannot be kept in {printable(folder)}: Orbax does not take {printable(" ".join(odd))} in a '
            'path here. Take another folder (run_dir)'
        )
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return OPEN_FILES / str(number), lambda: os.close(number)


def hush(logger: logging.Logger) -> Callable[[], None]:
    """Drop the messages of Orbax, and only those, from `logger`. Returns a function that ends this."""

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return '/orbax/checkpoint/' not in Path(record.pathname).as_posix()

    logger.addFilter(from_elsewhere)
    return lambda: logger.removeFilter(from_elsewhere)


def _run_to_the_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        result = loop.run_until_complete(coroutine)
    except BaseException:
        with suppress(RuntimeError):  # Another thread may be adding a task of its own.
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        raise  # What TensorStore still has to tell the loop comes from its own threads, so the loop stays open.
    else:
        loop.close()
        return result
    finally:
        asyncio.set_event_loop(None)


# Orbax 0.12 closes its event loop at the first error. The other writes then fail one by one, each with a traceback on
# the terminal. Earlier versions use asyncio.run, which ends the other writes. The replacement acts on all Orbax calls
# in this process.
if hasattr(asyncio_utils, '_run_sync_via_new_loop'):
    asyncio_utils._run_sync_via_new_loop = _run_to_the_end
