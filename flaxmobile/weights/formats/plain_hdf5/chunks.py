"""Arrays in chunks: where the chunks lie, by each kind of index (III.A, VII), and what they make together."""

import math
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from flaxmobile.weights.formats.plain_hdf5.chunk_arrays import ExtensibleArray, FixedArray
from flaxmobile.weights.formats.plain_hdf5.filters import Filter, undo
from flaxmobile.weights.formats.plain_hdf5.headers import Shape
from flaxmobile.weights.formats.plain_hdf5.source import NOWHERE, REPACK, NotReadError, Source
from flaxmobile.weights.formats.plain_hdf5.trees import records

CHUNKED = 2
PACKED_SINGLE = 2
PLAIN_TREE, PACKED_TREE = 10, 11
UNLIMITED = 0xFFFFFFFFFFFFFFFF


class Index(IntEnum):
    """How the chunks of an array are found."""

    OLD_TREE = 0
    SINGLE = 1
    IMPLICIT = 2
    FIXED = 3
    EXTENSIBLE = 4
    TREE = 5


class Layout(NamedTuple):
    """Sides of a chunk and bytes of an element; the index, its parameters and its address."""

    chunk: tuple[int, ...]
    item: int
    kind: Index
    parameters: bytes
    address: int


class Chunk(NamedTuple):
    """Where the chunk at a place of the grid lies, how many bytes it has, and which filters it was spared."""

    place: tuple[int, ...]
    address: int
    size: int
    skipped: int


def layout_of(message: bytes, name: str) -> Layout:
    """The layout message of an array in chunks (IV.A.2.i), version 3, 4 or 5."""
    if message[0] == 3:
        address = struct.unpack_from('<Q', message, 3)[0]
        *chunk, item = struct.unpack_from(f'<{message[2]}I', message, 11)
        layout = Layout(tuple(chunk), item, Index.OLD_TREE, b'', address)
    else:
        flags, rank, width = message[2:5]
        end = 5 + rank * width
        *chunk, item = (int.from_bytes(message[start : start + width], 'little') for start in range(5, end, width))
        if message[end] not in tuple(Index)[1:] or flags & ~PACKED_SINGLE:
            raise NotReadError(f'the chunks of {name} are stored in a way that is not known; {REPACK}')
        index = Index(message[end])
        sizes = {Index.FIXED: 1, Index.EXTENSIBLE: 5, Index.TREE: 6}
        last = end + 1 + (12 if index == Index.SINGLE and flags & PACKED_SINGLE else sizes.get(index, 0))
        address = struct.unpack_from('<Q', message, last)[0]
        layout = Layout(tuple(chunk), item, index, message[end + 1 : last], address)
    if not all(layout.chunk):
        raise ValueError(f'{name} lies in chunks of no size')
    return layout


