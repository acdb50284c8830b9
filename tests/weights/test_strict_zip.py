"""Zip archives against Python's own `zipfile`, and every single bit of them flipped."""

import io
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flaxmobile.weights.formats import strict_zip

CONTENTS = {'config.json': b'{"a": 1}', 'data/0': bytes(range(200)), 'empty': b''}


class Unseekable(io.RawIOBase):
    """A pipe: what is written there cannot be written again, so that sizes follow in descriptors."""

    def __init__(self):
        self.written = bytearray()

    def writable(self):
        return True

    def write(self, block):
        self.written += block
        return len(block)


def written(file, **options):
    with zipfile.ZipFile(file, 'w', **options) as archive:
        for name, content in CONTENTS.items():
            archive.writestr(name, content)
    return file


def large_fields():
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in CONTENTS.items():
            with archive.open(name, 'w', force_zip64=True) as member:
                member.write(content)
    return file.getvalue()


def of_torch():
    return (Path(__file__).parent / 'torch_files' / 'zip.pth').read_bytes()


def of_numpy():
    file = io.BytesIO()
    np.savez(file, a=np.arange(5.0), b=np.ones((2, 3), np.float32))
    return file.getvalue()


ARCHIVES = {
    'python': lambda: written(io.BytesIO()).getvalue(),
    'piped': lambda: bytes(written(Unseekable()).written),
    'zip64': large_fields,
    'torch': of_torch,
    'numpy': of_numpy,
}


def members(content, path):
    path.write_bytes(content)
    return {name: bytes(member) for name, member in strict_zip.members(path).items()}


@pytest.mark.parametrize('kind', ARCHIVES)
def test_members_are_those_that_zipfile_reads(kind, tmp_path):
    content = ARCHIVES[kind]()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert members(content, tmp_path / 'a.zip') == {name: archive.read(name) for name in archive.namelist()}


def test_compressed_members(tmp_path):
    content = written(io.BytesIO(), compression=zipfile.ZIP_DEFLATED).getvalue()
    assert members(content, tmp_path / 'a.zip') == CONTENTS


@pytest.mark.parametrize('kind', ARCHIVES)
def test_every_flipped_bit_and_every_cut_is_refused(kind, monkeypatch):
    content = ARCHIVES[kind]()
    mutant = bytearray(content)
    monkeypatch.setattr(Path, 'read_bytes', lambda _: bytes(mutant))
    for bit in random.Random(0).sample(range(8 * len(content)), min(8 * len(content), 4000)):
        mutant[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r'^weights\.keras: damaged'):
            strict_zip.members(Path('weights.keras'))
        mutant[bit // 8] ^= 1 << bit % 8
    for length in range(0, len(content), 7):
        monkeypatch.setattr(Path, 'read_bytes', lambda _, length=length: content[:length])
        with pytest.raises(ValueError, match=r'^weights\.keras: damaged'):
            strict_zip.members(Path('weights.keras'))


def test_a_compressed_member_is_never_another_than_was_written(monkeypatch):
    content = written(io.BytesIO(), compression=zipfile.ZIP_DEFLATED).getvalue()
    mutant, accepted = bytearray(content), 0
    monkeypatch.setattr(Path, 'read_bytes', lambda _: bytes(mutant))
    for bit in range(8 * len(content)):
        mutant[bit // 8] ^= 1 << bit % 8
        try:
            assert strict_zip.members(Path('a.zip')) == CONTENTS
            accepted += 1
        except ValueError:
            pass
        mutant[bit // 8] ^= 1 << bit % 8
    assert accepted < 0.02 * 8 * len(content)  # padding bits at the end of a deflate stream


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('zeros', bytes(1 << 26))
    with pytest.raises(ValueError, match='claims 67108864 bytes unpacked, over 100 times its size'):
        members(file.getvalue(), tmp_path / 'a.zip')
    content = file.getvalue().replace(struct.pack('<I', 1 << 26), struct.pack('<I', 1 << 20))
    with pytest.raises(ValueError, match='zeros does not unpack to its size'):
        members(content, tmp_path / 'a.zip')


def with_encryption_bits(content):
    headers = content.replace(b'PK\3\4\x14\0\0', b'PK\3\4\x14\0\1')
    return headers.replace(b'PK\1\2\x14\3\x14\0\0', b'PK\1\2\x14\3\x14\0\1')


def with_bzip2(_):
    return written(io.BytesIO(), compression=zipfile.ZIP_BZIP2).getvalue()


def with_nothing(_):
    file = io.BytesIO()
    zipfile.ZipFile(file, 'w').close()
    return file.getvalue()


def with_a_name_twice(_):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('a', b'1')
        archive.writestr('a', b'2')
    return file.getvalue()


@pytest.mark.filterwarnings('ignore:Duplicate name')
@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (lambda content: b'x' + content, 'bytes around the directory'),
        (lambda content: content + b'x', 'does not end as a zip does'),
        (lambda content: b'no zip at all, and long enough for its end', 'does not end as a zip does'),
        (with_bzip2, 'that torch and Keras do not write'),
        (with_encryption_bits, 'encrypted or oddly compressed'),
        (with_nothing, 'holds nothing'),
        (with_a_name_twice, 'two members of one name'),
    ],
)
def test_other_archives(spoil, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        members(spoil(ARCHIVES['python']()), tmp_path / 'a.zip')
