"""The IDX files of MNIST and its relatives."""

import gzip
import zlib
from pathlib import Path

import numpy as np


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped IDX file of bytes: two zeros, the type (8), the number of dimensions, each as a big-endian int32.

    Raises:
        ValueError: the file is damaged or holds something else.
    """
    try:
        content = gzip.decompress(path.read_bytes())
        rank = content[3]
        shape = np.frombuffer(content, '>i4', count=rank, offset=4)
        if content[:3] != b'\0\0\x08':
            raise ValueError('it does not begin as an IDX file of bytes')
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, zlib.error) as error:
        raise ValueError(f'{path} is damaged or no IDX file: {error}') from error
