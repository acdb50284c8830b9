"""Zip archives read so strictly that a flipped bit never goes unnoticed.

A zip's checksums cover the members' contents only; its headers hold times, attributes and sizes twice or unguarded.
Here both copies have to agree, what has no copy has to be what torch, NumPy, Keras and Python's `zipfile` write, and
the members with their headers have to fill the file to the last byte. A member that is not compressed, as torch and
Keras write them, is thereby guarded bit by bit; of a compressed one, what it unpacks to.

The layout is PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.4.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

STORED, DEFLATED = 0, 8
LOCAL = struct.Struct('<4sHHHHHIIIHH')
CENTRAL = struct.Struct('<4sHHHHHHIIIHHHHHII')
END = struct.Struct('<4sHHHHIIH')
END64 = struct.Struct('<4sQHHIIQQQQ')
LOCATOR = struct.Struct('<4sIQI')
DESCRIPTORS = {16: struct.Struct('<4sIII'), 24: struct.Struct('<4sIQQ')}
FULL = 0xFFFFFFFF
HAS_DESCRIPTOR, DEFLATE_LEVEL, UTF8 = 0x0008, 0x0006, 0x0800
# The writer's version and system, and a member's permissions: torch's zeros, or Python's. No two are one bit apart.
MADE_BY = {0, 0x0014, 0x002D, 0x0314, 0x032D}
ATTRIBUTES = {0, 0o600 << 16, 0o100644 << 16}
MADE_BY_64 = {0x002D, 0x031E}
LARGEST_EXPANSION, EXPANSION_FLOOR = 100, 1 << 24


class Entry(NamedTuple):
    """A member as the central directory has it; sizes and offset in bytes.

    `shared` is what the member's own header repeats: version needed, flags, method, time and date.
    """

    name: bytes
    shared: tuple[int, ...]
    crc: int
    packed: int
    size: int
    offset: int

    @property
    def flags(self) -> int:
        """Its general purpose bits."""
        return self.shared[1]

    @property
    def method(self) -> int:
        """How it is compressed."""
        return self.shared[2]


class _Damaged(Exception):
    """What is wrong with the archive, in words."""


def members(path: Path) -> dict[str, memoryview]:
    """The members of the zip at `path` by name, unpacked; those that are not compressed share the file's one buffer.

    Raises:
        ValueError: anything in the file is not as it was written, or it unpacks to over 100 times its size.
        OSError: the file cannot be read.
    """
    archive = memoryview(Path(path).read_bytes())
    try:
        entries, position = _directory(archive)
        total = sum(entry.size for entry in entries)
        _require(
            total <= max(EXPANSION_FLOOR, LARGEST_EXPANSION * len(archive)),
            f'claims {total} bytes unpacked, over {LARGEST_EXPANSION} times its size',
        )
        entries.sort(key=lambda entry: entry.offset)
        ends = [entry.offset for entry in entries[1:]] + [position]
        _require(len(entries) > 0, 'it holds nothing')
        _require(entries[0].offset == 0, 'bytes before the first member')
        contents = {entry.name: _content(archive, entry, end) for entry, end in zip(entries, ends, strict=True)}
        _require(len(contents) == len(entries), 'two members of one name')
        return {name.decode(): content for name, content in contents.items()}
    except (_Damaged, struct.error, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f'{path}: damaged or not a plain zip archive: {error}') from error


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _Damaged(problem)


def _directory(archive: memoryview) -> tuple[list[Entry], int]:
    """The central directory's entries, and where it starts."""
    last = len(archive) - END.size
    _require(last >= 0, 'it is too short')
    magic, *disks, count_here, count, length, start, comment = END.unpack_from(archive, last)
    _require(magic == b'PK\5\6' and comment == 0, 'it does not end as a zip does (cut short, or with a comment)')
    _require(disks == [0, 0] and count_here == count, 'the end record contradicts itself')
    short, position = (count, length, start), last
    locator = last - LOCATOR.size
    if locator >= 0 and bytes(archive[locator : locator + 4]) == b'PK\6\7':
        (count, length, start), position = _end64(archive, locator)
        full = (0xFFFF, FULL, FULL)
        agree = all(a in (b, top) for a, b, top in zip(short, (count, length, start), full, strict=True))
        _require(agree, 'the two end records differ')
    _require(start + length == position, 'bytes around the directory')
    entries = list(_entries(archive[:position], start))
    _require(len(entries) == count, f'{len(entries)} members where the end record says {count}')
    return entries, start


