"""What a server may say or do wrong, and damaged files in the cache: each is named, and none lasts."""

import base64
import dataclasses
import gzip
import hashlib
import importlib
import io
import itertools
import logging
import re
import socket
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from file_server import Answer, FileServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_download import CONTENT, MD5, OTHER, SHA256, left, server, tensors, waits, weight

from flaxmobile import weights
from flaxmobile.weights import transfer
from flaxmobile.weights.catalogue import CATALOGUE, Weight
from flaxmobile.weights.formats import torch_pickle

__all__ = ['server', 'waits', 'weight']  # Fixtures.
download = importlib.import_module('flaxmobile.weights.download')


@pytest.mark.parametrize(
    'headers',
    [
        *({'x-goog-hash': f'crc32c=AAAAAA==,md5={sum}'} for sum in ('', '%%%', 'AAAA', 'A', 'é' * 24, '=' * 60_000)),
        {'ETag': 'no quotes'},
        {'ETag': ['"first"', '"second"']},
        {'Last-Modified': 'yesterday'},
        {'Content-Range': 'bytes 7-2/1'},
        {'Content-Encoding': 'Identity'},
    ],
)
def test_a_header_that_means_nothing_counts_as_not_there(
    server: FileServer, weight: Weight, headers: dict[str, str | list[str]]
) -> None:
    server.plan = [Answer(CONTENT, etag=None, headers=headers, cut=100_000), Answer(CONTENT)]
    assert weights.download(weight).read_bytes() == CONTENT
    assert [asked.get('range') for _, asked in server.asked] == [None, None]


@pytest.mark.parametrize(
    'linked',
    [{'X-Linked-Size': '9' * 5000}, {'X-Linked-Size': '-1'}, {'X-Linked-Etag': 'z' * 64}, {'X-Linked-Etag': '"W/"'}],
)
def test_a_link_that_means_nothing_counts_as_not_there(
    server: FileServer, weight: Weight, linked: dict[str, str | list[str]]
) -> None:
    server.plan = [Answer(status=302, headers={**linked, 'Location': '/elsewhere'}), Answer(CONTENT)]
    assert weights.download(weight).read_bytes() == CONTENT


def test_how_long_to_wait_is_read_as_carefully(server: FileServer, weight: Weight, waits: list[float]) -> None:
    said = ('9' * 5000, '-7', '1e3', '9' * 15)
    server.plan = [*(Answer(status=503, headers={'Retry-After': text}) for text in said), Answer(CONTENT)]
    assert weights.download(weight).read_bytes() == CONTENT
    assert waits == [1, 2, 4, 30]


def test_google_says_its_sums_in_two_headers(server: FileServer, weight: Weight) -> None:
    wrong = base64.b64encode(bytes(16)).decode()
    server.plan = [Answer(CONTENT, headers={'x-goog-hash': ['crc32c=AAAAAA==', f'md5={wrong}']})]
    with pytest.raises(OSError, match=f'its md5 is {MD5} instead of {"0" * 32}'):
        weights.download(weight)


