"""What stands in a LiteRT file, read byte by byte as the format says: no library of the exporter's has a part in it."""

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of a flatbuffer: its fields by their numbers in the schema."""

    content: bytes
    at: int

    def _field(self, number: int) -> int | None:
        (back,) = struct.unpack_from('<i', self.content, self.at)
        vtable = self.at - back
        (size,) = struct.unpack_from('<H', self.content, vtable)
        if 4 + 2 * number >= size:
            return None
        (offset,) = struct.unpack_from('<H', self.content, vtable + 4 + 2 * number)
        return self.at + offset if offset else None

    def number(self, field: int, form: str) -> int:
        at = self._field(field)
        return 0 if at is None else struct.unpack_from(form, self.content, at)[0]

    def _target(self, field: int) -> int | None:
        at = self._field(field)
        return None if at is None else at + struct.unpack_from('<I', self.content, at)[0]

    def table(self, field: int) -> 'Table':
        at = self._target(field)
        assert at is not None, field
        return Table(self.content, at)

    def octets(self, field: int) -> bytes | None:
        at = self._target(field)
        if at is None:
            return None
        (length,) = struct.unpack_from('<I', self.content, at)
        return self.content[at + 4 : at + 4 + length]

    def text(self, field: int) -> str | None:
        octets = self.octets(field)
        return None if octets is None else octets.decode()

    def floats(self, field: int) -> list[float]:
        return self.numbers(field, 'f')

    def numbers(self, field: int, form: str) -> list:
        """A vector of numbers: 'f' float32, 'i' int32, 'q' int64."""
        at = self._target(field)
        assert at is not None, field
        (length,) = struct.unpack_from('<I', self.content, at)
        return list(struct.unpack_from(f'<{length}{form}', self.content, at + 4))

    def tables(self, field: int) -> list['Table']:
        at = self._target(field)
        if at is None:
            return []
        (length,) = struct.unpack_from('<I', self.content, at)
        places = [at + 4 + 4 * index for index in range(length)]
        return [Table(self.content, place + struct.unpack_from('<I', self.content, place)[0]) for place in places]


def root(content: bytes, identifier: bytes) -> Table:
    """The outermost table of a flatbuffer that has that identifier."""
    assert content[4:8] == identifier
    return Table(content, struct.unpack_from('<I', content)[0])


def metadata(file: bytes) -> dict[str, bytes]:
    """The buffers that a LiteRT file holds by names: fields 4 (buffers) and 6 (metadata) of its `Model`."""
    model = root(file, b'TFL3')
    buffers = model.tables(4)
    return {entry.text(0) or '': buffers[entry.number(1, '<I')].octets(0) or b'' for entry in model.tables(6)}
