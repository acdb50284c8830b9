"""Fetching published weights into a cache: plain https, resumed, checked, whole or not at all."""

import errno
import functools
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flaxmobile.files import write_whole
from flaxmobile.messages import printable
from flaxmobile.models.registry import create_model
from flaxmobile.weights.answers import Facts, Interrupted, digest_of
from flaxmobile.weights.catalogue import Weight
from flaxmobile.weights.transfer import fault_of, fetch, small_text, validator_path

HUB = 'https://huggingface.co'
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
log = logging.getLogger(__name__)


class DownloadError(OSError):
    """A file that could not be fetched."""


def cache_folder() -> Path:
    """Where downloaded weights are kept: `FLAXMOBILE_CACHE`, or the platform's folder for caches.

    Raises:
        ValueError: `FLAXMOBILE_CACHE` begins with the home of somebody who has none.
    """
    if given := os.environ.get('FLAXMOBILE_CACHE'):
        try:
            return Path(given).expanduser()
        except RuntimeError as error:
            raise ValueError(f"FLAXMOBILE_CACHE is '{printable(given)}', and there is no such home") from error
    import platformdirs

    return platformdirs.user_cache_path('flaxmobile', appauthor=False)


def cache_path(weight: Weight) -> Path:
    """Where the file of `weight` is kept, and may be put by hand."""
    return cache_folder() / weight.name / weight.file_name


def address_of(weight: Weight) -> str:
    """Where the file of `weight` is fetched from: `HF_ENDPOINT` stands in for the Hugging Face hub.

    Raises:
        ValueError: `HF_ENDPOINT` is no address.
    """
    endpoint = os.environ.get('HF_ENDPOINT') or HUB
    if not re.fullmatch(r'https?://[^\s/?#]+(/[^\s?#]*)?', endpoint):
        raise ValueError(f"HF_ENDPOINT is '{printable(endpoint)}': it has to be an address, as {HUB} is one")
    return weight.address.replace(HUB, endpoint.rstrip('/'), 1)


def download(weight: Weight) -> Path:
    """The file of `weight`, from the cache, or fetched into it.

    What broke off is taken up again; of several processes one fetches and the others wait for it. A file gets its name
    once its digests are right, as far as they are known, and it was read to the end as the format that it is of, with
    as many tensors as the network has. The terms of a licence that is not an open one are logged first, as a warning.

    Raises:
        ValueError: the file in the cache is not the published one, or a variable of the environment is wrong.
        DownloadError: it cannot be fetched; says the address, and where to put the file by hand.
        OSError: the cache cannot be written.
    """
    if weight.terms:
        log.warning(weight.terms)
    path, published = cache_path(weight), Facts(weight.size, weight.sha256, weight.md5)
    if not path.is_file():
        with _writing_to(path, weight):
            from filelock import FileLock

            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(f'{path.name}.lock')):
                if not path.is_file():
                    _fetch(weight, published, path)
                    return path
    _check_kept(weight, published, path)
    return path


def _fetch(weight: Weight, published: Facts, path: Path) -> None:
    address, partial = address_of(weight), path.with_name(f'{path.name}.partial')
    try:
        fetch(address, partial, published, weight.name, functools.partial(_check_whole, weight))
    except Interrupted as error:
        raise DownloadError(
            f'{weight.name} was not downloaded from {address}: {error.reason}. Without a connection, fetch that file '
            f'elsewhere and put it at {printable(path, None)}, or name the file itself (file=..., or init=... of '
            'a run)'
        ) from error
    write_whole(_digest_path(path), digest_of(partial))
    os.replace(partial, path)
    validator_path(partial).unlink(missing_ok=True)


def _check_whole(weight: Weight, path: Path) -> None:
    """Raise a ValueError for a file that does not read to its end, or has fewer tensors than the network."""
    from flaxmobile.weights import formats

    names, needed = formats.read(path).tensors, _count_tensors(weight.model)
    found = sum(not name.endswith('num_batches_tracked') for name in names)  # torch counts batches; no other library.
    if found < needed:
        raise ValueError(f'{printable(path, None)}: it holds {found:,} tensors, and {weight.model} has {needed:,}')


@functools.cache
def _count_tensors(model_name: str) -> int:
    from flaxmobile.weights.names import flat_shapes

    return len(flat_shapes(create_model(model_name)))


def _check_kept(weight: Weight, published: Facts, path: Path) -> None:
    """Hold a file in the cache against what is known of it. Its note of that may be damaged too."""
    place = _digest_path(path)
    noted = (small_text(place) or '').strip()
    legible = bool(re.fullmatch('[0-9a-f]{64}', noted))
    fault = published.fault(path)
    if legible and not fault and (fault := Facts(sha256=noted).fault(path)):
        fault += (
            f', which was noted in {place.name} when it was fetched (remove that too if you put another file there)'
        )
    if place.exists() and not legible and not fault:
        log.warning('%s is damaged: %s is read to its end instead, and it is written anew', printable(place), path.name)
        fault = fault_of(path, functools.partial(_check_whole, weight))
        if not fault:
            with suppress(OSError):  # A cache that cannot be written will do.
                write_whole(place, digest_of(path))
    if fault:
        shown = printable(path, None)
        raise ValueError(f'{shown} is not the file of {weight.name}: {fault}. Remove it, and it is fetched again')


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
            f'{printable(path.parent, None)} cannot be written ({error.strerror}): set FLAXMOBILE_CACHE to a folder '
            f'that can be, or put the file {address_of(weight)} at {printable(path, None)}'
        ) from error
