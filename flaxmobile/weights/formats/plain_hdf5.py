"""The arrays of an HDF5 file as h5py writes one by default, without libhdf5.

On a damaged file libhdf5 2.0.0 may claim gigabytes or never return. This reads the oldest version of each structure,
which h5py writes unless told otherwise: superblock 0, groups of version-1 B-trees, version-1 object headers, and arrays
in one piece. Anything else is refused by name, links and other files included. No size is believed that does not fit
the file, and no structure is visited twice. Sections are those of the HDF5 File Format Specification, version 3.
"""

import math
import struct
from collections.abc import Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

# In one global heap: h5py's hold up to 170, and a search of each for every object may not take for ever.
MOST_TEXTS = 1024
SIGNATURE = b'\x89HDF\r\n\x1a\n'
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = (
    *(0x01, 0x02, 0x03, 0x06, 0x07, 0x08, 0x0B, 0x0C, 0x10, 0x11),
)
SHARED = 0x02
COMPACT, CONTIGUOUS = 0, 1
NOWHERE = 0xFFFFFFFFFFFFFFFF
SOFT_LINK = 2
# The beginning of the message of a scalar text attribute `name`: version 1, the sizes of its parts, the name.
TEXT_ATTRIBUTE = b'\1\0\5\0\x14\0\x08\0name\0\0\0\0'
REPACK = '`h5repack -l CONTI -f NONE IN OUT` may make it plain'


class Array(NamedTuple):
    """An array in the file.

    Attributes:
        path: the names of the groups that lead to it, and its own.
        group_name: the text attribute `name` of the innermost group, '' where it has none.
        values: read-only, in the file's memory.
    """

    path: tuple[str, ...]
    group_name: str
    values: np.ndarray


class _Object(NamedTuple):
    """An object's header: its messages by kind, and the text attribute `name`."""

    messages: dict[int, bytes]
    name: str


def arrays(content: bytes, skip: frozenset[str] = frozenset()) -> Iterator[Array]:
    """Every array in the file, but those below the root's members in `skip`.

    Raises:
        ValueError: the file is damaged, or not plain.
    """
    try:
        yield from _arrays(content, skip)
    except (struct.error, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f'a structure of it is cut off or damaged ({error})') from error


def _arrays(content: bytes, skip: frozenset[str]) -> Iterator[Array]:
    pending: list[tuple[tuple[str, ...], _Object]] = [((), _object(content, _root(content)))]
    seen: set[int] = set()
    left = len(content)
    while pending:
        path, group = pending.pop()
        for name, address in _members(content, group, seen, '/'.join(path)):
            if not path and name in skip:
                continue
            where = (*path, name)
            if address in seen:
                raise ValueError(f'{"/".join(where)} is linked twice')
            seen.add(address)
            item = _object(content, address)
            if LAYOUT not in item.messages:
                pending.append((where, item))
                continue
            values = _values(content, item, '/'.join(where))
            left -= values.nbytes
            if left < 0:
                raise ValueError(f'{"/".join(where)} and the others claim more bytes than the file has')
            yield Array(where, group.name, values)


def _root(content: bytes) -> int:
    """Address of the root's header, from the superblock (II.A)."""
    if content[:8] != SIGNATURE:
        raise ValueError('it is not an HDF5 file')
    if content[8:16] != b'\0\0\0\0\0\x08\x08\0':
        raise ValueError(f'its superblock is not of version 0 with 8-byte addresses; {REPACK}')
    base, _, end, _, _, root = struct.unpack_from('<6Q', content, 24)
    if base or end > len(content):
        raise ValueError('it is cut short')
    return root


def _object(content: bytes, address: int) -> _Object:
    """The header at an address (IV.A.1.a)."""
    version, _, count, _, size = struct.unpack_from('<BBHII', content, address)
    if version != 1:
        raise ValueError(f'a header is not of version 1; {REPACK}')
    blocks, messages = [(address + 16, size)], {}
    names: list[str] = []
    starts = {address + 16}
    for position, length in blocks:
        end = min(position + length, len(content))
        while position + 8 <= end and count:
            kind, size, flags = struct.unpack_from('<HHB', content, position)
            body = content[position + 8 : position + 8 + size]
            position, count = position + 8 + size, count - 1
            if kind == CONTINUATION:
                block = struct.unpack_from('<QQ', body)
                if block[0] in starts:
                    raise ValueError('a header goes round in a circle')
                starts.add(block[0])
                blocks.append(block)
            elif kind == ATTRIBUTE and body.startswith(TEXT_ATTRIBUTE) and len(body) == 64:
                if names:
                    raise ValueError('a header has two names')
                names.append(_text(content, *struct.unpack('<IQI', body[48:])))
            elif kind and kind != ATTRIBUTE:
                messages[kind] = b'' if flags & SHARED else body
    if count:
        raise ValueError('a header is cut off')
    return _Object(messages, ''.join(names))