def read_chunks(
    source: Source, layout: Layout, shape: Shape, dtype: np.dtype, filters: list[Filter], name: str
) -> np.ndarray:
    """The array that the chunks make; each of them has to be there."""
    grid = tuple(-(-side // length) for side, length in zip(shape.sides, layout.chunk, strict=True))
    size = math.prod(layout.chunk) * dtype.itemsize
    values, seen = np.empty(shape.sides, dtype), np.zeros(grid, bool)
    found = _chunks(source, layout, shape, grid, size, bool(filters)) if seen.size else ()
    for place, address, length, skipped in found:
        if any(at >= count for at, count in zip(place, grid, strict=True)) or seen[place]:
            raise ValueError(f'{name} has a chunk twice, or outside of it')
        seen[place] = True
        starts = [at * side for at, side in zip(place, layout.chunk, strict=True)]
        sides = [min(side, end - start) for start, side, end in zip(starts, layout.chunk, shape.sides, strict=True)]
        part = np.frombuffer(undo(source.numbers(address, length), filters, skipped, size), dtype).reshape(layout.chunk)
        if layout.chunk == shape.sides:
            return part
        inside = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        values[inside] = part[tuple(map(slice, sides))]
    if not seen.all():
        missing = seen.size - np.count_nonzero(seen)
        raise ValueError(f'{name} lies in {seen.size} chunks, of which {missing} were never written')
    return values


def _chunks(
    source: Source, layout: Layout, shape: Shape, grid: tuple[int, ...], size: int, packed: bool
) -> Iterator[Chunk]:
    if layout.address == NOWHERE:
        return
    match layout.kind:
        case Index.OLD_TREE:
            yield from _old_tree(source, layout)
        case Index.SINGLE:
            length, skipped = struct.unpack('<QI', layout.parameters) if layout.parameters else (size, 0)
            yield Chunk((0,) * len(grid), layout.address, length, skipped)
        case Index.TREE:
            yield from _new_tree(source, layout, len(grid), size, packed)
        case _:
            yield from _by_number(source, layout, shape, grid, size)


def _old_tree(source: Source, layout: Layout) -> Iterator[Chunk]:
    nodes, rank = [layout.address], len(layout.chunk)
    key = 16 + 8 * rank
    while nodes:
        node = nodes.pop()
        magic, kind, level, count = struct.unpack('<4sBBH', source.take(node, 8))
        if magic != b'TREE' or kind != 1:
            raise ValueError('a tree of it is damaged')
        block = source.take(node + 8, 16 + (key + 8) * count + key)
        for start in range(16, 16 + (key + 8) * count, key + 8):
            child = struct.unpack_from('<Q', block, start + key)[0]
            if level:
                nodes.append(child)
                continue
            length, skipped, *offsets = struct.unpack_from(f'<II{rank}Q', block, start)
            yield Chunk(_placed(offsets, layout.chunk), child, length, skipped)


def _placed(offsets: list[int], chunk: tuple[int, ...]) -> tuple[int, ...]:
    if any(offset % side for offset, side in zip(offsets, chunk, strict=True)):
        raise ValueError('a chunk of it lies between others')
    return tuple(offset // side for offset, side in zip(offsets, chunk, strict=True))


def _new_tree(source: Source, layout: Layout, rank: int, size: int, packed: bool) -> Iterator[Chunk]:
    for record in records(source, layout.address, PACKED_TREE if packed else PLAIN_TREE):
        entry, place = record[: len(record) - 8 * rank], struct.unpack(f'<{rank}Q', record[len(record) - 8 * rank :])
        yield Chunk(place, *_entry(entry, size))


def _entry(entry: bytes, size: int) -> tuple[int, int, int]:
    """Address, stored size and skipped filters: the last two are said of packed chunks only."""
    address = int.from_bytes(entry[:8], 'little')
    if len(entry) == 8:
        return address, size, 0
    return address, int.from_bytes(entry[8:-4], 'little'), int.from_bytes(entry[-4:], 'little')


def _by_number(source: Source, layout: Layout, shape: Shape, grid: tuple[int, ...], size: int) -> Iterator[Chunk]:
    """Chunks numbered in the order of the largest grid that the array may grow to, its endless side first."""
    most = [-(-side // length) for side, length in zip(shape.most, layout.chunk, strict=True)]
    endless = shape.most.index(UNLIMITED) if UNLIMITED in shape.most else 0
    order = [endless, *(axis for axis in range(len(grid)) if axis != endless)]
    steps = {axis: math.prod(most[after] for after in order[place + 1 :]) for place, axis in enumerate(order)}
    entries: FixedArray | ExtensibleArray | None = None
    if layout.kind != Index.IMPLICIT:
        entries = (FixedArray if layout.kind == Index.FIXED else ExtensibleArray)(source, layout.address)
    for place in np.ndindex(grid):
        number = sum(steps[axis] * at for axis, at in enumerate(place))
        if entries is None:
            yield Chunk(place, layout.address + size * number, size, 0)
            continue
        address, length, skipped = _entry(entries.entry(number), size)
        if address != NOWHERE:
            yield Chunk(place, address, length, skipped)
