"""One file over HTTP: taken up where it broke off, held to a least speed and a greatest size, and checked."""

import http.client
import importlib.metadata
import io
import json
import logging
import os
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flaxmobile.messages import printable
from flaxmobile.weights.answers import VALIDATOR, Facts, Interrupted, Said, number, said

log = logging.getLogger(__name__)

ATTEMPTS = 5
"""In a row, without a byte more than ever before or below the least speed."""
MANY = 20
"""Attempts after which those before count as too slow where they gave less than `SLOWEST` times `WINDOW` bytes each."""
TIMEOUT = 30.0
WINDOW = 60.0
"""Seconds of waiting for the server over which its speed is taken."""
SLOWEST = 1000
"""Bytes a second that a server has to send at least."""
MOST = 2**31
"""Bytes that no file of the family comes near."""
LONGEST_WAIT = 30.0
PASSING = {408, 416, 425, 429, 500, 502, 503, 504}
"""Answers that another attempt may change."""
CHUNK = 2**20


def fetch(address: str, partial: Path, published: Facts, name: str, check: Callable[[Path], None]) -> None:
    """Fetch the file at `address` into `partial`, going on with what is there, and see that it is whole.

    Args:
        address: of the file, https, or http for a mirror.
        partial: where it is put together; a small file beside it says which version of the file it is of.
        published: what is known of it.
        name: what it is called in the bar that a terminal shows.
        check: raises a ValueError for a file that is not what was to come.

    Raises:
        Interrupted: it cannot be fetched.
        OSError: it cannot be written; nothing is left of it then.
    """
    if validator_path(partial).exists() and not validator_of(partial):
        log.warning('%s is damaged: %s is fetched from its beginning', printable(validator_path(partial)), name)
        drop(partial)
    first = most = _size(partial)
    failures = attempts = 0
    while True:
        try:
            return _transfer(address, partial, published, name, check)
        except Interrupted as error:
            attempts += 1
            failures = 1 if _size(partial) > most and not error.slow else failures + 1
            most = max(most, _size(partial))
            dragging = attempts > MANY and most - first < attempts * SLOWEST * WINDOW
            if error.final or failures == ATTEMPTS or dragging:
                raise
            time.sleep(min(LONGEST_WAIT, error.wait or 2.0 ** (failures - 1)))


def _transfer(address: str, partial: Path, published: Facts, name: str, check: Callable[[Path], None]) -> None:
    """Fetch what is missing of `partial`, and check all of it."""
    validator = validator_of(partial)
    start = _size(partial) if validator else 0
    headers = {'Range': f'bytes={start}-', 'If-Range': validator} if start else {}
    response, linked = _open(address, headers, partial)
    with response:
        told = said(response, linked)
        resumed = start > 0 and response.status == 206
        if not resumed and response.status != 200:
            raise Interrupted(f'the server answers {response.status} {response.reason} instead of the file', final=True)
        if resumed and (told.validator != validator or not _goes_on(told, start)):
            drop(partial)
            raise Interrupted('the file changed on the server while it was fetched')
        total = _total(told, start if resumed else 0, published, partial)
        if not resumed:
            drop(partial)
            start = 0
            _keep_validator(partial, told.validator)
        with _progress(name, start, total) as advance:
            _receive(response, partial, MOST if total is None else total, advance)
    if total is not None and _size(partial) < total:
        raise Interrupted(f'the connection was cut after {_size(partial):,} of {total:,} bytes')
    fault = published.fault(partial) or told.facts.fault(partial) or fault_of(partial, check)
    if fault:
        drop(partial)
        # What was put together of two transfers, or may have been cut, is worth a second attempt.
        final = total is not None and not resumed
        raise Interrupted(f'what came is not the published file: {fault}; it was removed', final=final)


def _goes_on(told: Said, start: int) -> bool:
    """Whether what is sent begins at `start` and is as long as its place in the file."""
    if told.first != start or told.last is None or told.last < start:
        return False
    return told.length in (None, told.last - start + 1) and (told.total is None or told.last < told.total)


def _total(told: Said, start: int, published: Facts, partial: Path) -> int | None:
    """The size of the whole file, as far as anyone says it."""
    of_server = told.total if start else told.length
    if of_server is None and start and told.length is not None:
        of_server = start + told.length
    total = told.facts.size if of_server is None else of_server
    if total is not None and (total != (published.size or total) or total > MOST):
        drop(partial)
        most = f'instead of {published.size:,}' if published.size else f'and no such file has over {MOST:,}'
        raise Interrupted(f'the server has {total:,} bytes {most}', final=True)
    return published.size if total is None else total


def fault_of(path: Path, check: Callable[[Path], None]) -> str | None:
    """What `check` finds wrong with the file, whose path its message starts with; None: nothing."""
    try:
        check(path)
    except ValueError as error:
        return str(error).removeprefix(f'{printable(path, None)}: ')
    return None


