"""NumPy's `.npz`: a zip of arrays, read without pickles and with every checksum held to."""

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flaxmobile.weights.formats import File, naming, strict_zip

VERSIONS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read(path: Path) -> File:
    """Read the arrays of an `.npz`.

    Raises:
        ValueError: damaged, or an array is of objects or claims another size than it has.
    """
    members = strict_zip.members(path)
    with naming(path):
        return File('npz', {name.removesuffix('.npy'): _array(name, content) for name, content in members.items()})


def _array(name: str, content: memoryview) -> np.ndarray:
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        shape, _, dtype = VERSIONS[version](stream)
    except (ValueError, LookupError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f'{name} is no array of NumPy ({error})') from error
    if dtype.kind not in 'fiub':
        raise ValueError(f'{name} is of type {dtype}, and only numbers are read')
    claimed, held = math.prod(shape) * dtype.itemsize, len(content) - stream.tell()
    if min(shape, default=0) < 0 or claimed != held:
        raise ValueError(f'{name} claims {claimed} bytes of numbers and holds {held}')
    stream.seek(0)
    array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    array = array.astype(dtype.newbyteorder('='), copy=False)
    array.flags.writeable = False
    return array


def encode(tensors: Mapping[str, np.ndarray]) -> bytes:
    """An `.npz` that `numpy.load` reads.

    Raises:
        ValueError: NumPy has no such type of its own, bfloat16 for one.
    """
    for name, array in tensors.items():
        if array.dtype.kind not in 'fiub' or array.dtype.name == 'bfloat16':
            raise ValueError(f'{name} is {array.dtype.name}, which .npz cannot hold: write .safetensors')
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **tensors)
    return file.getvalue()
