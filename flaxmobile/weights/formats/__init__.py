"""Files of tensors by what they hold: safetensors, torch, Keras and NumPy; read without the library that wrote them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flaxmobile.messages import listing, printable

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


def read(path: str | Path, *, ema: bool = False) -> File:
    """Read a file of tensors, whatever its suffix: its first bytes decide.

    Of a torch checkpoint, what is no tensor of the weights is passed over, and a warning names it.

    Args:
        path: of the file.
        ema: of a torch checkpoint, take the moving average of the weights (`state_dict_ema`, `model_ema`).

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a folder, damaged, or of another format, or there is no moving average to take; the message
            starts with its path.
    """
    path = Path(path)
    shown = printable(path, None)
    if path.is_dir():
        raise ValueError(f'{shown}: is a folder; name a file ({READABLE})')
    if not path.exists():
        raise FileNotFoundError(f'{shown}: there is no such file')
    with path.open('rb') as file:
        head = file.read(512)
    kind = _kind(head) or (_zipped(path) if head.startswith(b'PK') else None)
    if kind == 'torch':
        from flaxmobile.weights.formats import torch_pickle

        return torch_pickle.read(path, ema)
    if kind and ema:
        raise ValueError(f'{shown}: holds no moving average: only a checkpoint of torch has one beside its weights')
    if kind == 'keras':
        from flaxmobile.weights.formats import hdf5

        return hdf5.read(path)
    if kind == 'npz':
        from flaxmobile.weights.formats import npz

        return npz.read(path)
    if kind == 'safetensors':
        from flaxmobile.weights.formats import safetensors_file

        return safetensors_file.read(path)
    raise ValueError(f'{shown}: {_what_it_is(head)}. Readable are {READABLE}')


def _kind(head: bytes) -> Kind | None:
    # The length of a header may begin with the bytes that another format begins with.
    if head[7:9] == b'\0{':
        return 'safetensors'
    if head[:1] == b'\x80' and head[1:2] in (b'\2', b'\3', b'\4', b'\5'):
        return 'torch'
    return 'keras' if head.startswith(b'\x89HDF\r\n\x1a\n') else None


def _zipped(path: Path) -> Kind:
    """The kind of a zip by the names in it; what they name is unpacked later, once."""
    from flaxmobile.weights.formats import strict_zip, torch_pickle

    names = strict_zip.names(path)
    if any(name.endswith('constants.pkl') for name in names):
        raise ValueError(
            f'{printable(path, None)}: is a TorchScript archive, which holds a program; '
            'save its weights alone: torch.save(torch.jit.load(...).state_dict(), ...)'
        )
    if any(map(torch_pickle.is_pickle, names)):
        return 'torch'
    if 'model.weights.h5' in names:
        return 'keras'
    if names and all(name.endswith('.npy') for name in names):
        return 'npz'
    held = listing(sorted(names), 5) or 'nothing'
    raise ValueError(
        f'{printable(path, None)}: is a zip archive of no known kind (it holds {held}). Readable are {READABLE}'
    )


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
        raise ValueError(f'{printable(path, None)}: {error}') from error
