"""What is in a group, old (III.A.1, III.B to III.D) or new (III.A.2, III.G), and its text `name` (III.E)."""

import struct
from bisect import bisect_right
from collections.abc import Iterator

from flaxmobile.messages import printable
from flaxmobile.weights.formats.plain_hdf5.headers import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    LINK,
    LINK_INFO,
    SYMBOL_TABLE,
    Header,
    Reference,
    text_attribute,
)
from flaxmobile.weights.formats.plain_hdf5.source import NOWHERE, NotReadError, Source, lookup3
from flaxmobile.weights.formats.plain_hdf5.trees import records

HARD_LINK, SOFT_LINK = 0, 1
CACHED_SOFT_LINK = 2
LINKS, ATTRIBUTES = 5, 8
# In one global heap; a valid one has at most 64 kB for them.
MOST_TEXTS = 4096


def members(source: Source, header: Header, where: str) -> Iterator[tuple[str, int]]:
    """Names and header addresses of what is in a group; `where` is the group in words.

    Raises:
        ValueError: it is no group, or holds a link to elsewhere.
    """
    table = header.one(SYMBOL_TABLE)
    if table is not None:
        yield from _old_members(source, table, where)
        return
    info = header.one(LINK_INFO)
    if info is None:
        raise ValueError(f'{where} is neither a group nor an array')
    for link in header.all(LINK):
        yield _linked(link, where)
    heap, index = struct.unpack_from('<QQ', info, 10 if info[1] & 1 else 2)
    if heap != NOWHERE:
        objects = FractalHeap(source, heap)
        for record in records(source, index, LINKS):
            yield _linked(objects.get(record[4:]), where)


def _old_members(source: Source, table: bytes, where: str) -> Iterator[tuple[str, int]]:
    tree, heap = struct.unpack('<QQ', table)
    magic, size, _, address = struct.unpack('<8s3Q', source.take(heap, 32))
    if magic[:5] != b'HEAP\0':
        raise ValueError('the names of a group are damaged')
    names = source.take(address, size)
    for offset, target, kind in _symbols(source, tree):
        end = names.find(b'\0', offset)
        if end < 0:
            raise ValueError('a name is damaged')
        name = names[offset:end].decode()
        if kind == CACHED_SOFT_LINK:
            raise NotReadError(f'{where}/{printable(name)} is a link, which is not followed')
        yield name, target


