"""Writing a file or a folder whole or not at all."""

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
        raise _taken(path)
    check_folder(path)


def check_free_folder(path: str | Path, holds: str, what: str, *, overwrite: bool = False) -> None:
    """See that a folder of a kind may be written there.

    Args:
        path: of the folder.
        holds: a file that lies in every folder of the kind.
        what: the kind is called in a message.
        overwrite: whether a folder of the kind that is there may be replaced.

    Raises:
        FileExistsError: it is there, and `overwrite` is not set, or it is none of the kind.
        NotADirectoryError: what should be its folder is a file.
        PermissionError: its folder may not be written to.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise _taken(path)
    if path.exists() and not (path / holds).is_file():
        raise FileExistsError(f'{printable(path, None)} is there and no {what}: name a folder that is not there')
    check_folder(path)


def check_folder_of(path: str | Path, files: Collection[str], what: str, *, overwrite: bool = False) -> None:
    """See that a folder may be written there all of whose files are known, and that one that is there holds no others.

    Args:
        path: of the folder.
        files: the paths in it of all that may be written.
        what: the folder is called in a message.
        overwrite: whether one that is there may be replaced.

    Raises:
        FileExistsError: it is there, and `overwrite` is not set, or it is a file, or holds other files.
        NotADirectoryError: what should be its folder is a file.
        PermissionError: its folder may not be written to.
    """
    path = Path(path)
    check_folder(path)
    if path.is_file():
        raise FileExistsError(f'{printable(path, None)} is a file: name a folder')
    if path.exists() and not overwrite:
        raise _taken(path)
    found = {each.relative_to(path).as_posix() for each in path.rglob('*') if not each.is_dir()}
    if others := sorted(found - set(files)):
        raise FileExistsError(
            f'{printable(path, None)} is not replaced, as it holds what no {what} does ({listing(others)}): '
            'name another folder'
        )


def _taken(path: Path) -> FileExistsError:
    return FileExistsError(f'{printable(path, None)} is already there: overwrite=True replaces it')


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


def folder_size(path: str | Path) -> int:
    """The bytes of all files in a folder."""
    return sum(each.stat().st_size for each in Path(path).rglob('*') if each.is_file())


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


@contextlib.contextmanager
def whole_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A place for a folder, which gets the name `path` at the end of the block: all of it, or what was there before.

    The place lies beside `path`, and nothing is there yet. If something fails nothing is left, the folders on the way
    to `path` included that were not there. What is warned of in the block is told of `path`.

    Raises:
        FileExistsError: `overwrite` is not set, and `path` is there by the end of the block.
    """
    path = Path(path)
    made = [parent for parent in path.absolute().parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        beside = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
        try:
            with _warning_of(beside / path.name, path):
                yield beside / path.name
            _name_folder(beside / path.name, path, beside / 'before', overwrite)
        finally:
            shutil.rmtree(beside)
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):  # Somebody else's files lie in it by now.
                parent.rmdir()
        raise


@contextlib.contextmanager
def _warning_of(new: Path, path: Path) -> Iterator[None]:
    """Name `path` in what is warned of `new`."""
    with warnings.catch_warnings(record=True) as told:
        yield
    for each in told:
        warnings.warn(
            str(each.message).replace(printable(new, None), printable(path, None)), each.category, stacklevel=5
        )


def _name_folder(new: Path, path: Path, before: Path, overwrite: bool) -> None:
    """Give a folder its name; what is there is put aside first, and comes back if that fails."""
    if overwrite and path.exists():
        path.rename(before)
    try:
        path.mkdir()  # Renaming by itself would replace an empty folder that appeared meanwhile.
    except FileExistsError:
        raise _taken(path) from None
    try:
        new.rename(path)
    except OSError:
        path.rmdir()
        if before.exists():
            before.rename(path)
        raise
