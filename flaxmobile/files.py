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
        PermissionError: its folder, or one that is there, may not be written to.
    """
    path = Path(path)
    check_folder(path)
    if path.is_file():
        raise FileExistsError(f'{printable(path, None)} is a file: name a folder')
    if path.exists() and not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f'{printable(path, None)} may not be written to: name another folder')
    found = {each.relative_to(path).as_posix() for each in path.rglob('*') if each.is_symlink() or not each.is_dir()}
    if others := sorted(found - set(files)):
        raise FileExistsError(
            f'{printable(path, None)} is not replaced, as it holds what no {what} does ({listing(others)}): '
            'name another folder'
        )
    if path.exists() and not overwrite:
        raise _taken(path)


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
    beside = path.with_name(f'.{path.name}.{secrets.token_hex(4)}')
    with _folder_of(path):
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


@contextlib.contextmanager
def _folder_of(path: Path) -> Iterator[None]:
    """Make the folder of `path`; if something fails, those that were not there go again."""
    made = [parent for parent in path.absolute().parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):  # Somebody else's files lie in it by now, or it was not made.
                parent.rmdir()
        raise


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

    The place is in a folder of its own beside `path`, and nothing is there yet. If something fails nothing is left, the
    folders on the way to `path` included that were not there. Warnings and ValueErrors of the block name
    `path` in place of it.

    Raises:
        FileExistsError: `overwrite` is not set, and `path` is there by the end of the block.
        OSError: `path` could not be replaced; the message says where it is, if it could not get its name back.
    """
    path = Path(path)
    with _folder_of(path):
        beside = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
        new, before = beside / 'new' / path.name, beside / 'before'
        try:
            new.parent.mkdir()
            with _telling_of(new, path):
                yield new
            _name_folder(new, path, before, overwrite)
        finally:
            lost = before.exists() and new.exists()  # The only copy of what was at `path`.
            shutil.rmtree(new.parent if lost else beside)


@contextlib.contextmanager
def _telling_of(new: Path, path: Path) -> Iterator[None]:
    """Name `path` in what is warned of `new`, and in a ValueError."""

    def named(text: object) -> str:
        return str(text).replace(printable(new, None), printable(path, None))

    try:
        with warnings.catch_warnings(record=True) as told:
            yield
    except ValueError as error:
        if type(error) is not ValueError or named(error) == str(error):
            raise
        raise ValueError(named(error)) from error
    for each in told:
        warnings.warn(named(each.message), each.category, stacklevel=5)


def _name_folder(new: Path, path: Path, before: Path, overwrite: bool) -> None:
    """Give a folder its name; what is there is put aside first, and comes back if that fails."""
    made = False
    try:
        if overwrite and path.exists():
            path.rename(before)
        path.mkdir()  # Renaming by itself would replace an empty folder that appeared meanwhile.
        made = True
        new.rename(path)
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()
        if before.exists() and new.exists():
            _put_back(before, path)
        if isinstance(error, FileExistsError) and not overwrite:
            raise _taken(path) from None
        raise


def _put_back(before: Path, path: Path) -> None:
    try:
        before.rename(path)
    except OSError as error:
        told = f'{printable(path, None)} was not replaced, and what was there could not get its name back'
        raise OSError(f'{told}: it is in {printable(before, None)}') from error
