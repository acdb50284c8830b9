"""The arrays of an HDF5 file, without libhdf5.

On a damaged file libhdf5 2.0.0 may claim gigabytes or never return. This reads the structures that h5py and h5repack
write, old and new: superblocks 0 to 3, groups of symbol tables or of links, arrays in one piece or in chunks, packed
with gzip, LZF, shuffle or Fletcher32. Anything else is refused by name, links and other files included. No size is
believed that does not fit the file, and no byte of it is read for two structures (`source`).
Sections are those of the HDF5 File Format Specification, version 3.
"""

import math
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from flaxmobile.messages import printable
from flaxmobile.weights.formats.plain_hdf5.chunks import CHUNKED, layout_of, read_chunks
from flaxmobile.weights.formats.plain_hdf5.filters import filters_of
from flaxmobile.weights.formats.plain_hdf5.groups import Texts, members
from flaxmobile.weights.formats.plain_hdf5.headers import (
    DATASPACE,
    DATATYPE,
    EXTERNAL,
    FILTERS,
    LAYOUT,
    Header,
    Shape,
    dtype_of,
    read_header,
    shape_of,
)
from flaxmobile.weights.formats.plain_hdf5.source import NOWHERE, REPACK, NotReadError, Source
from flaxmobile.weights.formats.strict_zip import EXPANSION_FLOOR, LARGEST_EXPANSION

SIGNATURE = b'\x89HDF\r\n\x1a\n'
COMPACT, CONTIGUOUS, VIRTUAL = 0, 1, 3
LONGEST_NAMES = 1 << 16
# A chunk costs time however small it is: what an honest file has of them beyond its size.
SPARE_CHUNKS, BYTES_FOR_A_CHUNK = 4096, 64


class Array(NamedTuple):
    """An array in the file.

    Attributes:
        path: the names of the groups that lead to it, and its own.
        group_name: the text attribute `name` of the innermost group, '' where it has none.
        values: read-only; in the file's memory where it lies there as it is.
    """

    path: tuple[str, ...]
    group_name: str
    values: np.ndarray


def arrays(content: BinaryIO | bytes | memoryview, skip: frozenset[str] = frozenset()) -> Iterator[Array]:
    """Every array in a file that is open or in memory, but those below the root's members in `skip`.

    Raises:
        NotReadError: it holds what is not read.
        ValueError: it is damaged. What came before that shows may be damaged too.
    """
    try:
        yield from _File(Source(content)).arrays(skip)
    except (struct.error, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f'a structure of it is cut off or damaged ({error})') from error