def _text(content: bytes, length: int, address: int, number: int) -> str:
    """A text in a global heap (III.E)."""
    magic, size = struct.unpack_from('<8sQ', content, address)
    position, end = address + 16, min(address + size, len(content))
    for _ in range(MOST_TEXTS):
        if magic[:5] != b'GCOL\1' or position + 16 > end:
            break
        index, size = struct.unpack_from('<H6xQ', content, position)
        if index == number and size == length <= end - position - 16:
            return content[position + 16 : position + 16 + length].decode()
        position += 16 + -(-size // 8) * 8
    raise ValueError('a text of it is damaged')


def _members(content: bytes, group: _Object, seen: set[int], where: str) -> Iterator[tuple[str, int]]:
    """Names and header addresses of what is in a group (III.A.1, III.B, III.C, III.D)."""
    if LINK in group.messages or LINK_INFO in group.messages:
        raise ValueError(f'{where or "its root"} holds links, which are not followed, or is not of the oldest kind')
    tree, heap = struct.unpack_from('<QQ', group.messages.get(SYMBOL_TABLE, b''))
    magic, size, _, names = struct.unpack_from('<8s3Q', content, heap)
    if magic[:5] != b'HEAP\0':
        raise ValueError('the names of a group are damaged')
    for position in _symbols(content, tree, seen):
        offset, address, kind = struct.unpack_from('<QQI', content, position)
        end = content.find(b'\0', names + offset, names + size)
        if offset >= size or end < 0:
            raise ValueError('a name is damaged')
        name = content[names + offset : end].decode()
        if kind == SOFT_LINK:
            raise ValueError(f'{where}/{name} is a link, which is not followed'.lstrip('/'))
        yield name, address


def _symbols(content: bytes, tree: int, seen: set[int]) -> Iterator[int]:
    """Addresses of a group's symbol table entries."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if node in seen:
            raise ValueError('a node of a group is linked twice')
        seen.add(node)
        magic, kind, _, count = struct.unpack_from('<4sBBH', content, node)
        if magic == b'SNOD' and kind == 1:
            yield from range(node + 8, node + 8 + 40 * count, 40)
        elif magic == b'TREE' and kind == 0:
            nodes += struct.unpack_from('<' + '8xQ' * count, content, node + 24)[::-1]
        else:
            raise ValueError('a node of a group is damaged')


def _values(content: bytes, item: _Object, name: str) -> np.ndarray:
    """The values of an array, after all that its header claims was held against the file."""
    layout = item.messages[LAYOUT]
    plain = layout[:1] == b'\3' and layout[1] in (COMPACT, CONTIGUOUS)
    if not plain or FILTERS in item.messages or EXTERNAL in item.messages:
        raise ValueError(f'{name} lies in chunks, compressed or in another file, as Keras does not write it; {REPACK}')
    dtype, shape = _dtype(item.messages.get(DATATYPE, b''), name), _shape(item.messages.get(DATASPACE, b''), name)
    claimed = math.prod(shape) * dtype.itemsize
    if layout[1] == COMPACT:
        stored, start = int.from_bytes(layout[2:4], 'little'), 4
        content = layout
    else:
        start, stored = struct.unpack_from('<QQ', layout, 2)
    if claimed != stored or (start == NOWHERE and claimed) or start + claimed > len(content):
        there = 0 if start == NOWHERE else max(0, min(stored, len(content) - start))
        raise ValueError(f'{name} claims {claimed} bytes, of which {there} are stored')
    values = np.frombuffer(memoryview(content)[start : start + claimed], dtype).reshape(shape)
    return values.astype(dtype.newbyteorder('='), copy=False)


def _shape(message: bytes, name: str) -> tuple[int, ...]:
    """Sides from a dataspace message (IV.A.2.b)."""
    version, rank = message[0], message[1]
    if version == 1:
        return struct.unpack_from(f'<{rank}Q', message, 8)
    if version == 2 and message[3] in (0, 1):
        return struct.unpack_from(f'<{rank}Q', message, 4)
    raise ValueError(f'{name} has no shape')


def _float(size: int, exponent: int, bias: int, order: int) -> bytes:
    mantissa = 8 * size - 1 - exponent
    widths = (0, 8 * size, mantissa, exponent, 0, mantissa, bias)
    return struct.pack('<BBBBIHHBBBBI', 0x11, 0x20 | order, 8 * size - 1, 0, size, *widths)


def _types() -> dict[bytes, np.dtype]:
    """The messages of the types that weights have (IV.A.2.d), to the bit."""
    types = {b'\x15' + bytes(3) + struct.pack('<I', 2): np.dtype(ml_dtypes.bfloat16)}
    for order, letter in enumerate('<>'):
        types |= {
            _float(size, exponent, bias, order): np.dtype(f'{letter}f{size}')
            for size, exponent, bias in ((2, 5, 15), (4, 8, 127), (8, 11, 1023))
        }
        types |= {
            struct.pack('<BBBBIHH', 0x10, signed << 3 | order, 0, 0, size, 0, 8 * size): np.dtype(
                f'{letter}{kind}{size}'
            )
            for signed, kind in enumerate('ui')
            for size in (1, 2, 4, 8)
        }
    return types


TYPES = _types()


def _dtype(message: bytes, name: str) -> np.dtype:
    for known, dtype in TYPES.items():
        if message.startswith(known):
            return dtype
    raise ValueError(f'{name} does not hold numbers that weights are')