@pytest.mark.parametrize(
    ('answer', 'message'),
    [
        (
            Answer(CONTENT, length=False, headers={'Content-Length': '-5'}),
            "the server's Content-Length is no number: -5",
        ),
        (Answer(CONTENT, length=False, headers={'Content-Length': '3_0'}), 'Content-Length is no number: 3_0'),
        (Answer(CONTENT, headers={'Content-Length': '5'}), 'says two things as Content-Length: 300000, 5'),
        (Answer(CONTENT, length=False, headers={'Content-Length': str(2**40)}), 'no such file has over 2,147,483,648'),
        (Answer(gzip.compress(CONTENT), headers={'Content-Encoding': 'gzip'}), r'sends the file packed \(gzip\)'),
        (Answer(CONTENT, headers={'Content-Encoding': '\x1b]0;t\x07'}), r'packed \(\\x1b\]0;t\\x07\)'),
        (Answer(gzip.compress(CONTENT)), r'is packed \(tar, gzip'),
        (Answer(b'<!DOCTYPE html><p>Please log in'), 'is a web page, not weights'),
        (Answer(), 'is empty'),
        (Answer(tensors(261, 300_000, seed=0)), 'holds 261 tensors, and mobilenetv2_100 has 262'),
        (Answer(tensors(314, 300_000, seed=0, counters=53)), 'holds 261 tensors, and mobilenetv2_100 has 262'),
        (Answer(CONTENT[:-1]), 'is no whole safetensors file'),
        (Answer(CONTENT + b'?'), 'is no whole safetensors file'),
        *((Answer(CONTENT, status), f'answers {status} .* instead of the file') for status in (202, 203, 204, 206)),
        (Answer(status=302, headers={'Location': '/again'}), 'the server answers 302 .* infinite loop'),
        (Answer(status=302, headers={'Location': 'http://[bad/'}), 'there is no connection'),
        (Answer(status=302, headers={'Location': 'ftp://127.0.0.1/x'}), 'which is not https'),
        (Answer(status=302, headers={'Location': 'file:///etc/passwd'}), 'which is not https|not allowed'),
        (Answer(b'<p>' * 10**6, status=404), '404 Not Found'),
    ],
)
def test_what_cannot_be_the_file_is_refused_at_once(
    server: FileServer, weight: Weight, answer: Answer, message: str, waits: list[float]
) -> None:
    server.plan = [answer]
    with pytest.raises(download.DownloadError, match=message) as error:
        weights.download(weight)
    assert waits == []
    assert left(weight) == {'model.bin.lock'}
    assert '\x1b' not in str(error.value)


def test_a_body_without_length_may_be_cut(server: FileServer, weight: Weight, waits: list[float]) -> None:
    server.plan = [Answer(CONTENT, length=False, cut=200_000), Answer(CONTENT, length=False)]
    assert weights.download(weight).read_bytes() == CONTENT
    assert waits == [1]
    weights.cache_path(weight).unlink()
    server.plan = [Answer(CONTENT, length=False, cut=200_000)]
    with pytest.raises(OSError, match='what came is not the published file: is no whole safetensors file'):
        weights.download(weight)
    assert left(weight) == {'model.bin.lock', 'model.bin.sha256'}


def torch_zip() -> bytes:
    return torch_pickle.encode({'a': np.arange(300.0), 'b': np.ones((3, 4), np.float32)})


def keras_file() -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w') as file:
        for name in ('a', 'b'):
            file.create_dataset(f'{name}/{name}/kernel:0', data=np.arange(300.0))
    return buffer.getvalue()


def keras_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive:
        archive.writestr('model.weights.h5', keras_file())
    return buffer.getvalue()


def old_torch() -> bytes:
    """By torch itself, before its format was a zip."""
    return (Path(__file__).parent / 'torch_files' / 'legacy.pth').read_bytes()


FILES = {
    'safetensors': lambda: CONTENT,
    'torch': torch_zip,
    'old torch': old_torch,
    'keras': keras_file,
    'keras zip': keras_zip,
}


@pytest.mark.parametrize('kind', FILES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_of_any_format_is_not_whole(
    kind: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, '_count_tensors', lambda name: 1)
    content, path = FILES[kind](), tmp_path / 'file'
    path.write_bytes(content)
    download._check_whole(weights.find('mobilenetv2_100.ra_in1k'), path)
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match='file'):
        download._check_whole(weights.find('mobilenetv2_100.ra_in1k'), path)


@pytest.mark.parametrize(
    'place',
    ['bytes 99999-299999/300000', 'bytes 100000-299998/300000', 'bytes 100000-299999/299999', 'bytes */300000', 'none'],
)
def test_a_range_that_is_not_what_was_asked_for_begins_anew(server: FileServer, weight: Weight, place: str) -> None:
    server.plan = [Answer(CONTENT, cut=100_000), Answer(CONTENT, place=place), Answer(CONTENT)]
    assert weights.download(weight).read_bytes() == CONTENT
    assert [asked.get('range') for _, asked in server.asked] == [None, 'bytes=100000-', None]