class _Paced(io.RawIOBase):
    """What comes from a server, held to a least speed; only the time spent waiting for it counts."""

    def __init__(self, raw: Any) -> None:
        self.raw, self.waited, self.received, self.total = raw, 0.0, 0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        start = time.monotonic()
        count: int | None = self.raw.readinto(buffer)
        self.waited += time.monotonic() - start
        self.received += count or 0
        self.total += count or 0
        if self.total > 2 * MOST:  # As no body is, but headers without end may be.
            raise Interrupted('the answer of the server has no end', final=True)
        if count and self.waited > WINDOW:
            if self.received < SLOWEST * self.waited:
                raise Interrupted(f'the server sends less than {SLOWEST:,} bytes a second', slow=True)
            self.waited, self.received = 0.0, 0
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _PacedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp: Any = io.BufferedReader(_Paced(self.fp.detach()))


class _Pacing(urllib.request.AbstractHTTPHandler):
    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> Any:
        def connect(*arguments: Any, **more: Any) -> Any:
            connection = http_class(*arguments, **more)
            connection.response_class = _PacedResponse
            return connection

        return super().do_open(connect, req, **options)


class _Http(_Pacing, urllib.request.HTTPHandler):
    pass


class _Https(_Pacing, urllib.request.HTTPSHandler):
    pass


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, keeping what the hub says of a file before it points to where the file lies."""

    def __init__(self) -> None:
        self.linked: dict[str, str] = {}

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(('https:',) if req.type == 'https' else ('https:', 'http:')):
            raise Interrupted(f'it is redirected to {newurl}, which is not https', final=True)
        self.linked |= {name.lower(): value for name, value in headers.items() if name.lower().startswith('x-linked-')}
        fp.close()  # Or all of its body would be read, which may have no end.
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(address: str, headers: Mapping[str, str], partial: Path) -> tuple[Any, Mapping[str, str]]:
    version = importlib.metadata.version('flaxmobile')
    common = {'User-Agent': f'flaxmobile/{version}', 'Accept-Encoding': 'identity'}
    redirects = _Redirects()
    try:
        request = urllib.request.Request(address, headers={**common, **headers})
        return urllib.request.build_opener(redirects, _Http, _Https).open(request, timeout=TIMEOUT), redirects.linked
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            drop(partial)
        wait = number(error.headers.get('Retry-After', ''))
        first = str(error.reason).partition('\n')[0]
        raise Interrupted(
            f'the server answers {error.code} {first}', final=error.code not in PASSING, wait=wait
        ) from error
    except http.client.HTTPException as error:
        final = isinstance(error, http.client.InvalidURL)
        what = 'its address is none' if final else "the server's answer cannot be read"
        raise Interrupted(f'{what} ({error or type(error).__name__})', final=final) from error
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, 'reason', error)
        final = not isinstance(error, OSError) or isinstance(reason, socket.gaierror | ssl.SSLCertVerificationError)
        raise Interrupted(f'there is no connection ({reason or type(error).__name__})', final=final) from error


def _receive(response: Any, partial: Path, most: int, advance: Callable[[int], None]) -> None:
    held = _size(partial)
    try:
        with open(partial, 'ab') as file:
            while chunk := _read(response):
                held += len(chunk)
                if held > most:
                    drop(partial)
                    raise Interrupted(f'the server sends more than {most:,} bytes; they were removed', final=True)
                file.write(chunk)
                advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        drop(partial)
        raise OSError(error.errno, error.strerror, str(partial.with_suffix(''))) from error


def _read(response: Any) -> bytes:
    try:
        chunk: bytes = response.read1(CHUNK)
        return chunk
    except (OSError, http.client.HTTPException) as error:
        raise Interrupted(f'the connection was cut ({error or type(error).__name__})') from error


def small_text(path: Path, most: int = 4096) -> str | None:
    """What a small file beside another says, or None where it cannot be read, is no text or is too long."""
    try:
        with open(path, 'rb') as file:
            content = file.read(most + 1)
        return content.decode() if len(content) <= most else None
    except (OSError, UnicodeDecodeError):
        return None


def validator_path(partial: Path) -> Path:
    """Where it is kept which version of a file `partial` is of."""
    return partial.with_name(f'{partial.name}.json')


def _keep_validator(partial: Path, validator: str) -> None:
    if validator:
        validator_path(partial).write_text(json.dumps({'validator': validator}))


def validator_of(partial: Path) -> str:
    """Which version of a file `partial` is of; '' where that is not known, or not in a way that has a meaning."""
    try:
        validator = json.loads(small_text(validator_path(partial)) or '')['validator']
    except (ValueError, KeyError, TypeError, RecursionError):
        return ''
    return validator if isinstance(validator, str) and VALIDATOR.fullmatch(validator) else ''


def drop(partial: Path) -> None:
    """Remove what was fetched so far."""
    partial.unlink(missing_ok=True)
    validator_path(partial).unlink(missing_ok=True)


def _size(partial: Path) -> int:
    return partial.stat().st_size if partial.is_file() else 0


@contextmanager
def _progress(name: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(name, completed=start, total=total)
        yield lambda count: bar.advance(task, count)
