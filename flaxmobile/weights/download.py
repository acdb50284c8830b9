"""Fetching published weights into a cache: plain https, resumed, checked, whole or not at all."""

import base64
import errno
import functools
import hashlib
import http.client
import importlib.metadata
import json
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
from typing import Any, NamedTuple

from flaxmobile.files import write_whole
from flaxmobile.weights.catalogue import Weight

HUB = 'https://huggingface.co'
ATTEMPTS = 5
"""In a row, without a byte more than ever before."""
TIMEOUT = 30.0
LONGEST_WAIT = 30.0
PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers that another attempt may change."""
CHUNK = 2**20
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


class DownloadError(OSError):
    """A file that could not be fetched."""


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
            if expected:
                with open(path, 'rb') as file:
                    digest = hashlib.file_digest(file, functools.partial(hashlib.new, algorithm, usedforsecurity=False))
                if not digest.hexdigest().startswith(expected):
                    return f'its {algorithm} is {digest.hexdigest()[: len(expected)]} instead of {expected}'
        return None


def cache_folder() -> Path:
    """Where downloaded weights are kept: `FLAXMOBILE_CACHE`, or the platform's folder for caches."""
    if given := os.environ.get('FLAXMOBILE_CACHE'):
        return Path(given).expanduser()
    import platformdirs

    return platformdirs.user_cache_path('flaxmobile', appauthor=False)


def cache_path(weight: Weight) -> Path:
    """Where the file of `weight` is kept, and may be put by hand."""
    return cache_folder() / weight.name / weight.file_name


def address_of(weight: Weight) -> str:
    """Where the file of `weight` is fetched from: `HF_ENDPOINT` stands in for the Hugging Face hub."""
    return weight.address.replace(HUB, os.environ.get('HF_ENDPOINT', HUB).rstrip('/'), 1)


def download(weight: Weight) -> Path:
    """The file of `weight`, from the cache, or fetched into it.

    What broke off is taken up again; of several processes one fetches and the others wait for it.

    Raises:
        ValueError: the file in the cache is not the published one.
        DownloadError: it cannot be fetched; says the address, and where to put the file by hand.
        OSError: the cache cannot be written.
    """
    path, published = cache_path(weight), Facts(weight.size, weight.sha256, weight.md5)
    if not path.is_file():
        with _writing_to(path, weight):
            from filelock import FileLock

            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f'{path.name}.lock')):
                if not path.is_file():
                    _fetch(weight, published, path)
                    with open(path, 'rb') as file:
                        write_whole(_digest_path(path), hashlib.file_digest(file, 'sha256').hexdigest())
                    return path
    fetched = Facts(sha256=_digest_path(path).read_text()) if _digest_path(path).is_file() else Facts()
    if fault := published.fault(path) or fetched.fault(path):
        raise ValueError(f'{path} is not the file of {weight.name}: {fault}. Remove it, and it is fetched again')
    return path


def _digest_path(path: Path) -> Path:
    """Holds the SHA-256 of a fetched file, by which it is known to be whole ever after."""
    return path.with_name(f'{path.name}.sha256')


@contextmanager
def _writing_to(path: Path, weight: Weight) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise DownloadError(
            f'{path.parent} cannot be written ({error.strerror}): set FLAXMOBILE_CACHE to a folder that can be, '
            f'or put the file {address_of(weight)} at {path}'
        ) from error


def _fetch(weight: Weight, published: Facts, path: Path) -> None:
    address = address_of(weight)
    partial = path.with_name(f'{path.name}.partial')
    failures, most = 0, _size(partial)
    while True:
        try:
            _transfer(address, partial, published, weight.name)
            break
        except _Interrupted as error:
            failures = 1 if _size(partial) > most else failures + 1
            most = max(most, _size(partial))
            if error.final or failures == ATTEMPTS:
                raise DownloadError(
                    f'{weight.name} was not downloaded: {error.reason}\n  address: {address}\n'
                    f'  Without a connection, fetch that file elsewhere and put it at\n  {path}\n'
                    '  or name the file itself: --weights FILE to predict and evaluate, --init FILE to train, '
                    'load_pretrained(..., file=...)'
                ) from error
            time.sleep(min(LONGEST_WAIT, error.wait or 2.0 ** (failures - 1)))
    os.replace(partial, path)
    _validator_path(partial).unlink(missing_ok=True)