def test_a_part_of_the_range_is_not_the_rest(server: FileServer, weight: Weight) -> None:
    part = Answer(CONTENT[:250_000], place='bytes 100000-249999/300000')
    server.plan = [Answer(CONTENT, cut=100_000), part, Answer(CONTENT)]
    assert weights.download(weight).read_bytes() == CONTENT
    assert [asked.get('range') for _, asked in server.asked] == [None, 'bytes=100000-', 'bytes=250000-']


def test_a_part_that_was_not_asked_for_is_not_added_to_another(server: FileServer, weight: Weight) -> None:
    path = weights.cache_path(weight)
    path.parent.mkdir(parents=True)
    path.with_name('model.bin.partial').write_bytes(OTHER[:1000])  # Of a server without tags.
    server.plan = [Answer(CONTENT, 206, etag=None, place='bytes 0-299999/300000')]
    with pytest.raises(OSError, match='answers 206'):
        weights.download(weight)


@pytest.mark.parametrize(
    'answer',
    [
        Answer(b'?' * 1000, length=False, endless=True),
        Answer(b'?' * 1000, length=False, endless=True, headers={'Transfer-Encoding': 'identity'}),
        Answer(
            b'3e8\r\n' + b'?' * 1000 + b'\r\n', length=False, endless=True, headers={'Transfer-Encoding': 'chunked'}
        ),
    ],
)
def test_a_body_without_end(
    server: FileServer, weight: Weight, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, 'MOST', 400_000)
    server.plan = [answer]
    with pytest.raises(OSError, match=r'the server sends more than 400,000 bytes; they were removed'):
        weights.download(weight)
    assert left(weight) == {'model.bin.lock'}


def test_a_redirection_whose_body_has_no_end_is_followed(server: FileServer, weight: Weight) -> None:
    link = Answer(b'?' * 1000, 302, length=False, endless=True, headers={'Location': '/elsewhere'})
    server.plan = [link, Answer(CONTENT)]
    assert weights.download(weight).read_bytes() == CONTENT


def test_the_bound_is_above_every_file() -> None:
    """The largest is MobileNetV5, of 294,126,912 parameters of four bytes each."""
    assert transfer.MOST > 1.5 * 4 * 294_126_912
    assert max(known.size or 0 for known in CATALOGUE.values()) < transfer.MOST


def test_a_server_that_trickles_is_given_up(
    server: FileServer, weight: Weight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, 'WINDOW', 0.1)
    monkeypatch.setattr(transfer, 'SLOWEST', 100_000)
    monkeypatch.setattr(transfer, 'ATTEMPTS', 3)
    server.plan = [Answer(CONTENT, pause=0.005, step=10)]
    start = time.monotonic()
    with pytest.raises(OSError, match='the server sends less than 100,000 bytes a second'):
        weights.download(weight)
    assert time.monotonic() - start < 30
    assert len(server.asked) == 3  # However much each one brought.
    ranges = [int(asked.get('range', 'bytes=0-')[6:-1]) for _, asked in server.asked]
    assert ranges == sorted(set(ranges))