def _symbols(source: Source, tree: int) -> Iterator[tuple[int, int, int]]:
    """A group's symbol table entries: offset of the name, address, kind of link."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        magic, kind, _, count = struct.unpack('<4sBBH', source.take(node, 8))
        if magic == b'SNOD' and kind == 1:
            yield from struct.iter_unpack('<QQI20x', source.take(node + 8, 40 * count))
        elif magic == b'TREE' and kind == 0:
            nodes += struct.unpack('<16x' + '8xQ' * count + '8x', source.take(node + 8, 24 + 16 * count))[::-1]
        else:
            raise ValueError('a node of a group is damaged')


def _linked(message: bytes, where: str) -> tuple[str, int]:
    """Name and address from a link message (IV.A.2.g)."""
    version, flags = message[:2]
    if version != 1:
        raise ValueError(f'a link in {where} is damaged')
    position = 2 + (8 if flags & 4 else 0) + (1 if flags & 16 else 0) + (1 if flags & 8 else 0)
    kind = message[2] if flags & 8 else HARD_LINK
    width = 1 << (flags & 3)
    length = int.from_bytes(message[position : position + width], 'little')
    text = message[position + width : position + width + length]
    if len(text) != length:
        raise ValueError(f'a link in {where} is damaged')
    name = text.decode()
    if kind != HARD_LINK:
        elsewhere = '' if kind == SOFT_LINK else ' to another file'
        raise NotReadError(f'{where}/{printable(name)} is a link{elsewhere}, which is not followed')
    return name, struct.unpack_from('<Q', message, position + width + length)[0]


class FractalHeap:
    """Small objects of a group by their ids: links, or attributes (III.G)."""

    def __init__(self, source: Source, address: int) -> None:
        block = source.checked(address, 146, b'FRHP\0')
        self.id_length, filters, self.flags, largest = struct.unpack_from('<HHBI', block, 5)
        self.width, self.start, self.largest_block, bits, _, root, rows = struct.unpack_from('<HQQHHQH', block, 110)
        sizes = (self.width, self.start, self.largest_block)
        if filters or any(size < 1 or size & size - 1 for size in sizes) or not rows <= bits <= 64:
            raise ValueError('a heap of it is damaged or compressed')
        self.offset_width = -(-bits // 8)
        bound = (self.largest_block.bit_length() + 6) // 8
        self.length_width = min(bound, (max(largest, 1).bit_length() - 1) // 8 + 1)
        self.source, self.owner = source, address
        blocks = self._indirect(root, rows, 0) if rows else self._direct(root, 0, self.start)
        pairs = sorted(blocks) if root != NOWHERE else []
        self.offsets = [offset for offset, _ in pairs]
        self.blocks = [block for _, block in pairs]

    def _direct(self, address: int, offset: int, size: int) -> Iterator[tuple[int, bytes]]:
        block = self.source.take(address, size)
        self._own(block, b'FHDB\0', offset)
        if self.flags & 2:
            place = 13 + self.offset_width
            if lookup3(block[:place] + bytes(4) + block[place + 4 :]) != int.from_bytes(
                block[place : place + 4], 'little'
            ):
                raise ValueError('a heap of it fails its checksum')
        yield offset, block

    def _indirect(self, address: int, rows: int, offset: int) -> Iterator[tuple[int, bytes]]:
        start = 13 + self.offset_width
        block = self.source.checked(address, start + 8 * rows * self.width + 4, b'FHIB\0')
        self._own(block, b'FHIB\0', offset)
        for index, (child,) in enumerate(struct.iter_unpack('<Q', block[start:])):
            row = index // self.width
            size = self.start << max(0, row - 1)
            if child != NOWHERE and size <= self.largest_block:
                yield from self._direct(child, offset, size)
            elif child != NOWHERE:
                below = size.bit_length() - (self.start * self.width).bit_length() + 1
                yield from self._indirect(child, below, offset)
            offset += size

    def _own(self, block: bytes, signature: bytes, offset: int) -> None:
        owner = int.from_bytes(block[5:13], 'little')
        place = int.from_bytes(block[13 : 13 + self.offset_width], 'little')
        if not block.startswith(signature) or (owner, place) != (self.owner, offset):
            raise ValueError('a heap of it is damaged')

    def get(self, identity: bytes) -> bytes:
        """The object of an id."""
        end = 1 + self.offset_width
        offset = int.from_bytes(identity[1:end], 'little')
        length = int.from_bytes(identity[end : end + self.length_width], 'little')
        if identity[0]:
            raise NotReadError('a link or attribute of it is too large to be read')
        number = bisect_right(self.offsets, offset) - 1
        if number < 0 or offset - self.offsets[number] + length > len(self.blocks[number]):
            raise ValueError('a heap of it is damaged')
        start = offset - self.offsets[number]
        return self.blocks[number][start : start + length]


class Texts:
    """The texts in a file's global heaps."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.heaps: dict[int, dict[int, bytes]] = {}

    def name(self, header: Header) -> str:
        """The text attribute `name` of an object, '' without one."""
        bodies = header.all(ATTRIBUTE)
        info = header.one(ATTRIBUTE_INFO)
        if info is not None:
            heap, index = struct.unpack_from('<QQ', info, 4 if info[1] & 1 else 2)
            if heap != NOWHERE:
                found = [r for r in records(self.source, index, ATTRIBUTES) if r[13:] == NAME_HASH]
                objects = FractalHeap(self.source, heap) if found else None
                bodies += [objects.get(record[:8]) for record in found if objects and not record[8]]
        values = [value for body in bodies if (value := text_attribute(body, b'name')) is not None]
        if len(values) > 1:
            raise ValueError('a header has two names')
        return self._text(values[0]) if values else ''

    def _text(self, value: Reference | str) -> str:
        if isinstance(value, str):
            return value
        if not value.length:
            return ''
        if value.heap not in self.heaps:
            self.heaps[value.heap] = self._heap(value.heap)
        text = self.heaps[value.heap].pop(value.number, b'')
        if len(text) != value.length:
            raise ValueError('a text of it is damaged')
        return text.decode()

    def _heap(self, address: int) -> dict[int, bytes]:
        magic, size = struct.unpack('<8sQ', self.source.take(address, 16))
        if magic[:5] != b'GCOL\1' or size < 16:
            raise ValueError('a text of it is damaged')
        block, position = self.source.take(address + 16, size - 16), 0
        texts: dict[int, bytes] = {}
        while position + 16 <= len(block) and len(texts) < MOST_TEXTS:
            number, length = struct.unpack_from('<H6xQ', block, position)
            if not number:
                break
            texts[number] = block[position + 16 : position + 16 + length]
            position += 16 + -(-length // 8) * 8
        return texts


NAME_HASH = lookup3(b'name').to_bytes(4, 'little')
