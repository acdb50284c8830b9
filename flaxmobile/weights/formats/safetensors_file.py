"""safetensors, as others write it, and our own published format: safetensors with what the weights are and a checksum.

The format: eight bytes of header length, a header in JSON, the numbers. Ours has in its metadata, under `flaxmobile`,
JSON with `format`, `model`, `preprocessing`, `classes` and `sha256`: of the whole file, with zeros for the 64 digits.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from flaxmobile.messages import listing, printable
from flaxmobile.weights.formats import OUR_NAMES, File, naming

FORMAT = 3
"""Of what is written now. 1 and 2 are read too: 1 is of networks some of which have changed since, and neither could
say that the names of the classes are not known."""
READABLE = (1, 2, FORMAT)
KEY = 'flaxmobile'
UNSIGNED = b'0' * 64
LARGEST_HEADER = 1 << 22
"""Bytes: of tens of thousands of tensors and class names; Python makes some twenty times that of a header."""
TYPES = {
    'F64': np.dtype('<f8'),
    'F32': np.dtype('<f4'),
    'F16': np.dtype('<f2'),
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'I64': np.dtype('<i8'),
    'I32': np.dtype('<i4'),
    'I16': np.dtype('<i2'),
    'I8': np.dtype('i1'),
    'U64': np.dtype('<u8'),
    'U32': np.dtype('<u4'),
    'U16': np.dtype('<u2'),
    'U8': np.dtype('u1'),
    'BOOL': np.dtype('?'),
}


def read(path: Path) -> File:
    """Read any safetensors file: kind 'flaxmobile' where it is ours, with what it says of itself as metadata.

    Raises:
        ValueError: damaged; of a type that has no array; ours with another checksum than its contents', or none.
    """
    data = path.read_bytes()
    with naming(path):
        entries, start = _entries(path, data)
        metadata = entries.pop('__metadata__', None) or {}
        if unknown := [f'{name} is {entry["dtype"]}' for name, entry in entries.items() if entry['dtype'] not in TYPES]:
            raise ValueError(f'holds tensors of types that cannot be read: {listing(unknown)}')
        tensors = {name: _array(entry, data, start) for name, entry in entries.items()}
        if KEY in metadata or any(name.startswith(OUR_NAMES) for name in tensors):
            return File('flaxmobile', tensors, _verified(data, metadata.get(KEY, '')))
        return File('safetensors', tensors, metadata)


def _entries(path: Path, data: bytes) -> tuple[dict[str, Any], int]:
    """The header, which the format's own library found to fit the file, and where the numbers start."""
    from safetensors import SafetensorError, safe_open

    start = 8 + int.from_bytes(data[:8], 'little')
    if start > LARGEST_HEADER:
        raise ValueError(f'is no whole safetensors file (its header is longer than {LARGEST_HEADER} bytes)')
    try:
        with safe_open(path, 'numpy'):
            pass
    except SafetensorError as error:
        raise ValueError(f'is no whole safetensors file ({printable(error)})') from error
    entries: dict[str, Any] = json.loads(data[8:start], object_pairs_hook=_once)
    return entries, start


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are not said twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = listing([name for name, count in Counter(name for name, _ in pairs).items() if count > 1])
        raise ValueError(f'is no whole safetensors file (its header names twice: {twice})')
    return found


def _array(entry: Mapping[str, Any], data: bytes, start: int) -> np.ndarray:
    """A view of the file's bytes, which are never there twice."""
    return np.ndarray(entry['shape'], TYPES[entry['dtype']], data, start + entry['data_offsets'][0])


def _verified(data: bytes, text: str) -> dict[str, Any]:
    """What the file says of itself, once its checksum holds."""
    try:
        description = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        checksum, written = description.pop('sha256'), description['format']
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise ValueError("has flaxmobile's names and not its checksum: damaged, or written by something else") from None
    if not isinstance(checksum, str) or not re.fullmatch('[0-9a-f]{64}', checksum):
        raise ValueError(f'is damaged: {printable(checksum, 80)} is no checksum')
    if _checksum(data, checksum.encode()) != checksum:
        raise ValueError('is damaged: its contents are not those that its checksum was made of')
    if type(written) is not int or written not in READABLE:
        raise ValueError(
            f'has format {printable(repr(written))}, and this version of flaxmobile reads format {FORMAT} and before: '
            'update it'
        )
    return description


def _no_number(text: str) -> None:
    """JSON has no NaN and no Infinity."""
    raise ValueError(f'{text} is no number')


def _checksum(data: bytes, digits: bytes) -> str:
    """Of the file, zeros in place of those digits where they first stand."""
    start = data.find(digits)
    rest = memoryview(data)[start + len(digits) :]
    digest = hashlib.sha256(data[:start])
    digest.update(UNSIGNED)
    digest.update(rest)
    return digest.hexdigest()


def encode(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file.

    Raises:
        ValueError: the format has no such type.
    """
    from safetensors.numpy import save

    arrays = {name: np.asarray(array, order='C') for name, array in tensors.items()}
    for name, array in arrays.items():
        if array.dtype not in TYPES.values():
            raise ValueError(f'{printable(name)} is {array.dtype.name}, which safetensors cannot hold')
    return save(arrays, dict(metadata))


def encode_ours(tensors: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> bytes:
    """A file of our own format: names `params/...` and `batch_stats/...`, and what the weights are, fit for JSON."""
    content = {'format': FORMAT, 'sha256': UNSIGNED.decode(), **description}
    data = encode(tensors, {KEY: json.dumps(content)})
    start = data.index(UNSIGNED)
    return data[:start] + _checksum(data, UNSIGNED).encode() + data[start + len(UNSIGNED) :]
