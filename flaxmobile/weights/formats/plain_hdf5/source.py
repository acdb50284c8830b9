"""The bytes of an HDF5 file, each read for one structure and once, so that no file costs more than its size.

An honest file has no two structures that share bytes. Reads are held to that: in sum they are never more than the
file, and `finish` refuses those that overlap.
"""

import os
import struct
from array import array
from typing import BinaryIO

import numpy as np

NOWHERE = 0xFFFFFFFFFFFFFFFF
REPACK = '`h5repack IN OUT`, or h5py, may write it anew'
SHARED_BYTES = 'parts of it share their bytes, or together claim more bytes than the file has'


class NotReadError(ValueError):
    """The file may be whole, and holds what is not read here."""


class Source:
    """A file that is open, or in memory already: arrays are then views of that memory."""

    def __init__(self, content: BinaryIO | bytes | memoryview) -> None:
        self.content = content
        self.size = len(content) if isinstance(content, bytes | memoryview) else content.seek(0, os.SEEK_END)
        self._left = self.size
        self._starts, self._ends = array('Q'), array('Q')

    def numbers(self, start: int, count: int) -> bytes | memoryview:
        """`count` bytes from `start` that nothing else has read."""
        if count < 0 or start + count > self.size:
            raise ValueError('a structure of it is cut off or damaged (it ends behind the end of the file)')
        self._left -= count
        if self._left < 0:
            raise ValueError(SHARED_BYTES)
        if self._ends and self._ends[-1] == start:
            self._ends[-1] = start + count
        elif count:
            self._starts.append(start)
            self._ends.append(start + count)
        if isinstance(self.content, bytes | memoryview):
            return memoryview(self.content)[start : start + count]
        self.content.seek(start)
        read = self.content.read(count)
        if len(read) != count:
            raise ValueError('it was cut short while it was read')
        return read

    def take(self, start: int, count: int) -> bytes:
        """The same of a structure, which is small."""
        return bytes(self.numbers(start, count))

    def checked(self, start: int, count: int, signature: bytes, before: bytes = b'') -> bytes:
        """A structure that begins with a signature and ends with its checksum (which is left out).

        `before` is what of it was read already.
        """
        block = before + self.take(start + len(before), count - len(before))
        self.check(block, signature)
        return block[:-4]

    @staticmethod
    def check(block: bytes, signature: bytes) -> None:
        """Refuse a structure with another signature, or whose last four bytes are not the checksum of the others."""
        if not block.startswith(signature):
            raise ValueError(f'a structure of it is damaged (no {signature[:4]!r} where one should be)')
        if lookup3(block[:-4]) != int.from_bytes(block[-4:], 'little'):
            raise ValueError(f'a structure of it is damaged ({signature[:4]!r} fails its checksum)')

    def finish(self) -> None:
        """Refuse reads that overlapped."""
        starts, ends = np.frombuffer(self._starts, np.uint64), np.frombuffer(self._ends, np.uint64)
        order = np.argsort(starts, kind='stable')
        if (ends[order][:-1] > starts[order][1:]).any():
            raise ValueError(SHARED_BYTES)


def lookup3(data: bytes) -> int:
    """Bob Jenkins's `hashlittle` of 2006, the checksum of newer structures and the hash of their names."""
    a = b = c = 0xDEADBEEF + len(data) & 0xFFFFFFFF
    whole = max(0, len(data) - 1) // 12 * 12
    for x, y, z in struct.iter_unpack('<3I', data[:whole]):
        a, b, c = a + x & 0xFFFFFFFF, b + y & 0xFFFFFFFF, c + z & 0xFFFFFFFF
        a, c = (a - c & 0xFFFFFFFF) ^ _rotated(c, 4), c + b & 0xFFFFFFFF
        b, a = (b - a & 0xFFFFFFFF) ^ _rotated(a, 6), a + c & 0xFFFFFFFF
        c, b = (c - b & 0xFFFFFFFF) ^ _rotated(b, 8), b + a & 0xFFFFFFFF
        a, c = (a - c & 0xFFFFFFFF) ^ _rotated(c, 16), c + b & 0xFFFFFFFF
        b, a = (b - a & 0xFFFFFFFF) ^ _rotated(a, 19), a + c & 0xFFFFFFFF
        c, b = (c - b & 0xFFFFFFFF) ^ _rotated(b, 4), b + a & 0xFFFFFFFF
    if not data:
        return c
    x, y, z = struct.unpack('<3I', data[whole:].ljust(12, b'\0'))
    a, b, c = a + x & 0xFFFFFFFF, b + y & 0xFFFFFFFF, c + z & 0xFFFFFFFF
    c = (c ^ b) - _rotated(b, 14) & 0xFFFFFFFF
    a = (a ^ c) - _rotated(c, 11) & 0xFFFFFFFF
    b = (b ^ a) - _rotated(a, 25) & 0xFFFFFFFF
    c = (c ^ b) - _rotated(b, 16) & 0xFFFFFFFF
    a = (a ^ c) - _rotated(c, 4) & 0xFFFFFFFF
    b = (b ^ a) - _rotated(a, 14) & 0xFFFFFFFF
    c = (c ^ b) - _rotated(b, 24) & 0xFFFFFFFF
    return c


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & 0xFFFFFFFF
