"""Digests of a checkpoint's files, written before the checkpoint gets its name. They show whether it is damaged."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flaxmobile.files import write_whole

NAME = 'digests.json'
_METADATA = '_CHECKPOINT_METADATA'
_COMMITTED = 'commit_timestamp_nsecs'  # Orbax adds it after the digests are written.


def write_digests(folder: Path) -> None:
    """Write `folder/digests.json`: the SHA-256 of every file in the subfolders, and Orbax's metadata of the whole."""
    content = {'sha256': {path: _digest(folder / path) for path in _files(folder)}, 'metadata': _metadata(folder)}
    write_whole(folder / NAME, json.dumps(content, indent=1) + '\n')


def fault(folder: Path) -> str | None:
    """What is wrong with the files of a checkpoint, in words; None if they are as they were written."""
    try:
        content = json.loads((folder / NAME).read_bytes())
        digests, metadata = dict(content['sha256']), content['metadata']
    except FileNotFoundError:
        return f'{NAME} is missing'
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        return f'{NAME} cannot be read: {error}'
    files = set(_files(folder))
    for path, digest in digests.items():
        if path not in files:
            return f'{path} is missing'
        try:
            if _digest(folder / path) != digest:
                return f'{path} is not as it was written'
        except OSError as error:
            return f'{path} cannot be read: {error.strerror}'
    if unknown := sorted(path for path in files - set(digests) if not Path(path).name.startswith('.')):
        return f'{unknown[0]} was not written with it'
    try:
        return None if _metadata(folder) == metadata else f'{_METADATA} is not as it was written'
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        return f'{_METADATA} cannot be read: {error}'


def verified(folder: Path, path: str) -> bytes | None:
    """The content of the file `path` of a checkpoint; None if it is missing or not as it was written."""
    try:
        known = json.loads((folder / NAME).read_bytes())['sha256'][path]
        content = (folder / path).read_bytes()
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return content if hashlib.sha256(content).hexdigest() == known else None


def _files(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob('*/**/*')):
        if path.is_file():
            yield path.relative_to(folder).as_posix()


def _digest(path: Path) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _metadata(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / _METADATA).read_bytes())
    committed = content.pop(_COMMITTED, None)
    if committed is not None and not 0 <= committed < 2**63:
        raise ValueError(f'{_COMMITTED} is {committed}')
    return content
