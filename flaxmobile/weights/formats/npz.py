"""NumPy's `.npz`: a zip of arrays, read without pickles and with every checksum held to."""

import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flaxmobile.messages import printable
from flaxmobile.weights.formats import File, naming, strict_zip

VERSIONS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read(path: Path) -> File:
    """Read the arrays of an `.npz`: views of what it unpacks to.

    Raises:
        ValueError: damaged, or an array is of objects or claims another size than it has.
    """
    members = strict_zip.members(path)
    with naming(path):
        return File('npz', {name.removesuffix('.npy'): _array(name, content) for name, content in members.items()})


def _array(name: str, content: memoryview) -> np.ndarray:
    shape, fortran, dtype, start = _header(name, content)
    if dtype.kind not in 'fiub':
        raise ValueError(f'{printable(name)} is of type {printable(dtype)}, and only numbers are read')
    claimed, held = math.prod(shape) * dtype.itemsize, len(content) - start
    if claimed != held:
        raise ValueError(f'{printable(name)} claims {claimed} bytes of numbers and holds {held}')
    try:
        array = np.ndarray(shape, dtype, content, start, order='F' if fortran else 'C')
    except (ValueError, OverflowError) as error:
        raise ValueError(f'{printable(name)} has a shape that no array has ({printable(error)})') from error
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder('='))
    array.flags.writeable = False
    return array


def _header(name: str, content: memoryview) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns come first, type, and where the numbers start."""
    stream = io.BytesIO(content[: 1 << 17])  # NumPy's own limit of a header is far below.
    try:
        version = np.lib.format.read_magic(stream)
        if version not in VERSIONS:
            raise ValueError(f'of version {version}, which only arrays with named fields have')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            shape, fortran, dtype = VERSIONS[version](stream)
        if not all(type(length) is int and 0 <= length < 1 << 62 for length in shape):
            raise ValueError('a length of its shape is no whole number')
    except Exception as error:  # NumPy gives the header to Python's parser, which raises what it likes.
        reason = next((part for part in error.args if isinstance(part, str)), type(error).__name__)
        raise ValueError(f'{printable(name)} is no array of NumPy ({printable(reason)})') from error
    return shape, fortran, dtype, stream.tell()


def encode(tensors: Mapping[str, np.ndarray]) -> bytes:
    """An `.npz` that `numpy.load` reads.

    Raises:
        ValueError: NumPy has no such type of its own, bfloat16 for one.
    """
    for name, array in tensors.items():
        if array.dtype.kind not in 'fiub' or array.dtype.name == 'bfloat16':
            raise ValueError(f'{printable(name)} is {array.dtype.name}, which .npz cannot hold: write .safetensors')
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **tensors)
    return file.getvalue()
