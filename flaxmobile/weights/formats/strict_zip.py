"""Zip archives as any tool packs them, read so that no bit of a member's content or name goes wrong unnoticed.

A zip's checksums cover the members' contents only. Its headers hold names, sizes and times twice: both copies have to
agree, and the members with their headers have to fill the file up to the directory, so that no two overlap. What has
no copy and says nothing of the contents is not read: permissions, comments, the writer's version, other extra fields.

The layout is PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.4.
"""

import codecs
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, TypeVar

from flaxmobile.messages import printable

STORED, DEFLATED = 0, 8
CP437 = codecs.lookup('cp437')
METHODS = {1: 'shrink', 9: 'deflate64', 12: 'bzip2', 14: 'lzma', 93: 'zstd', 95: 'xz', 99: 'encryption'}
LOCAL = struct.Struct('<4sHHHHHIIIHH')
CENTRAL = struct.Struct('<4sHHHHHHIIIHHHHHII')
END = struct.Struct('<4sHHHHIIH')
END64 = struct.Struct('<4sQHHIIQQQQ')
LOCATOR = struct.Struct('<4sIQI')
# A descriptor's length to its layout: with or without a signature, which is optional, and of 4 or 8 bytes a size.
DESCRIPTORS = {length: struct.Struct(layout) for length, layout in ((12, '<III'), (20, '<IQQ'))}
SIGNED = b'PK\7\x08'
FULL = 0xFFFFFFFF
HAS_DESCRIPTOR, DEFLATE_LEVEL, UTF8 = 0x0008, 0x0006, 0x0800
FOLDER = 0x10
NEWEST = 63
"""The version of the format that a member may ask for at most, 6.3."""
LONGEST_COMMENT = 0xFFFF
LARGEST_EXPANSION, EXPANSION_FLOOR = 100, 1 << 24
MOST_MEMBERS = 50_000
PIECE = 1 << 18
Result = TypeVar('Result')


class Entry(NamedTuple):
    """A member as the central directory has it; sizes and offset in bytes.

    `shared` is what the member's own header repeats: flags, method, time and date.
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
        return self.shared[0]

    @property
    def method(self) -> int:
        """How it is compressed."""
        return self.shared[1]

    @property
    def title(self) -> str:
        """Its name for a message."""
        return printable(_decoded(self.name))


class _Damaged(Exception):
    """What is wrong with the archive, in words."""


class _Archive:
    """The bytes of a file, read where they are asked for."""

    def __init__(self, file: BufferedReader) -> None:
        self.file = file
        self.size = file.seek(0, 2)

    def at(self, start: int, length: int) -> bytes:
        """So many bytes from there on."""
        _require(start + length <= self.size, 'it is cut short')
        self.file.seek(start)
        return self.file.read(length)

    def fill(self, start: int, buffer: bytearray) -> None:
        """Read into all of the buffer from there on."""
        _require(start + len(buffer) <= self.size, 'it is cut short')
        self.file.seek(start)
        self.file.readinto(buffer)


def names(path: Path) -> list[str]:
    """The names of the members of the zip at `path`, none of which is unpacked.

    Raises:
        ValueError: the archive's directory is damaged.
        OSError: the file cannot be read.
    """
    return _opened(path, lambda archive: [_decoded(entry.name) for entry in _directory(archive)[0] if _is_kept(entry)])


def members(path: Path) -> dict[str, memoryview]:
    """The members of the zip at `path` by name, unpacked, each in a buffer of its own that may be written to.

    Folders are left out, and what the Finder adds to an archive.

    Raises:
        ValueError: contents, names or sizes are not as they were written, two members overlap or have one name, or it
            unpacks to over 100 times its size.
        OSError: the file cannot be read.
    """
    return _opened(path, _members)


def _opened(path: Path, read: Callable[[_Archive], Result]) -> Result:
    with path.open('rb') as file:
        try:
            return read(_Archive(file))
        except (_Damaged, struct.error, zlib.error) as error:
            where = printable(path, None)
            raise ValueError(f'{where}: damaged or not a plain zip archive: {error}') from error


def _members(archive: _Archive) -> dict[str, memoryview]:
    entries, directory = _directory(archive)
    total = sum(entry.size for entry in entries)
    _require(
        total <= max(EXPANSION_FLOOR, LARGEST_EXPANSION * archive.size),
        f'claims {total} bytes unpacked, over {LARGEST_EXPANSION} times its size',
    )
    _require(entries[0].offset == 0, 'bytes before the first member')
    ends = [entry.offset for entry in entries[1:]] + [directory]
    contents: dict[str, memoryview] = {}
    for entry, end in zip(entries, ends, strict=True):
        content = _content(archive, entry, end)
        if _is_kept(entry):
            contents[_decoded(entry.name)] = content
    return contents


def _is_kept(entry: Entry) -> bool:
    return not (entry.name.endswith((b'/', b'.DS_Store')) or entry.name.startswith(b'__MACOSX/'))


def _decoded(name: bytes) -> str:
    """A member's name; torch writes UTF-8 without the flag that says so."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return CP437.decode(name)[0]


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _Damaged(problem)