def test_a_server_that_trickles_headers_is_given_up(weight: Weight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, 'WINDOW', 0.1)
    monkeypatch.setattr(transfer, 'ATTEMPTS', 1)

    def trickle(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            for _ in itertools.takewhile(lambda _: not closed.wait(0.01), itertools.count()):
                connection.send(b'H')

    closed = threading.Event()
    with socket.create_server(('127.0.0.1', 0)) as listening:
        thread = threading.Thread(target=trickle, args=(listening,), daemon=True)
        thread.start()
        address = f'http://127.0.0.1:{listening.getsockname()[1]}/model.bin'
        with pytest.raises(OSError, match='the server sends less than 1,000 bytes a second'):
            weights.download(dataclasses.replace(weight, address=address))
        closed.set()
        thread.join()


def test_a_slow_server_is_not_given_up_for_our_own_pauses(
    server: FileServer, weight: Weight, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the time spent waiting for the server counts: here each chunk takes us three windows."""
    monkeypatch.setattr(transfer, 'WINDOW', 0.05)
    monkeypatch.setattr(transfer, 'SLOWEST', 10**6)
    read = transfer._read

    def paused(response: Any) -> bytes:
        threading.Event().wait(0.15)
        return read(response)

    monkeypatch.setattr(transfer, '_read', paused)
    monkeypatch.setattr(transfer, 'CHUNK', 100_000)
    assert weights.download(weight).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_server_that_gives_a_byte_each_time_is_given_up(server: FileServer, weight: Weight) -> None:
    server.plan = [Answer(CONTENT, cut=1)]
    with pytest.raises(OSError, match='the connection was cut after 21 of 300,000 bytes'):
        weights.download(weight)
    assert len(server.asked) == transfer.MANY + 1


DAMAGED = [
    b'[' * 100_000,
    b'[' * 4000,
    b'{"validator": "\\"a\\r\\nX: y\\""}',
    b'{"validator": "a\\nb"}',
    b'\xff\xfe',
    b'',
]
DAMAGED += [b'{"validator": 7}', b'{"validator": "\\"\\ud800\\""}', b'[]', b'null', b'{"validator": "' + b'a' * 10**6]


@pytest.mark.parametrize('content', DAMAGED)
def test_a_damaged_note_on_what_is_there_is_said_once_and_begun_anew(
    server: FileServer, weight: Weight, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = weights.cache_path(weight)
    path.parent.mkdir(parents=True)
    path.with_name('model.bin.partial').write_bytes(CONTENT[:1000])
    path.with_name('model.bin.partial.json').write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert weights.download(weight).read_bytes() == CONTENT
    [record] = caplog.records
    assert re.search(r'model\.bin\.partial\.json is damaged: .* is fetched from its beginning', record.getMessage())
    assert [asked.get('range') for _, asked in server.asked] == [None]
    assert left(weight) - {'model.bin.lock'} == {'model.bin', 'model.bin.sha256'}


@pytest.mark.parametrize(
    'content', [b'\xff\xfe\x00', b'', b'0' * 63, b'g' * 64, b'0' * 10**6, SHA256.encode()[:-1] + b'\xb2']
)
def test_a_damaged_digest_is_said_once_and_made_anew(
    server: FileServer, weight: Weight, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = weights.download(weight)
    path.with_name('model.bin.sha256').write_bytes(content)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert weights.download(weight) == path
    [record] = caplog.records
    assert 'model.bin.sha256 is damaged' in record.getMessage()
    assert path.with_name('model.bin.sha256').read_text() == hashlib.sha256(CONTENT).hexdigest()
    path.with_name('model.bin.sha256').write_bytes(content)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(ValueError, match=r'is no whole safetensors file .*\. Remove it, and it is fetched again'):
        weights.download(weight)
    path.unlink()
    assert weights.download(weight).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_another_file_put_in_place_of_a_fetched_one_can_be_insisted_on(server: FileServer, weight: Weight) -> None:
    path = weights.download(weight)
    path.write_bytes(OTHER)
    with pytest.raises(ValueError, match=r'its sha256 is .* noted in model\.bin\.sha256 .*remove that too'):
        weights.download(weight)
    path.with_name('model.bin.sha256').unlink()
    assert weights.download(weight).read_bytes() == OTHER


@pytest.mark.parametrize('name', ['mobilenetv2_100.ra_in1k', 'tf_mobilenetv2_035.keras_r96_in1k'])
@pytest.mark.parametrize('given', ['nonsense', 'ftp://mirror', 'https://', 'https://a b', 'https://host/?token'])
def test_a_mirror_that_is_no_address_is_named(name: str, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HF_ENDPOINT', given)
    with pytest.raises(ValueError, match=f"HF_ENDPOINT is '{re.escape(given)}': it has to be an address"):
        weights.download(weights.find(name))


def test_a_cache_in_the_home_of_nobody_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('FLAXMOBILE_CACHE', '~nobody_of_that_name/cache')
    with pytest.raises(ValueError, match="FLAXMOBILE_CACHE is '~nobody_of_that_name/cache'"):
        download.cache_folder()