def _end64(archive: memoryview, locator: int) -> tuple[tuple[int, int, int], int]:
    _, disk, position, disks = LOCATOR.unpack_from(archive, locator)
    _require((disk, disks) == (0, 1) and position + END64.size == locator, 'the zip64 locator points elsewhere')
    magic, size, made, needed, *numbers, count_here, count, length, start = END64.unpack_from(archive, position)
    _require(magic == b'PK\6\6' and size == END64.size - 12 and numbers == [0, 0], 'the zip64 record is damaged')
    _require(made in MADE_BY_64 and needed == 45 and count_here == count, 'the zip64 record is damaged')
    return (count, length, start), position


def _entries(directory: memoryview, position: int) -> Iterator[Entry]:
    while position < len(directory):
        values = CENTRAL.unpack_from(directory, position)
        (magic, made), shared, (crc, packed, size, *lengths) = values[:2], values[2:7], values[7:12]
        (name, extra), (comment, disk, inner, outer, offset) = lengths, values[12:]
        position += CENTRAL.size
        _require(magic == b'PK\1\2', 'an entry of the directory is damaged')
        _require(
            made in MADE_BY and outer in ATTRIBUTES,
            'permissions or a version that torch and Keras do not write: save it anew',
        )
        _require((comment, disk, inner) == (0, 0, 0), 'an entry with a comment or on another disk')
        fields = _extra(directory[position + name : position + name + extra])
        count = (size, packed, offset).count(FULL)
        _require(fields.keys() <= {1} and len(fields.get(1, b'')) == 8 * count, 'an unknown extra field')
        wide = iter(struct.unpack(f'<{count}Q', fields.get(1, b'')))
        size, packed, offset = (next(wide) if value == FULL else value for value in (size, packed, offset))
        yield Entry(bytes(directory[position : position + name]), shared, crc, packed, size, offset)
        position += name + extra
    _require(position == len(directory), 'the last entry of the directory is damaged')


def _extra(block: memoryview) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    position = 0
    while position < len(block):
        kind, length = struct.unpack_from('<HH', block, position)
        payload = bytes(block[position + 4 : position + 4 + length])
        _require(len(payload) == length and kind not in fields, 'an extra field is damaged')
        fields[kind] = payload
        position += 4 + length
    return fields


def _content(archive: memoryview, entry: Entry, end: int) -> memoryview:
    """The member's content, after its header, content and descriptor were held against the directory."""
    name = entry.name.decode(errors='replace')
    start = _after_header(archive, entry, name)
    packed = archive[start : start + entry.packed]
    _require(len(packed) == entry.packed and start + entry.packed <= end, f'{name} runs into what follows')
    _check_descriptor(archive[start + entry.packed : end], entry, name)
    content = packed if entry.method == STORED else _inflate(packed, entry, name)
    _require(len(content) == entry.size and zlib.crc32(content) == entry.crc, f'{name} fails its checksum')
    return content


def _after_header(archive: memoryview, entry: Entry, name: str) -> int:
    magic, *shared, crc, packed, size, name_length, extra = LOCAL.unpack_from(archive, entry.offset)
    start = entry.offset + LOCAL.size + name_length
    same = (magic, tuple(shared), bytes(archive[start - name_length : start]))
    _require(same == (b'PK\3\4', entry.shared, entry.name), f'the two headers of {name} differ')
    allowed = HAS_DESCRIPTOR | UTF8 | (DEFLATE_LEVEL if entry.method == DEFLATED else 0)
    known = entry.method in (STORED, DEFLATED) and not entry.flags & ~allowed
    _require(known, f'{name} is encrypted or oddly compressed')
    fields = _extra(archive[start : start + extra])
    padding = fields.pop(int.from_bytes(b'FB', 'little'), b'')
    _require(padding.strip(b'Z') == b'' and fields.keys() <= {1}, f'{name} has an unknown or damaged extra field')
    if 1 in fields:
        _require((size, packed) == (FULL, FULL) and len(fields[1]) == 16, f'the sizes of {name} contradict themselves')
        size, packed = struct.unpack('<QQ', fields[1])
    wanted = (0, 0, 0) if entry.flags & HAS_DESCRIPTOR else (entry.crc, entry.packed, entry.size)
    _require((crc, packed, size) == wanted, f'the two headers of {name} differ')
    return start + extra


def _check_descriptor(block: memoryview, entry: Entry, name: str) -> None:
    if not entry.flags & HAS_DESCRIPTOR:
        _require(len(block) == 0, f'bytes after {name}')
        return
    _require(len(block) in DESCRIPTORS, f'bytes after {name}')
    values = DESCRIPTORS[len(block)].unpack(block)
    _require(values == (b'PK\7\x08', entry.crc, entry.packed, entry.size), f'the descriptor of {name} differs')


def _inflate(packed: memoryview, entry: Entry, name: str) -> memoryview:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    content = unpacker.decompress(packed, entry.size + 1)
    _require(unpacker.eof and not unpacker.unused_data, f'{name} does not unpack to its size')
    return memoryview(content)
