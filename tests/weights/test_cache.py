"""The folder that downloads are kept in: no room, no permission, two processes at once."""

import errno
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from file_server import Answer, FileServer
from test_download import CONTENT, left, server, waits, weight

from flaxmobile import weights
from flaxmobile.weights import transfer
from flaxmobile.weights.catalogue import Weight

__all__ = ['server', 'waits', 'weight']  # Fixtures.
module = importlib.import_module('flaxmobile.weights.download')


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_no_space(weight: Weight, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    class Full:
        def __init__(self, *arguments: Any) -> None:
            self.file = open(*arguments)  # noqa: SIM115

        def __enter__(self) -> 'Full':
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, chunk: bytes) -> None:
            self.file.write(chunk[:1000])
            raise OSError(number, 'it does not fit')

    with monkeypatch.context() as patch:
        patch.setattr(transfer, 'open', Full, raising=False)
        with pytest.raises(OSError, match='it does not fit') as error:
            weights.download(weight)
    assert (error.value.errno, error.value.filename) == (number, str(weights.cache_path(weight)))
    assert left(weight) == {'model.bin.lock'}
    assert weights.download(weight).read_bytes() == CONTENT


FETCH = """
import dataclasses, resource, sys
from flaxmobile import weights
address, limit = sys.argv[1], int(sys.argv[2])
weight = dataclasses.replace(weights.find('mobilenetv2_100.ra_in1k'), address=address)
print('ready', flush=True)
sys.stdin.readline()
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    print(len(weights.download(weight).read_bytes()))
except OSError as error:
    print(error)
"""


def fetching(weight: Weight, limit: int = 0) -> subprocess.Popen[str]:
    """A process that is about to fetch."""
    command = [sys.executable, '-c', FETCH, weight.address, str(limit)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == 'ready\n'
    return process


def test_the_system_refuses_to_write(weight: Weight) -> None:
    out, _ = fetching(weight, limit=100_000).communicate('go\n', timeout=60)
    assert 'File too large' in out
    assert str(weights.cache_path(weight)) in out
    assert left(weight) == {'model.bin.lock'}


def test_two_processes_at_once(server: FileServer, weight: Weight) -> None:
    server.plan = [Answer(CONTENT, pause=0.1)]
    processes = [fetching(weight) for _ in range(2)]
    for process in processes:
        assert process.stdin
        process.stdin.write('go\n')
        process.stdin.flush()
    assert [process.communicate(timeout=60)[0] for process in processes] == ['300000\n', '300000\n']
    assert len(server.asked) == 1


def test_a_cache_that_cannot_be_made(weight: Weight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'taken').write_text('')
    monkeypatch.setenv('FLAXMOBILE_CACHE', str(tmp_path / 'taken'))
    with pytest.raises(OSError, match=r'cannot be written .*: set FLAXMOBILE_CACHE'):
        weights.download(weight)


def test_a_read_only_cache(server: FileServer, weight: Weight, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, 'Read-only file system')

    path = weights.cache_path(weight)
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(Path, 'mkdir', refuse)
    with pytest.raises(OSError, match=r'cannot be written \(Read-only file system\): set FLAXMOBILE_CACHE'):
        weights.download(weight)
    path.write_bytes(CONTENT)
    assert weights.download(weight) == path
    assert left(weight) == {'model.bin'}


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.delenv('FLAXMOBILE_CACHE')
    assert module.cache_folder() == Path(platformdirs.user_cache_dir('flaxmobile', appauthor=False))
