"""Small image files of any bit depth, written by hand from the formats' specifications."""

import struct
import zlib

import numpy as np


def png(
    samples: np.ndarray, depth: int, colour: int, *, palette: bytes = b'', transparency: bytes | None = None
) -> bytes:
    """A PNG of samples [height, width, channels]: bit depth and colour type as in its header."""
    height, width = samples.shape[:2]
    rows = b''.join(b'\0' + packed(row.ravel(), depth) for row in samples)
    chunks = [(b'PLTE', palette)] if palette else []
    chunks += [(b'tRNS', transparency)] if transparency is not None else []
    return _png(width, height, depth, colour, [*chunks, (b'IDAT', zlib.compress(rows))])


def blank(side: int) -> bytes:
    """A black PNG of one bit a pixel: 8,000 pixels a byte."""
    return _png(side, side, 1, 0, [(b'IDAT', zlib.compress(bytes(side * (1 + -(-side // 8)))))])


def _png(width: int, height: int, depth: int, colour: int, chunks: list[tuple[bytes, bytes]]) -> bytes:
    header = struct.pack('>IIBBBBB', width, height, depth, colour, 0, 0, 0)
    chunks = [(b'IHDR', header), *chunks, (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body)) for name, body in chunks
    )


def tiff(
    samples: np.ndarray,
    depth: int,
    photometric: int,
    *,
    order: str = '<',
    extra: int | None = None,
    sample_format: int = 1,
    more: dict[int, list[int]] | None = None,
    before: bytes = b'',
) -> bytes:
    """An uncompressed TIFF of one strip from samples [height, width, channels].

    `more` are further tags of 16 bits, `before` is what stands before the tags.
    """
    height, width, channels = samples.shape
    if depth < 16:
        body = b''.join(packed(row.ravel(), depth) for row in samples)
    else:
        kind = {1: 'u', 2: 'i', 3: 'f'}[sample_format]
        body = samples.astype(f'{order}{kind}{depth // 8}').tobytes()
    tags = {256: [width], 257: [height], 258: [depth] * channels, 259: [1], 262: [photometric], 273: [0]}
    tags |= {277: [channels], 278: [height], 279: [len(body)], 339: [sample_format] * channels}
    tags |= ({} if extra is None else {338: [extra]}) | (more or {})
    values, entries = b'', b''
    place = 8 + len(before) + 2 + 12 * len(tags) + 4
    stored = {tag: struct.pack(f'{order}{len(numbers)}H', *numbers) for tag, numbers in tags.items() if tag != 273}
    after = place + sum(len(value) for value in stored.values() if len(value) > 4)
    for tag in sorted(tags):
        if tag == 273:
            entries += struct.pack(f'{order}HHII', tag, 4, 1, after)
            continue
        value = stored[tag]
        if len(value) > 4:
            value, values = struct.pack(f'{order}I', place + len(values)), values + value
        entries += struct.pack(f'{order}HHI', tag, 3, len(tags[tag])) + value.ljust(4, b'\0')
    start = (b'II*\0' if order == '<' else b'MM\0*') + struct.pack(f'{order}I', 8 + len(before)) + before
    return start + struct.pack(f'{order}H', len(tags)) + entries + bytes(4) + values + body


def packed(samples: np.ndarray, depth: int) -> bytes:
    """Samples as bits, the first in the highest; what remains of the last byte is 0."""
    shifts = np.arange(depth - 1, -1, -1)
    return np.packbits((samples[:, None].astype(np.int64) >> shifts & 1).astype(np.uint8)).tobytes()