class _Interrupted(Exception):
    """A transfer that failed, and whether another attempt may do."""

    def __init__(self, reason: str, *, final: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.final, self.wait = reason, final, wait


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, keeping what the hub says of a file before it points to where the file lies."""

    def __init__(self) -> None:
        self.linked: dict[str, str] = {}

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == 'https' and not newurl.startswith('https:'):
            raise _Interrupted(f'it is redirected to {newurl}, which is not https', final=True)
        self.linked |= {name.lower(): value for name, value in headers.items() if name.lower().startswith('x-linked-')}
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _transfer(address: str, partial: Path, published: Facts, name: str) -> None:
    """Fetch what is missing of `partial`, and check all of it."""
    validator = _validator(partial)
    start = _size(partial) if validator else 0
    headers = {'Range': f'bytes={start}-', 'If-Range': validator} if start else {}
    response, linked = _open(address, headers, partial)
    with response:
        served = _facts(response.headers, linked)
        resumed = response.status == 206
        if resumed and (_validator_of(response.headers) != validator or _range_start(response.headers) != start):
            _drop(partial)
            raise _Interrupted('the file changed on the server while it was fetched')
        total = _total(response.headers, start if resumed else 0, served)
        if published.size is not None and total is not None and total != published.size:
            _drop(partial)
            raise _Interrupted(f'the server has {total:,} bytes instead of {published.size:,}', final=True)
        if not resumed:
            _drop(partial)
            start = 0
            _keep_validator(partial, _validator_of(response.headers))
        with _progress(name, start, total) as advance:
            _receive(response, partial, advance)
    if total is not None and _size(partial) < total:
        raise _Interrupted(f'the connection was cut after {_size(partial):,} of {total:,} bytes')
    for facts in (published, served):
        if fault := facts.fault(partial):
            _drop(partial)
            # What was put together of two transfers is worth a second attempt.
            raise _Interrupted(f'what came is not the published file: {fault}; it was removed', final=not resumed)


def _open(address: str, headers: Mapping[str, str], partial: Path) -> tuple[Any, Mapping[str, str]]:
    version = importlib.metadata.version('flaxmobile')
    common = {'User-Agent': f'flaxmobile/{version}', 'Accept-Encoding': 'identity'}
    redirects = _Redirects()
    try:
        request = urllib.request.Request(address, headers={**common, **headers})
        return urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT), redirects.linked
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            _drop(partial)
        again = error.code in PASSING or error.code == 416
        wait = error.headers.get('Retry-After', '')
        raise _Interrupted(
            f'the server answers {error.code} {error.reason}',
            final=not again,
            wait=float(wait) if wait.isdecimal() else None,
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, 'reason', error)
        final = isinstance(error, ValueError) or isinstance(reason, socket.gaierror | ssl.SSLCertVerificationError)
        raise _Interrupted(f'there is no connection ({reason or type(error).__name__})', final=final) from error


def _receive(response: Any, partial: Path, advance: Callable[[int], None]) -> None:
    try:
        with open(partial, 'ab') as file:
            while chunk := _read(response):
                file.write(chunk)
                advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        _drop(partial)
        raise OSError(error.errno, error.strerror, str(partial.with_suffix(''))) from error


def _read(response: Any) -> bytes:
    try:
        chunk: bytes = response.read1(CHUNK)
        return chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(f'the connection was cut ({error or type(error).__name__})') from error


def _facts(headers: Mapping[str, str], linked: Mapping[str, str]) -> Facts:
    """Size and digests as the server says them: the hub of a linked file, Google's storage of any."""
    etag, size = linked.get('x-linked-etag', '').strip('"'), linked.get('x-linked-size', '')
    md5 = None
    for part in headers.get('x-goog-hash', '').replace(' ', '').split(','):
        if part.startswith('md5='):
            md5 = base64.b64decode(part.removeprefix('md5=')).hex()
    return Facts(int(size) if size.isdecimal() else None, etag.lower() if len(etag) == 64 else None, md5)


def _total(headers: Mapping[str, str], start: int, served: Facts) -> int | None:
    length = headers.get('Content-Length', '')
    return start + int(length) if length.isdecimal() else served.size


def _range_start(headers: Mapping[str, str]) -> int:
    first = headers.get('Content-Range', '').removeprefix('bytes ').split('-')[0]
    return int(first) if first.isdecimal() else -1


def _validator_of(headers: Mapping[str, str]) -> str:
    """What names this version of the file to the server, where it has such a thing."""
    etag = headers.get('ETag', '')
    return headers.get('Last-Modified', '') if not etag or etag.startswith('W/') else etag


def _validator_path(partial: Path) -> Path:
    return partial.with_name(f'{partial.name}.json')


def _keep_validator(partial: Path, validator: str) -> None:
    if validator:
        _validator_path(partial).write_text(json.dumps({'validator': validator}))


def _validator(partial: Path) -> str:
    try:
        return str(json.loads(_validator_path(partial).read_text())['validator'])
    except (OSError, ValueError, KeyError, TypeError):
        return ''


def _drop(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _validator_path(partial).unlink(missing_ok=True)


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
