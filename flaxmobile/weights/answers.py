"""What a server says of a file, read as data of unknown origin, and what is known of a file otherwise.

What a header cannot mean counts as not said; where the end of the file would be in doubt, the header is named.
"""

import base64
import binascii
import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flaxmobile.messages import listing, printable

_NUMBER = re.compile('[0-9]{1,15}')
_RANGE = re.compile('bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|[*])')
_SHA256 = re.compile('[0-9a-f]{64}')
# An entity tag that is strong, or a date; nothing that could not stand in a header again.
VALIDATOR = re.compile(
    r'"[\x21\x23-\x7e]{0,200}"|[A-Za-z]{3}, [0-9]{2} [A-Za-z]{3} [0-9]{4} [0-9]{2}(:[0-9]{2}){2} GMT'
)


class Facts(NamedTuple):
    """What is known of a file: its size in bytes and its digests, or their first digits."""

    size: int | None = None
    sha256: str | None = None
    md5: str | None = None

    def fault(self, path: Path) -> str | None:
        """What of the file at `path` is otherwise, if anything."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f'it holds {size:,} bytes instead of {self.size:,}'
        for algorithm, expected in (('sha256', self.sha256), ('md5', self.md5)):
            if expected and not (digest := digest_of(path, algorithm)).startswith(expected):
                return f'its {algorithm} is {digest[: len(expected)]} instead of {expected}'
        return None


def digest_of(path: Path, algorithm: str = 'sha256') -> str:
    """A file's digest, in hexadecimal."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, functools.partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()


class Interrupted(Exception):
    """A transfer that failed: why, whether another attempt may do, after how long, and whether it was too slow."""

    def __init__(self, reason: str, *, final: bool = False, wait: float | None = None, slow: bool = False) -> None:
        self.reason = printable(reason, 400)
        super().__init__(self.reason)
        self.final, self.wait, self.slow = final, wait, slow


class Said(NamedTuple):
    """What a server says of the file it sends; None or '' is what it does not say, or not in a way that has a meaning.

    `length` is of this answer's body, `first` and `last` its place in a file of `total` bytes.
    """

    length: int | None
    first: int | None
    last: int | None
    total: int | None
    validator: str
    facts: Facts


def said(response: Any, linked: Mapping[str, str]) -> Said:
    """Read the headers of an answer, and what the hub said of the file before it pointed to where the file lies.

    Raises:
        Interrupted: the body is packed, or the server contradicts itself on where it ends.
    """
    packed = _only(response.headers, 'Content-Encoding').lower()
    if packed not in ('', 'identity'):
        raise Interrupted(f'the server sends the file packed ({packed}), which it was not asked to', final=True)
    length = _only(response.headers, 'Content-Length')
    if length and not _NUMBER.fullmatch(length):
        raise Interrupted(f"the server's Content-Length is no number: {length}", final=True)
    chunked = getattr(response, 'chunked', False)  # Then the body says itself where it ends.
    place = _RANGE.fullmatch(_only(response.headers, 'Content-Range'))
    first, last, total = (number(part) for part in place.groups()) if place else (None, None, None)
    return Said(
        None if chunked else number(length),
        first,
        last,
        total,
        _validator_of(response.headers),
        Facts(number(linked.get('x-linked-size', '')), _linked_digest(linked), _googles_digest(response.headers)),
    )


def number(text: str) -> int | None:
    """A whole number in plain digits, or None."""
    return int(text) if _NUMBER.fullmatch(text) else None


def _only(headers: Any, name: str) -> str:
    values = {value.strip() for value in headers.get_all(name, [])}
    if len(values) > 1:
        raise Interrupted(f'the server says two things as {name}: {listing(sorted(values))}', final=True)
    return next(iter(values), '')


def _validator_of(headers: Any) -> str:
    """What names this version of the file to the server, where it has such a thing."""
    etags = set(headers.get_all('ETag', []))
    tag = '' if len(etags) > 1 else next(iter(etags), '').strip()
    candidate = headers.get('Last-Modified', '') if not tag or tag.startswith('W/') else tag
    return candidate if VALIDATOR.fullmatch(candidate) else ''


def _linked_digest(linked: Mapping[str, str]) -> str | None:
    digest = linked.get('x-linked-etag', '').strip('"').lower()
    return digest if _SHA256.fullmatch(digest) else None


def _googles_digest(headers: Any) -> str | None:
    """The MD5 that Google's storage says, among other sums, in one header or in several."""
    for part in ','.join(headers.get_all('x-goog-hash', [])).split(','):
        if part.strip().startswith('md5='):
            try:
                digest = base64.b64decode(part.strip().removeprefix('md5='), validate=True)
            except (binascii.Error, ValueError):
                return None
            return digest.hex() if len(digest) == 16 else None
    return None
