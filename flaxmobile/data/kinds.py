"""Which files are images that Pillow reads here, which are images of other kinds, and which are none."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image

_NOT_DECODED = frozenset({'BUFR', 'EPS', 'GRIB', 'HDF5', 'MPEG', 'WMF'})
"""Formats that Pillow opens without decoding them, or by starting another program (EPS: Ghostscript)."""
_CAMERA_RAW = '.arw .cr2 .cr3 .crw .dng .nef .nrw .orf .pef .raf .raw .rw2 .srw .x3f'
_OTHERS = {
    **dict.fromkeys(_CAMERA_RAW.split(), 'camera raw'),
    **dict.fromkeys(('.heic', '.heif', '.hif'), 'HEIC'),
    **dict.fromkeys(('.avif', '.avifs'), 'AVIF'),
    **dict.fromkeys(('.emf', '.wmf'), 'WMF'),
    '.dcm': 'DICOM',
    '.eps': 'EPS',
    '.exr': 'OpenEXR',
    '.jxl': 'JPEG XL',
    '.jxr': 'JPEG XR',
    '.svg': 'SVG',
    '.webp': 'WebP',
    '.xcf': 'XCF',
}
_START = 132
_BRANDS = {
    **dict.fromkeys((b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1'), 'HEIC'),
    **dict.fromkeys((b'avif', b'avis'), 'AVIF'),
    b'crx ': 'camera raw',
}
_BEGINNINGS = {
    b'\xff\x0a': 'JPEG XL',
    b'\0\0\0\x0cJXL \r\n\x87\n': 'JPEG XL',
    b'II\xbc': 'JPEG XR',
    b'v/1\x01': 'OpenEXR',
    b'#?RADIANCE': 'Radiance HDR',
    b'FUJIFILMCCD-RAW': 'camera raw',
    b'FOVb': 'camera raw',
    b'%!PS-Adobe': 'EPS',
    b'\xc5\xd0\xd3\xc6': 'EPS',
    b'<svg': 'SVG',
    b'gimp xcf': 'XCF',
}


_NAMED_BY_PHONES = ('HEIC', 'JPEG XL')  # A photo that was converted often keeps the suffix.


class Kind(NamedTuple):
    """A format of images, and whether it is read."""

    name: str
    is_read: bool


def formats() -> list[str]:
    """The formats that are read: all that Pillow decodes here, and what plugins of others have registered."""
    Image.init()
    return [name for name in Image.ID if name not in _NOT_DECODED]


def suffixes() -> dict[str, Kind]:
    """The kinds of images that a suffix tells."""
    known = {name: Kind(name, True) for name in (*formats(), 'MPO')}
    others = {suffix: Kind(name, False) for suffix, name in _OTHERS.items()}
    return others | {suffix: known[name] for suffix, name in Image.EXTENSION.items() if name in known}


def identify(path: str | Path, by_suffix: dict[str, Kind]) -> Kind | None:
    """What kind of image a file is: by its suffix, where that is known, else by its content; None if it is none.

    Args:
        path: the file, which is read only where its suffix says nothing, or may be that of a converted photo.
        by_suffix: what `suffixes` gave.
    """
    named = by_suffix.get(os.path.splitext(path)[1].lower())
    if named and (named.is_read or named.name not in _NAMED_BY_PHONES):
        return named
    try:
        with open(path, 'rb') as file:
            start = file.read(_START)
    except OSError:
        return named
    if unread_kind(start) == 'camera raw':  # Some are TIFF files with a preview that Pillow would take.
        return Kind('camera raw', False)
    for name in formats():
        _, accepts = Image.OPEN[name]
        if accepts and _accepts(accepts, start[:16]) and _opens(path, name):
            return Kind(name, True)
    other = unread_kind(start)
    return Kind(other, False) if other else named


def unread_kind(start: bytes) -> str | None:
    """The name of an image format that Pillow may not read, from a file's first 132 bytes."""
    if start[4:8] == b'ftyp':
        return _BRANDS.get(start[8:12])
    if start[:4] in (b'II*\0', b'MM\0*') and start[8:10] == b'CR':
        return 'camera raw'
    if start[:4] == b'RIFF' and start[8:12] == b'WEBP':
        return 'WebP'
    if start[128:132] == b'DICM':
        return 'DICOM'
    return next((name for beginning, name in _BEGINNINGS.items() if start.startswith(beginning)), None)


def _accepts(accepts: Callable[[bytes], bool | str], start: bytes) -> bool:
    try:
        return accepts(start) is True  # A text says that what would decode it is not there.
    except Exception:
        return False


def _opens(path: str | Path, name: str) -> bool:
    try:
        with Image.open(path, formats=[name]):
            return True
    except Exception:
        return False
