"""Headers of objects (IV.A): their messages, and what those say of a type, a shape and a text."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

from flaxmobile.weights.formats.plain_hdf5.source import NotReadError, Source

DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0B, 0x0C, 0x10, 0x11, 0x15
SHARED = 0x02
TIMES, LIMITS, CREATION_ORDER = 0x20, 0x10, 0x04
FIXED_TEXT, TEXT_ELSEWHERE = 3, 9


class Message(NamedTuple):
    """One message of a header; `body` is empty where it lies elsewhere in the file."""

    kind: int
    body: bytes


class Header(NamedTuple):
    """The messages of an object."""

    messages: list[Message]

    def all(self, kind: int) -> list[bytes]:
        """The bodies of its messages of one kind."""
        return [message.body for message in self.messages if message.kind == kind]

    def one(self, kind: int) -> bytes | None:
        """The body of its message of that kind, None without one.

        Raises:
            ValueError: there are two.
        """
        bodies = self.all(kind)
        if len(bodies) > 1:
            raise ValueError(f'a header says twice what it may say once (message {kind:#x})')
        return bodies[0] if bodies else None


def read_header(source: Source, address: int) -> Header:
    """The header at an address, of either version."""
    start = source.take(address, 4)
    messages = _new(source, address) if start == b'OHDR' else _old(source, address, start)
    return Header([message for message in messages if message.kind])


def _old(source: Source, address: int, start: bytes) -> Iterator[Message]:
    if start[0] != 1:
        raise ValueError(f'a structure of it is damaged (a header of version {start[0]})')
    count = int.from_bytes(start[2:4], 'little')
    _, size = struct.unpack('<II4x', source.take(address + 4, 12))
    blocks = [(address + 16, size)]
    for begin, length in blocks:
        block, position = source.take(begin, length), 0
        while position + 8 <= len(block) and count:
            kind, size, flags = struct.unpack_from('<HHB', block, position)
            body = block[position + 8 : position + 8 + size]
            position, count = position + 8 + size, count - 1
            if len(body) != size:
                raise ValueError('a header is cut off')
            if kind == CONTINUATION:
                blocks.append(struct.unpack_from('<QQ', body))
            else:
                yield Message(kind, b'' if flags & SHARED else body)
    if count:
        raise ValueError('a header is cut off')


def _new(source: Source, address: int) -> Iterator[Message]:
    version, flags = source.take(address + 4, 2)
    if version != 2:
        raise ValueError(f'a structure of it is damaged (a header of version {version})')
    before = 6 + (16 if flags & TIMES else 0) + (4 if flags & LIMITS else 0)
    width = 1 << (flags & 3)
    start = b'OHDR\2' + bytes([flags]) + source.take(address + 6, before + width - 6)
    size = int.from_bytes(start[before:], 'little')
    block = start + source.take(address + len(start), size + 4)
    source.check(block, b'OHDR')
    blocks, orders = [block[len(start) : -4]], 2 if flags & CREATION_ORDER else 0
    for block in blocks:
        position = 0
        while position + 4 + orders <= len(block):
            kind, size, own = struct.unpack_from('<BHB', block, position)
            position += 4 + orders
            body = block[position : position + size]
            position += size
            if len(body) != size:
                raise ValueError('a header is cut off')
            if kind == CONTINUATION:
                begin, length = struct.unpack('<QQ', body)
                if length < 8:
                    raise ValueError('a header is cut off')
                blocks.append(source.checked(begin, length, b'OCHK')[4:])
            else:
                yield Message(kind, b'' if own & SHARED else body)


class Shape(NamedTuple):
    """Sides of an array, and what they may grow to (2**64 - 1: without end)."""

    sides: tuple[int, ...]
    most: tuple[int, ...]


def shape_of(message: bytes | None, name: str) -> Shape:
    """Sides from a dataspace message (IV.A.2.b)."""
    message = message or b'\0'
    starts = {1: 8, 2: 4}
    if message[0] not in starts or (message[0] == 2 and message[3] not in (0, 1)):
        raise ValueError(f'{name} has no shape')
    rank, flags = message[1], message[2]
    start = starts[message[0]]
    sides = struct.unpack_from(f'<{rank}Q', message, start)
    most = struct.unpack_from(f'<{rank}Q', message, start + 8 * rank) if flags & 1 else sides
    if any(side > limit for side, limit in zip(sides, most, strict=True)):
        raise ValueError(f'{name} is larger than it may be')
    return Shape(sides, most)


def _float(size: int, exponent: int, bias: int, order: int) -> bytes:
    mantissa = 8 * size - 1 - exponent
    widths = (0, 8 * size, mantissa, exponent, 0, mantissa, bias)
    return struct.pack('<BBBIHHBBBBI', 0x20 | order, 8 * size - 1, 0, size, *widths)


def _types() -> dict[tuple[int, bytes], np.dtype]:
    """The types that weights have (IV.A.2.d) by class and message, to the bit but for the message's version."""
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    types = {(5, bytes(3) + struct.pack('<I', 2)): bfloat16, (1, _float(2, 8, 127, 0)): bfloat16}
    for order, letter in enumerate('<>'):
        types |= {
            (1, _float(size, exponent, bias, order)): np.dtype(f'{letter}f{size}')
            for size, exponent, bias in ((2, 5, 15), (4, 8, 127), (8, 11, 1023))
        }
        types |= {
            (0, struct.pack('<BBBIHH', signed << 3 | order, 0, 0, size, 0, 8 * size)): np.dtype(f'{letter}{kind}{size}')
            for signed, kind in enumerate('ui')
            for size in (1, 2, 4, 8)
        }
    return types


TYPES = _types()


def dtype_of(message: bytes | None, name: str) -> np.dtype:
    """The type from a datatype message."""
    if message and 1 <= message[0] >> 4 <= 5:
        for (kind, rest), dtype in TYPES.items():
            if message[0] & 15 == kind and message.startswith(rest, 1):
                return dtype
    raise NotReadError(f'{name} does not hold numbers that weights are')


class Reference(NamedTuple):
    """A text in a global heap: its length in bytes, the heap's address, its number there."""

    length: int
    heap: int
    number: int


def text_attribute(body: bytes, name: bytes) -> Reference | str | None:
    """The one text of an attribute (IV.A.2.m) of that name; None where it has another name or no text."""
    version, flags, *sizes = struct.unpack_from('<BBHHH', body)
    if version not in (1, 2, 3) or (version > 1 and flags):
        return None
    step, position = (8 if version == 1 else 1), (9 if version == 3 else 8)
    parts = []
    for size in sizes:
        parts.append(body[position : position + size])
        position += -(-size // step) * step
    called, kind, space = parts
    if called.rstrip(b'\0') != name or len(kind) < 8 or len(space) < 4 or space[1] or (space[0] == 2 and space[3]):
        return None
    value = body[position:]
    if kind[0] & 15 == TEXT_ELSEWHERE and kind[1] & 15 == 1:
        return Reference(*struct.unpack_from('<IQI', value))
    if kind[0] & 15 == FIXED_TEXT:
        return value[: int.from_bytes(kind[4:8], 'little')].split(b'\0')[0].decode()
    return None
