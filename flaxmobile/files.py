"""Writing a file, or a folder of files, whole or not at all."""

import contextlib
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path

from flaxmobile.messages import listing, printable


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


def check_free_folder(folder: str | Path, files: Collection[str], what: str, *, overwrite: bool = False) -> None:
    """See that a folder of files may be written there.

    Args:
        folder: to write.
        files: the paths in it of all that may be written; a folder that holds others is not replaced.
        what: the folder is, 'page'.
        overwrite: whether one that is there may be replaced.

    Raises:
        FileExistsError: something lies there, and `overwrite` is not set, or it is a file, or holds other files.
        NotADirectoryError: what should be its folder is a file.
        PermissionError: its folder may not be written to.
    """
    folder = Path(folder)
    check_folder(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f'{printable(folder, None)} is a file: name a folder')
    if not overwrite:
        raise FileExistsError(f'{printable(folder, None)} is already there: overwrite=True replaces it')
    found = {path.relative_to(folder).as_posix() for path in folder.rglob('*') if not path.is_dir()}
    if others := sorted(found - set(files)):
        raise FileExistsError(
            f'{printable(folder, None)} is not replaced, as it holds what no {what} does ({listing(others)}): '
            'name another folder'
        )


@contextlib.contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A new folder to fill. It takes the place of `folder` at the end; where something is raised, it is removed.

    What is warned of meanwhile names files as they lie in the end.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    made, before, told = beside / 'made', beside / 'before', list[warnings.WarningMessage]()
    try:
        made.mkdir()
        with warnings.catch_warnings(record=True) as told:
            yield made
        if folder.exists():
            folder.rename(before)
        made.rename(folder)
    finally:
        if before.exists() and not folder.exists():
            before.rename(folder)
        shutil.rmtree(beside)
        for warning in told:
            text = str(warning.message).replace(printable(made, None), printable(folder, None))
            warnings.warn(text, warning.category, stacklevel=4)


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
