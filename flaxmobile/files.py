"""Writing a file whole or not at all."""

import os
import secrets
from pathlib import Path

from flaxmobile.messages import printable


def check_free(path: str | Path, *, overwrite: bool = False) -> None:
    """See that a file may be written there.

    Raises:
        FileExistsError: it is there, and `overwrite` is not set, or it is a folder.
        NotADirectoryError: what should be its folder is a file.
        PermissionError: its folder may not be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise FileExistsError(f'{printable(path, None)} is a folder: name a file in it')
    if path.exists() and not overwrite:
        raise FileExistsError(f'{printable(path, None)} is already there: overwrite=True replaces it')
    check_folder(path)


def check_folder(path: str | Path) -> None:
    """See that the folder of `path` is one that may be written to, or can be made.

    Raises:
        NotADirectoryError: what should be its folder is a file.
        PermissionError: its folder may not be written to.
    """
    nearest = next(parent for parent in Path(path).absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f'{printable(nearest, None)} is a file: name a file in a folder')
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f'nothing may be written into {printable(nearest, None)}: name another folder')


def write_whole(path: str | Path, content: str | bytes, *, overwrite: bool = True) -> None:
    """Write `content` beside `path`, then rename: `path` holds all of it, or what it held before.

    Raises:
        FileExistsError: `overwrite` is not set, and the file is there by now.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
    try:
        with open(beside, 'xb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(beside, path)
        else:
            _give_name(beside, path)
    except OSError as error:
        # A disk that is full, or a file that may not grow, names no file.
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def _give_name(beside: Path, path: Path) -> None:
    """Rename a file where there is none of that name."""
    try:
        os.link(beside, path)
    except OSError:  # The file is there by now, or the file system has no links.
        check_free(path)
        os.replace(beside, path)