def _directory(archive: _Archive) -> tuple[list[Entry], int]:
    """The central directory's entries by their place in the file, and where the directory starts."""
    last = _end(archive)
    _, *disks, count_here, count, length, start, _ = END.unpack(archive.at(last, END.size))
    _require(disks == [0, 0] and count_here == count, 'the end record contradicts itself')
    short, position = (count, length, start), last
    locator = last - LOCATOR.size
    if locator >= 0 and archive.at(locator, 4) == b'PK\6\7':
        (count, length, start), position = _end64(archive, locator)
        full = (0xFFFF, FULL, FULL)
        agree = all(a in (b, top) for a, b, top in zip(short, (count, length, start), full, strict=True))
        _require(agree, 'the two end records differ')
    _require(start + length == position, 'bytes around the directory')
    _require(count > 0, 'it holds nothing')
    _require(count <= MOST_MEMBERS, f'it has {count} members, and over {MOST_MEMBERS} no file of weights needs')
    entries = sorted(_entries(archive.at(start, length)), key=lambda entry: entry.offset)
    _require(len(entries) == count, f'{len(entries)} members where the end record says {count}')
    _require(len({_decoded(entry.name) for entry in entries}) == count, 'two members of one name')
    return entries, start


def _end(archive: _Archive) -> int:
    """Where the end record starts, which a comment may follow."""
    start = max(0, archive.size - END.size - LONGEST_COMMENT)
    tail = archive.at(start, archive.size - start)
    found, place = [], tail.find(b'PK\5\6')
    while 0 <= place <= len(tail) - END.size:
        if place + END.size + int.from_bytes(tail[place + END.size - 2 : place + END.size], 'little') == len(tail):
            found.append(start + place)
        place = tail.find(b'PK\5\6', place + 1)
    _require(len(found) == 1, 'it does not end as a zip does (it may be cut short)')
    return found[0]


def _end64(archive: _Archive, locator: int) -> tuple[tuple[int, int, int], int]:
    _, disk, position, disks = LOCATOR.unpack(archive.at(locator, LOCATOR.size))
    _require((disk, disks) == (0, 1) and position + END64.size == locator, 'the zip64 locator points elsewhere')
    magic, size, _, needed, *numbers, count_here, count, length, start = END64.unpack(archive.at(position, END64.size))
    _require(magic == b'PK\6\6' and size == END64.size - 12 and numbers == [0, 0], 'the zip64 record is damaged')
    _require(needed <= NEWEST and count_here == count, 'the zip64 record is damaged')
    return (count, length, start), position


def _entries(directory: bytes) -> Iterator[Entry]:
    position = 0
    while position < len(directory):
        values = CENTRAL.unpack_from(directory, position)
        magic, needed, shared, (crc, packed, size) = values[0], values[2], values[3:7], values[7:10]
        (name, extra, comment), (disk, _, attributes, offset) = values[10:13], values[13:]
        _require(magic == b'PK\1\2' and needed & 0xFF <= NEWEST, 'an entry of the directory is damaged')
        _require(disk == 0, 'it is one of several volumes')
        start = position + CENTRAL.size
        position = start + name + extra + comment
        _require(position <= len(directory), 'the last entry of the directory is damaged')
        wide = _zip64(directory[start + name : start + name + extra])
        count = (size, packed, offset).count(FULL)
        _require(len(wide) == count, 'an entry of the directory contradicts itself')
        rest = iter(wide)
        size, packed, offset = (next(rest) if value == FULL else value for value in (size, packed, offset))
        entry = Entry(directory[start : start + name], shared, crc, packed, size, offset)
        marked = attributes & FOLDER and not entry.name.endswith(b'/')
        _require(not marked, f'{entry.title} is marked as a folder')  # Others would read zeros there.
        yield entry


