"""Two indexes of chunks: arrays of a fixed size (VII.C) and extensible ones (VII.D), whose entries have a number.

A page of entries that was never written has no checksum either: whoever asks for one of them finds damage.
"""

import struct
from typing import NamedTuple

from flaxmobile.weights.formats.plain_hdf5.source import NOWHERE, Source

DAMAGED = 'an index of chunks is damaged'


class _Place(NamedTuple):
    """A data block: its address, how many entries it has, and how many bytes lie before them without its checksum."""

    address: int
    entries: int
    prefix: int


class _Blocks:
    """Entries in data blocks: each block has its own checksum, a larger one a checksum for each page of entries."""

    def __init__(self, source: Source, signature: bytes, owner: int, width: int, bits: int) -> None:
        self.source, self.signature, self.owner = source, signature, owner
        self.width, self.page = width, 1 << bits
        self.missing = NOWHERE.to_bytes(8, 'little') + bytes(max(0, width - 8))
        self._read: dict[int, bytes] = {}

    def entry(self, place: _Place, number: int) -> bytes:
        """The entry of that number in the block."""
        if place.address == NOWHERE:
            return self.missing
        if not 0 <= number < place.entries:
            raise ValueError(DAMAGED)
        if place.entries <= self.page:
            return self._cut(self.block(place.address, place.prefix + place.entries * self.width), place.prefix, number)
        self.block(place.address, place.prefix)
        first = number // self.page * self.page
        start = place.address + place.prefix + 4 + number // self.page * (self.page * self.width + 4)
        if start not in self._read:
            block = self.source.take(start, min(self.page, place.entries - first) * self.width + 4)
            self.source.check(block, b'')
            self._read[start] = block
        return self._cut(self._read[start], 0, number - first)

    def block(self, address: int, size: int, signature: bytes = b'') -> bytes:
        """A block of that size and its checksum, read once."""
        if address not in self._read:
            block = self.source.checked(address, size + 4, signature or self.signature)
            if int.from_bytes(block[6:14], 'little') != self.owner:
                raise ValueError(DAMAGED)
            self._read[address] = block
        return self._read[address]

    def _cut(self, block: bytes, start: int, number: int) -> bytes:
        return block[start + number * self.width : start + (number + 1) * self.width]


class FixedArray:
    """The fixed array whose header lies at an address."""

    def __init__(self, source: Source, address: int) -> None:
        header = source.checked(address, 28, b'FAHD\0')
        _, width, bits, count, block = struct.unpack_from('<BBBQQ', header, 5)
        self._blocks = _Blocks(source, b'FADB\0', address, width, bits)
        pages = (count - 1 >> bits) + 1
        bitmap = (pages + 7) // 8 if pages > 1 else 0
        self._place = _Place(block, count, 14 + bitmap)

    def entry(self, number: int) -> bytes:
        """The entry of a chunk."""
        return self._blocks.entry(self._place, number)


class ExtensibleArray:
    """The extensible array whose header lies at an address: level by level it has more data blocks, or larger ones."""

    def __init__(self, source: Source, address: int) -> None:
        header = source.checked(address, 72, b'EAHD\0')
        _, width, bits, self.first, self.least, self.pointers, page_bits = header[5:12]
        *_, self.address = struct.unpack_from('<7Q', header, 12)
        if any(size < 1 or size & size - 1 for size in (self.least, self.pointers)) or bits > 64:
            raise ValueError(DAMAGED)
        self._blocks = _Blocks(source, b'EADB\0', address, width, page_bits)
        self.offset_width = -(-bits // 8)
        self.direct = 2 * (self.pointers.bit_length() - 1)
        self.supers = bits - (self.least.bit_length() - 1) + 1 - self.direct
        if self.supers < 0:
            raise ValueError(DAMAGED)

    def entry(self, number: int) -> bytes:
        """The entry of a chunk."""
        blocks, start = self._blocks, 14 + self.first * self._blocks.width
        if self.address == NOWHERE:
            return blocks.missing
        size = start + 8 * (2 * (self.pointers - 1) + self.supers)
        index = blocks.block(self.address, size, b'EAIB\0')
        if number < self.first:
            return index[14 + number * blocks.width : 14 + (number + 1) * blocks.width]
        number -= self.first
        above = (number // self.least + 1).bit_length() - 1
        number -= sum(_blocks_of(level) * self._entries_of(level) for level in range(above))
        place, number = divmod(number, self._entries_of(above))
        if above < self.direct:
            before = sum(map(_blocks_of, range(above)))
            return blocks.entry(self._data(index, start + 8 * (before + place), above), number)
        if above - self.direct >= self.supers:
            raise ValueError(DAMAGED)
        address = int.from_bytes(index[start + 8 * (2 * (self.pointers - 1) + above - self.direct) :][:8], 'little')
        if address == NOWHERE:
            return blocks.missing
        pages = self._entries_of(above) // blocks.page if self._entries_of(above) > blocks.page else 0
        prefix = 14 + self.offset_width + _blocks_of(above) * -(-pages // 8)
        upper = blocks.block(address, prefix + 8 * _blocks_of(above), b'EASB\0')
        return blocks.entry(self._data(upper, prefix + 8 * place, above), number)

    def _entries_of(self, level: int) -> int:
        return self.least << (level + 1) // 2

    def _data(self, block: bytes, start: int, level: int) -> _Place:
        address = int.from_bytes(block[start : start + 8], 'little')
        return _Place(address, self._entries_of(level), 14 + self.offset_width)


def _blocks_of(level: int) -> int:
    return 1 << level // 2
