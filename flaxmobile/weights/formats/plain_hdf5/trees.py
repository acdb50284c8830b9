"""Trees of version 2 (III.A.2): the records of groups, attributes and chunks, in order."""

import struct
from collections.abc import Iterator

from flaxmobile.weights.formats.plain_hdf5.source import NOWHERE, Source


def records(source: Source, address: int, kind: int) -> Iterator[bytes]:
    """Every record of the tree at an address, which has to be of that kind."""
    header = source.checked(address, 38, b'BTHD\0')
    found, node_size, size, depth, _, _, root, count, total = struct.unpack('<5xBIHHBBQHQ', header)
    if found != kind or not size or node_size < 10 + size:
        raise ValueError('a tree of it is damaged')
    if root == NOWHERE:
        return
    widths = _pointer_widths(node_size, size, depth)
    nodes, given = [(root, count, depth)], 0
    while nodes:
        node, count, level = nodes.pop()
        signature = b'BTIN\0' if level else b'BTLF\0'
        pointers = sum(widths[level - 1]) * (count + 1) if level else 0
        block = source.checked(node, 6 + size * count + pointers + 4, signature)
        if block[5] != kind:
            raise ValueError('a tree of it is damaged')
        yield from (block[start : start + size] for start in range(6, 6 + size * count, size))
        given += count
        if level:
            nodes += _children(block[6 + size * count :], widths[level - 1], level - 1)
    if given != total:
        raise ValueError('a tree of it is damaged')


def _children(pointers: bytes, widths: tuple[int, int, int], level: int) -> Iterator[tuple[int, int, int]]:
    for start in range(0, len(pointers), sum(widths)):
        count = pointers[start + 8 : start + 8 + widths[1]]
        yield int.from_bytes(pointers[start : start + 8], 'little'), int.from_bytes(count, 'little'), level


def _pointer_widths(node_size: int, size: int, depth: int) -> list[tuple[int, int, int]]:
    """Bytes of a pointer's address, records and records below, to nodes of each level from the leaves."""
    most = (node_size - 10) // size
    width, below, all_width = _width(most), most, 0
    widths = []
    for _ in range(depth):
        widths.append((8, width, all_width))
        pointer = sum(widths[-1])
        most = (node_size - 10 - pointer) // (size + pointer)
        if most < 1:
            raise ValueError('a tree of it is damaged')
        below = (most + 1) * below + most
        all_width = _width(below)
        if all_width > 8:
            raise ValueError('a tree of it is damaged')
    return widths


def _width(number: int) -> int:
    return (number.bit_length() - 1) // 8 + 1