def _zip64(block: bytes) -> tuple[int, ...]:
    """The numbers of the extra field that holds what needs more than 32 bits."""
    found: list[tuple[int, ...]] = []
    position = 0
    while position < len(block):
        kind, length = struct.unpack_from('<HH', block, position)
        payload = block[position + 4 : position + 4 + length]
        _require(len(payload) == length, 'an extra field is damaged')
        if kind == 1:
            found.append(struct.unpack(f'<{length // 8}Q', payload))
        position += 4 + length
    _require(len(found) < 2, 'an extra field is there twice')
    return found[0] if found else ()


def _content(archive: _Archive, entry: Entry, end: int) -> memoryview:
    """The member's content, after its header, content and descriptor were held against the directory."""
    start = _after_header(archive, entry)
    behind = end - start - entry.packed
    _require(behind >= 0, f'{entry.title} runs into what follows')
    _check_descriptor(archive.at(start + entry.packed, min(behind, 25)), entry)
    content = bytearray(entry.size)
    if entry.method == STORED:
        _require(entry.packed == entry.size, f'{entry.title} has two sizes')
        archive.fill(start, content)
    else:
        _inflate(archive, start, entry, memoryview(content))
    _require(zlib.crc32(content) == entry.crc, f'{entry.title} fails its checksum')
    return memoryview(content)


def _after_header(archive: _Archive, entry: Entry) -> int:
    """Where the member's content starts."""
    header = LOCAL.unpack(archive.at(entry.offset, LOCAL.size))
    magic, needed, *shared, crc, packed, size, name_length, extra = header
    start = entry.offset + LOCAL.size
    name, block = archive.at(start, name_length), archive.at(start + name_length, extra)
    same = (magic, tuple(shared), name) == (b'PK\3\4', entry.shared, entry.name)
    _require(same and needed & 0xFF <= NEWEST, f'the two headers of {entry.title} differ')
    packing = METHODS.get(entry.method, f'method {entry.method}')
    _require(entry.method in (STORED, DEFLATED), f'{entry.title} is packed by {packing}: pack it by deflate, or not')
    _require(not entry.flags & ~(HAS_DESCRIPTOR | UTF8 | DEFLATE_LEVEL), f'{entry.title} is encrypted or patched')
    if wide := _zip64(block):
        _require(len(wide) == 2, f'the sizes of {entry.title} contradict themselves')
        size = wide[0] if size == FULL else size
        packed = wide[1] if packed == FULL else packed
    found, wanted = (crc, packed, size), (entry.crc, entry.packed, entry.size)
    later = entry.flags & HAS_DESCRIPTOR
    agree = all(one == other or (later and one == 0) for one, other in zip(found, wanted, strict=True))
    _require(agree, f'the two headers of {entry.title} differ')
    return start + name_length + extra


def _check_descriptor(block: bytes, entry: Entry) -> None:
    if not entry.flags & HAS_DESCRIPTOR:
        _require(len(block) == 0, f'bytes after {entry.title}')
        return
    unsigned = block[4:] if block.startswith(SIGNED) and len(block) - 4 in DESCRIPTORS else block
    _require(len(unsigned) in DESCRIPTORS, f'bytes after {entry.title}')
    same = DESCRIPTORS[len(unsigned)].unpack(unsigned) == (entry.crc, entry.packed, entry.size)
    _require(same, f'the descriptor of {entry.title} differs')


def _inflate(archive: _Archive, start: int, entry: Entry, content: memoryview) -> None:
    """Unpack piece by piece into the member's buffer: the packed bytes are never all in memory, the content once."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    position, end, filled = start, start + entry.packed, 0
    while not unpacker.eof:
        piece = unpacker.unconsumed_tail or archive.at(position, min(PIECE, end - position))
        if not unpacker.unconsumed_tail:
            position += len(piece)
        block = unpacker.decompress(piece, PIECE)
        if (not piece and not block) or filled + len(block) > entry.size:
            break
        content[filled : filled + len(block)] = block
        filled += len(block)
    whole = unpacker.eof and not unpacker.unused_data and (filled, position) == (entry.size, end)
    _require(whole, f'{entry.title} does not unpack to its size')
