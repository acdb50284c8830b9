"""What the chunks of an array go through when they are stored (IV.A.2.l), undone: shuffle, deflate, Fletcher32, LZF."""

import struct
import zlib
from typing import NamedTuple

import numpy as np

from flaxmobile.weights.formats.plain_hdf5.source import NotReadError

DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
NAMES = {
    4: 'szip',
    5: 'nbit',
    6: 'scaleoffset',
    307: 'bzip2',
    32001: 'blosc',
    32004: 'lz4',
    32008: 'bitshuffle',
    32013: 'zfp',
    32015: 'zstd',
    32026: 'blosc2',
}
MOST_FILTERS = 32


class Filter(NamedTuple):
    """One step: its registered number, and its parameters."""

    number: int
    values: tuple[int, ...]


def filters_of(message: bytes | None, name: str) -> list[Filter]:
    """The steps in the order in which they were made.

    Raises:
        ValueError: one of them cannot be undone here.
    """
    if message is None:
        return []
    version, count = message[:2]
    if version not in (1, 2) or count > MOST_FILTERS:
        raise ValueError(f'the filters of {name} are damaged')
    position, found = 8 if version == 1 else 2, []
    for _ in range(count):
        number, length = struct.unpack_from('<HH', message, position)
        named = version == 1 or number >= 256
        _, parameters = struct.unpack_from('<HH', message, position + (4 if named else 2))
        position += (8 if named else 6) + (-(-length // 8) * 8 if version == 1 else length * named)
        found.append(Filter(number, struct.unpack_from(f'<{parameters}I', message, position)))
        position += 4 * parameters + (4 if version == 1 and parameters % 2 else 0)
    foreign = [filter.number for filter in found if filter.number not in (DEFLATE, SHUFFLE, FLETCHER32, LZF)]
    if foreign:
        said = NAMES.get(foreign[0], f'filter {foreign[0]}')
        raise NotReadError(
            f'{name} is packed with {said}, and only gzip, shuffle, Fletcher32 and LZF are read: '
            'write it anew without (`h5repack -f NONE IN OUT`, or by h5py without `compression`)'
        )
    return found


def undo(block: bytes | memoryview, filters: list[Filter], skipped: int, size: int) -> bytes | memoryview:
    """A chunk of `size` bytes as it was before the filters; bit n of `skipped` says that filter n was left out.

    Raises:
        ValueError: it does not come to that size, or fails its checksum.
    """
    # What an earlier filter may have added, such as checksums; nothing unpacks to more.
    most = size + size // 8 + 1024
    for place, (number, values) in reversed(list(enumerate(filters))):
        if skipped >> place & 1:
            continue
        if number == DEFLATE:
            block = _inflate(block, most)
        elif number == LZF:
            block = _unpack_lzf(bytes(block), most)
        elif number == FLETCHER32:
            block = _verified(block)
        else:
            block = _unshuffled(block, values)
    if len(block) != size:
        raise ValueError(f'a chunk holds {len(block)} bytes in place of {size}')
    return block


def _inflate(block: bytes | memoryview, most: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(block, most)
    except zlib.error as error:
        raise ValueError(f'a chunk does not unpack ({error})') from None
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError('a chunk does not unpack to its size')
    return content


def _unshuffled(block: bytes | memoryview, values: tuple[int, ...]) -> bytes | memoryview:
    """Byte 0 of each element came first, then byte 1; what is left over at the end stayed in place."""
    width = values[0] if values else 0
    if width < 1:
        raise ValueError('a chunk is shuffled by no bytes')
    count = len(block) // width
    if width == 1 or count < 2:
        return block
    planes = np.frombuffer(block, np.uint8, count * width).reshape(width, count)
    return planes.T.tobytes() + bytes(block[count * width :])


def _verified(block: bytes | memoryview) -> memoryview:
    """Without Fletcher's checksum, which is the last four bytes: two sums of big-endian 16-bit words modulo 65535."""
    content, checksum = memoryview(block)[:-4], bytes(block[-4:])
    first, second = 0, 0
    for start in range(0, len(content), 1 << 17):
        piece = bytes(content[start : start + (1 << 17)])
        part = np.frombuffer(piece + b'\0' * (len(piece) % 2), '>u2').astype(np.uint64)
        total = int(part.sum())
        weighted = int((part * np.arange(len(part), 0, -1, dtype=np.uint64)).sum())
        second = (second + len(part) * first + weighted) % 65535
        first = (first + total) % 65535
    if len(checksum) < 4 or struct.unpack('<HH', checksum) not in _equal(first, second):
        raise ValueError('a chunk fails its checksum')
    return content


def _equal(first: int, second: int) -> set[tuple[int, int]]:
    """Zero has two forms modulo 65535."""
    return {(a, b) for a in ({0, 65535} if not first else {first}) for b in ({0, 65535} if not second else {second})}


def _unpack_lzf(block: bytes, most: int) -> bytes:
    """Runs of up to 32 bytes as they are, and copies of what came before."""
    content, position = bytearray(), 0
    try:
        while position < len(block) and len(content) <= most:
            control = block[position]
            position += 1
            if control < 32:
                content += block[position : position + control + 1]
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += block[position]
                position += 1
            start = len(content) - ((control & 31) << 8) - block[position] - 1
            position += 1
            if start < 0:
                raise ValueError('a chunk does not unpack')
            copied = bytes(content[start : start + length + 2])
            content += (copied * (-(-(length + 2) // len(copied))))[: length + 2]
    except IndexError:
        raise ValueError('a chunk does not unpack') from None
    if position != len(block):
        raise ValueError('a chunk does not unpack to its size')
    return bytes(content)
