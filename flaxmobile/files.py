"""Writing a file whole or not at all."""

import os
from pathlib import Path

from flaxmobile.messages import printable


def check_free(path: str | Path, *, overwrite: bool = False) -> None:
    """See that a file may be written there.

    Raises:
        FileExistsError: it is there, and `overwrite` is not set, or it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise FileExistsError(f'{printable(path, None)} is a folder: name a file in it')
    if path.exists() and not overwrite:
        raise FileExistsError(f'{printable(path, None)} is already there: overwrite=True replaces it')


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write `content` beside `path`, then rename: `path` holds all of it, or what it held before."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with open(beside, 'wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        if error.filename is None:  # A disk that is full, or a file that may not grow, names no file.
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)