class _File:
    """What was read so far, and what may yet be."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.texts = Texts(source)
        # Unpacked, what an archive may have (`strict_zip`).
        self.bytes_left = max(EXPANSION_FLOOR, LARGEST_EXPANSION * source.size)
        self.letters_left = max(LONGEST_NAMES, source.size)
        self.chunks_left = SPARE_CHUNKS + source.size // BYTES_FOR_A_CHUNK

    def arrays(self, skip: frozenset[str]) -> Iterator[Array]:
        root = _root(self.source)
        pending: list[tuple[tuple[str, ...], Header]] = [((), read_header(self.source, root))]
        seen = {root}
        while pending:
            path, group = pending.pop()
            group_name = self.texts.name(group)
            found = dict[str, int]()
            for name, address in members(self.source, group, _shown(path)):
                where = (*path, name)
                if name in found or address in seen:
                    raise ValueError(f'{_shown(where)} is linked twice')
                seen.add(address)
                found[name] = address
            for name, address in sorted(found.items()):
                where = (*path, name)
                self.letters_left -= sum(map(len, where)) + len(group_name)
                if self.letters_left < 0:
                    raise ValueError('its names are longer than the file')
                if not path and name in skip:
                    continue
                header = read_header(self.source, address)
                if header.one(LAYOUT) is None:
                    pending.append((where, header))
                else:
                    yield Array(where, group_name, self._values(header, _shown(where)))
        self.source.finish()

    def _values(self, header: Header, name: str) -> np.ndarray:
        """The values of an array, after all that its header claims was held against the file."""
        layout = header.one(LAYOUT) or b''
        if layout[0] not in (3, 4, 5):
            raise NotReadError(f'{name} has a layout of version {layout[0]}, which is not read; {REPACK}')
        if header.one(EXTERNAL) is not None or layout[1] == VIRTUAL:
            raise NotReadError(f'{name} shows what lies in another file, which is not read')
        shape, dtype = shape_of(header.one(DATASPACE), name), dtype_of(header.one(DATATYPE), name)
        claimed = math.prod(shape.sides) * dtype.itemsize
        if layout[1] == CHUNKED:
            values = self._in_chunks(header, layout, shape, dtype, name)
        else:
            values = np.frombuffer(self._in_one_piece(layout, claimed, name), dtype).reshape(shape.sides)
        values = values.astype(dtype.newbyteorder('='), copy=False)
        values.flags.writeable = False
        return values

    def _in_one_piece(self, layout: bytes, claimed: int, name: str) -> bytes | memoryview:
        if layout[1] == COMPACT:
            stored = int.from_bytes(layout[2:4], 'little')
            there = min(stored, len(layout) - 4)
        elif layout[1] == CONTIGUOUS:
            start, stored = struct.unpack_from('<QQ', layout, 2)
            there = 0 if start == NOWHERE else max(0, min(stored, self.source.size - start))
        else:
            raise ValueError(f'{name} is stored in an unknown way')
        if claimed != stored or claimed != there:
            raise ValueError(f'{name} claims {claimed} bytes, of which {there} are stored')
        if layout[1] == COMPACT:
            return layout[4 : 4 + claimed]
        return self.source.numbers(start, claimed) if claimed else b''

    def _in_chunks(self, header: Header, message: bytes, shape: Shape, dtype: np.dtype, name: str) -> np.ndarray:
        layout = layout_of(message, name)
        if layout.item != dtype.itemsize or len(layout.chunk) != len(shape.sides):
            raise ValueError(f'{name} lies in chunks of another kind')
        filters = filters_of(header.one(FILTERS), name)
        count = math.prod(-(-side // length) for side, length in zip(shape.sides, layout.chunk, strict=True))
        claimed = count * math.prod(layout.chunk) * dtype.itemsize
        self.bytes_left -= max(claimed, math.prod(shape.sides) * dtype.itemsize)
        self.chunks_left -= count
        if self.bytes_left < 0:
            raise ValueError(f'the chunks of {name} claim {claimed} bytes, which the file cannot hold')
        if self.chunks_left < 0:
            raise ValueError(
                f'{name} lies in {count} chunks, too small for this file; `h5repack -l CONTI IN OUT` joins them'
            )
        return read_chunks(self.source, layout, shape, dtype, filters, name)


def _root(source: Source) -> int:
    """Address of the root's header, from the superblock (II)."""
    start = source.take(0, 16)
    if start[:8] != SIGNATURE:
        raise ValueError('it is not an HDF5 file')
    version = start[8]
    if version in (2, 3):
        if start[9:11] != b'\x08\x08':
            raise NotReadError(f'its addresses are not of 8 bytes; {REPACK}')
        block = start + source.take(16, 32)
        source.check(block, SIGNATURE)
        base, _, end, root = struct.unpack_from('<4Q', block, 12)
        if start[11] & 5:
            raise NotReadError('it was not closed after it was written: `h5clear -s` marks it whole, if it is')
    elif version in (0, 1):
        if start[8:16] != bytes([version]) + b'\0\0\0\0\x08\x08\0':
            raise NotReadError(f'its addresses are not of 8 bytes; {REPACK}')
        length = 12 if version else 8
        base, _, end, _, _, root = struct.unpack_from('<6Q', source.take(16, length + 48), length)
    else:
        raise NotReadError(f'it is of a version that is not known (superblock {version})')
    if base or end > source.size:
        raise ValueError('it is cut short')
    return root


def _shown(path: tuple[str, ...]) -> str:
    return printable('/'.join(path)) or 'its root'
