"""Files of tensors by what they hold: safetensors, torch, Keras and NumPy; read without the library that wrote them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

Kind = Literal['flaxmobile', 'safetensors', 'torch', 'keras', 'npz']

OUR_NAMES = ('params/', 'batch_stats/')
SUFFIXES = ('.safetensors', '.npz', '.pth', '.pt', '.h5', '.keras')
READABLE = 'safetensors, torch .pth and .pt, Keras .h5, .weights.h5 and .keras, and .npz'


@dataclass(frozen=True)
class File:
    """What a file holds.

    Attributes:
        kind: its format.
        tensors: read-only arrays by the file's own names.
        metadata: what else it says of itself, plain values.
    """

    kind: Kind
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)


def read(path: str | Path) -> File:
    """Read a file of tensors, whatever its suffix: its first bytes decide.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a folder, damaged, or of another format; the message starts with its path.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f'{path}: is a folder; name a file ({READABLE})')
    if not path.exists():
        raise FileNotFoundError(f'{path}: there is no such file')
    with path.open('rb') as file:
        head = file.read(512)
    if head[:1] == b'\x80' and head[1:2] in (b'\2', b'\3', b'\4', b'\5'):
        from flaxmobile.weights.formats import torch_pickle

        return torch_pickle.read(path)
    if head.startswith(b'\x89HDF\r\n\x1a\n'):
        from flaxmobile.weights.formats import hdf5

        return hdf5.read(path)
    if head.startswith(b'PK'):
        return _read_zip(path)
    if head[7:9] == b'\0{':
        from flaxmobile.weights.formats import safetensors_file

        return safetensors_file.read(path)
    raise ValueError(f'{path}: {_what_it_is(head)}. Readable are {READABLE}')


def _read_zip(path: Path) -> File:
    from flaxmobile.weights.formats import npz, strict_zip, torch_pickle

    names = strict_zip.members(path).keys()
    if any(name.endswith('constants.pkl') for name in names):
        raise ValueError(
            f'{path}: is a TorchScript archive, which holds a program; '
            'save its weights alone: torch.save(torch.jit.load(...).state_dict(), ...)'
        )
    if any(name.endswith('/data.pkl') for name in names):
        return torch_pickle.read(path)
    if 'model.weights.h5' in names:
        from flaxmobile.weights.formats import hdf5

        return hdf5.read(path)
    if names and all(name.endswith('.npy') for name in names):
        return npz.read(path)
    first = ', '.join(sorted(names)[:5]) or 'nothing'
    raise ValueError(f'{path}: is a zip archive of no known kind (it holds {first}). Readable are {READABLE}')


def _what_it_is(head: bytes) -> str:
    text = head.lstrip().lower()
    if not head:
        return 'is empty'
    if text.startswith(b'version https://git-lfs'):
        return 'is the pointer that Git LFS leaves in place of a file: fetch the file with `git lfs pull`'
    if text.startswith((b'<!doctype', b'<html', b'<?xml')):
        return 'is a web page, not weights: download from the address of the file itself'
    if head[257:262] == b'ustar' or head.startswith((b'\x1f\x8b', b'BZh', b'\xfd7zXZ', b'\x28\xb5\x2f\xfd')):
        return 'is packed (tar, gzip, bzip2, xz or zstd): unpack it first'
    if head[4:8] == b'TFL3':
        return 'is a LiteRT (TensorFlow Lite) program, from which weights cannot be taken'
    if head[:1] == b'\x08' and head[2:3] in (b'\x12', b'\x3a'):
        return 'looks like an ONNX program, from which weights cannot be taken'
    return 'is damaged or of an unknown format'


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Start the message of a ValueError with the file's path."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
