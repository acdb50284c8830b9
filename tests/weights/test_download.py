import base64
import dataclasses
import hashlib
import itertools
import json
import random
import re
import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import Answer, FileServer, serving

from flaxmobile import weights
from flaxmobile.weights import transfer
from flaxmobile.weights.catalogue import Weight


def tensors(count: int, size: int, seed: int, counters: int = 0) -> bytes:
    """A safetensors file of `size` bytes with so many tensors of bytes, by the format's own description.

    The first of them are `counters` of batches.
    """
    data = random.Random(seed).randbytes(size - 30_000)
    ends = [len(data) * number // count for number in range(count + 1)]
    header = {
        f'{number}.num_batches_tracked' if number < counters else f'{number}': {
            'dtype': 'U8',
            'shape': [end - start],
            'data_offsets': [start, end],
        }
        for number, (start, end) in enumerate(itertools.pairwise(ends))
    }
    return (30_000 - 8).to_bytes(8, 'little') + json.dumps(header).encode().ljust(30_000 - 8) + data


# As many as MobileNetV2 has: 52 convolutions with a BatchNorm of four arrays each, a kernel and a bias.
CONTENT = tensors(52 * 5 + 2, 300_000, seed=0)
OTHER = tensors(52 * 5 + 2, 280_000, seed=1)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving() as server:
        server.plan = [Answer(CONTENT)]
        yield server


@pytest.fixture
def weight(server: FileServer) -> Weight:
    """A weight that the server has and of which nothing is known."""
    return dataclasses.replace(weights.find('mobilenetv2_100.ra_in1k'), address=f'{server.address}/files/model.bin')


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """An empty cache, no proxy, and what is slept."""
    monkeypatch.setenv('FLAXMOBILE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.delenv('HF_ENDPOINT', raising=False)
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    slept: list[float] = []
    monkeypatch.setattr(transfer.time, 'sleep', slept.append)
    return slept


def left(weight: Weight) -> set[str]:
    folder = weights.cache_path(weight).parent
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_a_file_is_fetched_once(server: FileServer, weight: Weight, tmp_path: Path, waits: list[float]) -> None:
    weight = dataclasses.replace(weight, size=len(CONTENT), sha256=SHA256[:8], md5=MD5)
    path = weights.download(weight)
    assert path == tmp_path / 'cache' / 'mobilenetv2_100.ra_in1k' / 'model.bin' == weights.cache_path(weight)
    assert path.read_bytes() == CONTENT
    assert weights.download(weight) == path
    ((asked, headers),) = server.asked
    assert asked == '/files/model.bin'
    assert re.fullmatch(r'flaxmobile/\d+\.\d+\.\d+', headers['user-agent'])
    assert 'range' not in headers
    assert left(weight) - {'model.bin.lock'} == {'model.bin', 'model.bin.sha256'}
    assert waits == []


def test_what_was_fetched_is_known_ever_after(server: FileServer, weight: Weight) -> None:
    path = weights.download(weight)
    assert path.with_name('model.bin.sha256').read_text() == SHA256
    path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    with pytest.raises(ValueError, match='its sha256 is'):
        weights.download(weight)


def test_a_cut_connection_is_taken_up(server: FileServer, weight: Weight, waits: list[float]) -> None:
    server.plan = [Answer(CONTENT, cut=100_000), Answer(CONTENT, cut=50_001), Answer(CONTENT)]
    assert weights.download(weight).read_bytes() == CONTENT
    ranges = [(headers.get('range'), headers.get('if-range')) for _, headers in server.asked]
    assert ranges == [(None, None), ('bytes=100000-', '"first"'), ('bytes=150001-', '"first"')]
    assert left(weight) - {'model.bin.lock'} == {'model.bin', 'model.bin.sha256'}
    assert waits == [1, 1]


@pytest.mark.parametrize('seed', range(8))
def test_cut_wherever_it_may_be(server: FileServer, weight: Weight, seed: int) -> None:
    draw = random.Random(seed)
    server.plan = [Answer(CONTENT, cut=draw.choice([1, 7, draw.randrange(60_000)])) for _ in range(12)]
    server.plan.append(Answer(CONTENT))
    assert weights.download(weight).read_bytes() == CONTENT
    assert len(server.asked) == 13


def test_what_a_process_left_is_taken_up_by_the_next(
    server: FileServer, weight: Weight, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    server.plan = [Answer(CONTENT, cut=123_456), Answer(CONTENT)]
    with monkeypatch.context() as patch:
        patch.setattr(transfer.time, 'sleep', interrupt)
        with pytest.raises(KeyboardInterrupt):
            weights.download(weight)
    assert not weights.cache_path(weight).exists()
    assert weights.download(weight).read_bytes() == CONTENT
    assert server.asked[1][1]['range'] == 'bytes=123456-'


@pytest.mark.parametrize(
    'second',
    [
        pytest.param([Answer(CONTENT, ranges=False)], id='ranges are ignored'),
        pytest.param([Answer(OTHER, etag='"second"')], id='changed, and the server heeds If-Range'),
        pytest.param([Answer(OTHER, etag='"second"', if_range=False)], id='changed, and it does not'),
        pytest.param([Answer(OTHER, etag=None, if_range=False)], id='changed, without a tag'),
        pytest.param([Answer(CONTENT, 416), Answer(CONTENT)], id='the range is refused'),
    ],
)
def test_no_two_files_are_spliced(server: FileServer, weight: Weight, second: list[Answer]) -> None:
    server.plan = [Answer(CONTENT, cut=100_000), *second]
    assert weights.download(weight).read_bytes() == second[-1].content


def test_a_server_that_never_gets_further_is_given_up(server: FileServer, weight: Weight) -> None:
    server.plan = [Answer(CONTENT, cut=100_000), Answer(CONTENT, etag=None, if_range=False)] * 10
    with pytest.raises(OSError, match='the connection was cut after 100,000 of 300,000 bytes'):
        weights.download(weight)
    assert len(server.asked) == 5


@pytest.mark.parametrize('etag', [None, 'W/"weak"'])
def test_without_a_tag_a_cut_file_starts_anew(server: FileServer, weight: Weight, etag: str | None) -> None:
    server.plan = [Answer(CONTENT, etag=etag, cut=100_000), Answer(CONTENT, etag=etag)]
    assert weights.download(weight).read_bytes() == CONTENT
    assert [headers.get('range') for _, headers in server.asked] == [None, None]


def test_a_splice_that_passes_for_one_file_fails_its_checksum(server: FileServer, weight: Weight) -> None:
    server.plan = [Answer(OTHER, cut=100_000), Answer(CONTENT)]
    weight = dataclasses.replace(weight, sha256=SHA256)
    assert weights.download(weight).read_bytes() == CONTENT
    assert [headers.get('range') for _, headers in server.asked] == [None, 'bytes=100000-', None]


@pytest.mark.parametrize(
    ('known', 'message'),
    [
        ({'sha256': '0' * 64}, f'its sha256 is {SHA256} instead of {"0" * 64}'),
        ({'sha256': '12345678'}, f'its sha256 is {SHA256[:8]} instead of 12345678'),
        ({'md5': '0' * 32}, f'its md5 is {MD5} instead of'),
        ({'size': 300_001}, 'the server has 300,000 bytes instead of 300,001'),
    ],
)
def test_another_file_than_published_is_refused(
    server: FileServer, weight: Weight, known: dict[str, Any], message: str
) -> None:
    with pytest.raises(OSError, match=message):
        weights.download(dataclasses.replace(weight, **known))
    assert len(server.asked) == 1
    assert left(weight) == {'model.bin.lock'}


def test_a_file_put_there_by_hand_is_checked_too(server: FileServer, weight: Weight) -> None:
    path = weights.cache_path(weight)
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert weights.download(dataclasses.replace(weight, sha256=SHA256)) == path
    path.write_bytes(CONTENT[:-1] + b'?')
    with pytest.raises(
        ValueError, match=r'model\.bin is not the file of mobilenetv2_100\.ra_in1k: its sha256 is .* Remove it'
    ):
        weights.download(dataclasses.replace(weight, sha256=SHA256))
    with pytest.raises(ValueError, match='it holds 300,000 bytes instead of 299,999'):
        weights.download(dataclasses.replace(weight, size=299_999))
    assert server.asked == []


@pytest.mark.parametrize(('status', 'words'), [(404, '404 Not Found'), (403, '403 Forbidden'), (410, '410 Gone')])
def test_what_is_not_there_is_said_at_once(server: FileServer, weight: Weight, status: int, words: str) -> None:
    server.plan = [Answer(status=status)]
    with pytest.raises(OSError, match=words) as error:
        weights.download(weight)
    assert len(server.asked) == 1
    assert weight.address in str(error.value)
    assert str(weights.cache_path(weight)) in str(error.value)


def test_a_server_in_trouble_is_asked_again(server: FileServer, weight: Weight, waits: list[float]) -> None:
    server.plan = [Answer(status=500), Answer(status=503, headers={'Retry-After': '7'}), Answer(CONTENT)]
    assert weights.download(weight).read_bytes() == CONTENT
    assert waits == [1, 7]


def test_a_server_that_stays_in_trouble(server: FileServer, weight: Weight, waits: list[float]) -> None:
    server.plan = [Answer(status=502)]
    with pytest.raises(OSError, match='502 Bad Gateway'):
        weights.download(weight)
    assert len(server.asked) == 5
    assert waits == [1, 2, 4, 8]


def test_a_server_that_hangs(server: FileServer, weight: Weight, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, 'TIMEOUT', 0.2)
    monkeypatch.setattr(transfer, 'ATTEMPTS', 2)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        weight = dataclasses.replace(weight, address=f'http://127.0.0.1:{silent.getsockname()[1]}/model.bin')
        with pytest.raises(OSError, match='timed out'):
            weights.download(weight)


def test_offline_it_says_where_to_put_the_file(
    weight: Weight, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')

    monkeypatch.setattr(socket, 'getaddrinfo', no_network)
    with pytest.raises(OSError, match='there is no connection') as error:
        weights.download(weight)
    assert weight.address in str(error.value)
    assert str(weights.cache_path(weight)) in str(error.value)
    assert waits == []


def test_no_server_at_the_address(weight: Weight, waits: list[float]) -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(OSError, match='Connection refused'):
        weights.download(dataclasses.replace(weight, address=f'http://127.0.0.1:{port}/model.bin'))
    assert len(waits) == 4


def test_the_hub_says_what_it_links_to(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = weights.find('mobilenetv2_100.ra_in1k')
    monkeypatch.setenv('HF_ENDPOINT', f'{server.address}/')
    linked = {'X-Linked-Etag': f'"{SHA256}"', 'X-Linked-Size': str(len(CONTENT)), 'Location': '/elsewhere?signed'}
    server.plan = [Answer(status=302, headers=linked), Answer(CONTENT)]
    assert weights.download(weight).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == [
        '/timm/mobilenetv2_100.ra_in1k/resolve/main/model.safetensors',
        '/elsewhere?signed',
    ]


@pytest.mark.parametrize('name', ['X-Linked-Etag', 'X-Linked-Size'])
def test_the_hub_links_to_something_else(server: FileServer, weight: Weight, name: str) -> None:
    linked = {'X-Linked-Etag': '0' * 64 if name == 'X-Linked-Etag' else SHA256, 'X-Linked-Size': '300000'}
    linked |= {'X-Linked-Size': '299999'} if name == 'X-Linked-Size' else {}
    server.plan = [Answer(status=302, headers={**linked, 'Location': '/elsewhere'}), Answer(CONTENT)]
    with pytest.raises(OSError, match=r'instead of (0{64}|299,999)'):
        weights.download(weight)
    assert left(weight) == {'model.bin.lock'}


def test_a_linked_file_is_taken_up_too(server: FileServer, weight: Weight) -> None:
    link = Answer(status=302, etag=None, headers={'X-Linked-Etag': f'"{SHA256}"', 'Location': '/elsewhere'})
    server.plan = [link, Answer(CONTENT, cut=200_000), link, Answer(CONTENT)]
    assert weights.download(weight).read_bytes() == CONTENT
    assert server.asked[3][1]['range'] == 'bytes=200000-'


def test_without_a_length_the_linked_size_tells_a_cut(server: FileServer, weight: Weight) -> None:
    linked = {'X-Linked-Size': str(len(CONTENT)), 'Location': '/elsewhere'}
    link = Answer(status=302, etag=None, headers=linked)
    server.plan = [link, Answer(CONTENT, length=False, cut=200_000), link, Answer(CONTENT, length=False)]
    assert weights.download(weight).read_bytes() == CONTENT


def test_googles_storage_says_an_md5(server: FileServer, weight: Weight) -> None:
    right = base64.b64encode(bytes.fromhex(MD5)).decode()
    server.plan = [Answer(CONTENT, headers={'x-goog-hash': f'crc32c=AAAAAA==, md5={right}'})]
    assert weights.download(weight).read_bytes() == CONTENT
    weights.cache_path(weight).unlink()
    wrong = base64.b64encode(bytes(16)).decode()
    server.plan = [Answer(CONTENT, headers={'x-goog-hash': f'md5={wrong}'})]
    with pytest.raises(OSError, match=f'its md5 is {MD5} instead of {"0" * 32}'):
        weights.download(weight)


def test_https_does_not_become_http() -> None:
    request = urllib.request.Request('https://example.org/model.bin')
    with pytest.raises(Exception, match='is not https'):
        transfer._Redirects().redirect_request(request, None, 302, 'Found', {}, 'http://example.org/model.bin')


def test_progress_is_for_terminals(
    server: FileServer, weight: Weight, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.download(weight)
    assert capsys.readouterr() == ('', '')
    weights.cache_path(weight).unlink()
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
    weights.download(weight)
    out, err = capsys.readouterr()
    assert out == ''
    assert 'mobilenetv2_100.ra_in1k' in err
    assert '300.0/300.0 kB' in err


def test_terms_that_are_not_open_are_told_before_anything_is_fetched(
    server: FileServer, weight: Weight, caplog: pytest.LogCaptureFixture
) -> None:
    weights.download(weight)
    assert not caplog.messages
    weights.cache_path(weight).unlink()
    server.plan = [Answer(b'gone', 404)]
    with pytest.raises(OSError, match='404'):
        weights.download(dataclasses.replace(weight, license='Gemma'))
    assert caplog.messages[0] == (
        f'{weight.name} is under the Gemma licence, which is not an open one: whoever uses the weights accepts its '
        'terms, https://ai.google.dev/gemma/terms'
    )
    assert sum('licence' in message for message in caplog.messages) == 1
