"""Zip archives against Python's own `zipfile`, as many tools pack them, and every single bit of them flipped."""

import io
import random
import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def unsigned(content):
    """The same with descriptors that do not begin with a signature, as the format allows."""
    place = content.index(b'PK\7\x08')
    header = content.index(b'PK\3\4', place) if b'PK\3\4' in content[place:] else content.index(b'PK\1\2')
    assert header == place + 16
    return content[:place] + content[place + 4 :]


def one_piped(unsign=False):
    pipe = Unseekable()
    with zipfile.ZipFile(pipe, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('data/0', CONTENTS['data/0'])
    content = bytes(pipe.written)
    if not unsign:
        return content
    start = int.from_bytes(content[-6:-2], 'little') - 4
    return unsigned(content[:-6]) + struct.pack('<IH', start, 0)


# Info-ZIP 3.0 wrote these: `zip -r` with a comment, into a pipe, and with 64-bit fields (-fz).
ZIP_FILES = Path(__file__).parent / 'zip_files'
ARCHIVES = {
    'python': lambda: written(io.BytesIO()).getvalue(),
    'piped': lambda: bytes(written(Unseekable()).written),
    'zip64': large_fields,
    'torch': of_torch,
    'numpy': of_numpy,
    **{path.stem: path.read_bytes for path in sorted(ZIP_FILES.iterdir())},
}


def members(content, path):
    path.write_bytes(content)
    return {name: bytes(member) for name, member in strict_zip.members(path).items()}


def as_zipfile_reads(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith('/')}


@pytest.mark.parametrize('kind', ARCHIVES)
def test_members_are_those_that_zipfile_reads(kind, tmp_path):
    content = ARCHIVES[kind]()
    assert members(content, tmp_path / 'a.zip') == as_zipfile_reads(content)
    assert set(strict_zip.names(tmp_path / 'a.zip')) == set(as_zipfile_reads(content))


@pytest.mark.parametrize('unsign', [False, True])
def test_descriptors_with_and_without_a_signature(unsign, tmp_path):
    assert members(one_piped(unsign), tmp_path / 'a.zip') == {'data/0': CONTENTS['data/0']}


def test_compressed_members(tmp_path):
    content = written(io.BytesIO(), compression=zipfile.ZIP_DEFLATED).getvalue()
    assert members(content, tmp_path / 'a.zip') == CONTENTS


MEMBERS = st.dictionaries(
    st.text(st.characters(codec='utf-8', exclude_characters='\0'), min_size=1, max_size=8),
    st.tuples(
        st.binary(max_size=40),
        st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
        st.integers(0, 0o777),  # permissions
        st.binary(max_size=5),  # of an extra field
        st.sampled_from([0, 3, 11]),  # the system
        st.text(st.characters(codec='ascii'), max_size=5),  # a comment
        st.booleans(),  # 64-bit fields
    ),
    min_size=1,
    max_size=4,
)


@given(
    packed=MEMBERS,
    comment=st.binary(max_size=20).filter(lambda text: b'PK' not in text),
    piped=st.booleans(),
    folder=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_whatever_python_can_pack(packed, comment, piped, folder, tmp_path_factory):
    target = Unseekable() if piped else io.BytesIO()
    with zipfile.ZipFile(target, 'w') as archive:
        archive.comment = comment
        if folder:
            archive.writestr(zipfile.ZipInfo('folder/'), b'')
        for name, (content, method, mode, extra, system, said, wide) in packed.items():
            info = zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6))
            info.compress_type, info.create_system, info.comment = method, system, said.encode()
            info.external_attr = (stat.S_IFREG | mode) << 16
            info.extra = struct.pack('<HH', 0x5455, len(extra)) + extra
            with archive.open(info, 'w', force_zip64=wide) as file:
                file.write(content)
    content = bytes(target.written) if piped else target.getvalue()
    assert members(content, tmp_path_factory.getbasetemp() / 'packed.zip') == as_zipfile_reads(content)


def test_what_the_finder_adds_is_left_out(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name in ('a/', 'a/.DS_Store', 'a/data', '__MACOSX/a/._data'):
            archive.writestr(name, b'')
    assert list(members(file.getvalue(), tmp_path / 'a.zip')) == ['a/data']


def packed_again():
    return written(io.BytesIO(), compression=zipfile.ZIP_DEFLATED).getvalue()


def central(content):
    """Where the directory's entries start."""
    starts = [content.index(b'PK\1\2')]
    while (place := content.find(b'PK\1\2', starts[-1] + 1)) >= 0:
        starts.append(place)
    return starts


def meaningless(content):
    """The bytes that say nothing of a member (who packed it, permissions, comments, extra fields), and deflate streams,
    of which two may unpack to the same.
    """
    found, end = set(), content.rindex(b'PK\5\6')
    for entry in central(content):
        name, extra, comment = struct.unpack_from('<HHH', content, entry + 28)
        behind = entry + 46 + name
        found.update(
            range(entry + 4, entry + 8), range(entry + 36, entry + 42), range(behind, behind + extra + comment)
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            name, extra = struct.unpack_from('<HH', content, info.header_offset + 26)
            start = info.header_offset + 30 + name
            found.update(range(info.header_offset + 4, info.header_offset + 6), range(start, start + extra))
            if info.flag_bits & 8:  # The sizes come later, and here zero and the right one are both right.
                found.update(range(info.header_offset + 14, info.header_offset + 26))
            if info.compress_type == zipfile.ZIP_DEFLATED:
                found.update(range(start + extra, start + extra + info.compress_size))
    wide = content.rfind(b'PK\6\6')
    return found | set(range(end + 22, len(content))) | (set(range(wide + 12, wide + 16)) if wide > 0 else set())


@pytest.mark.parametrize('kind', [*ARCHIVES, 'deflated'])
def test_a_flipped_bit_is_refused_or_changes_no_member_and_a_cut_is_refused(kind, tmp_path):
    content = packed_again() if kind == 'deflated' else ARCHIVES[kind]()
    path, mutant, accepted = tmp_path / 'weights.keras', bytearray(content), set()
    expected = members(content, path)
    for bit in random.Random(0).sample(range(8 * len(content)), 1500):
        mutant[bit // 8] ^= 1 << bit % 8
        try:
            assert members(mutant, path) == expected, bit
            accepted.add(bit // 8)
        except ValueError:
            pass
        mutant[bit // 8] ^= 1 << bit % 8
    assert accepted <= meaningless(content)
    for length in range(0, len(content), 7):
        with pytest.raises(ValueError, match=rf'^{path}: damaged'):
            members(content[:length], path)


def test_members_that_overlap_are_refused(tmp_path):
    """Whatever an entry of the directory says of where its member lies: the other's, inside it, before or behind."""
    for content in (written(io.BytesIO()).getvalue(), packed_again()):
        places = central(content)
        offsets = [struct.unpack_from('<I', content, entry + 42)[0] for entry in places]
        for entry, offset in zip(places, offsets, strict=True):
            for other in {*offsets, *range(0, len(content), 5)} - {offset}:
                mutant = bytearray(content)
                struct.pack_into('<I', mutant, entry + 42, other)
                with pytest.raises(ValueError, match='damaged'):
                    members(mutant, tmp_path / 'a.zip')


def test_a_member_inside_another_is_refused(tmp_path):
    """As in a bomb that has no layers: the outer member's content is the inner one's header and content."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, 'w') as archive:
        archive.writestr('inner', b'x' * 50)
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('outer', inner.getvalue())
    content = file.getvalue()
    (hidden, entry), end = central(content), content.rindex(b'PK\5\6')
    both = bytearray(content[hidden : hidden + 46 + 5] + content[entry:end])
    struct.pack_into('<I', both, 42, content.index(b'PK\3\4', 1))
    directory = struct.pack('<4sHHHHIIH', b'PK\5\6', 0, 0, 2, 2, len(both), entry, 0)
    with zipfile.ZipFile(io.BytesIO(content[:entry] + both + directory)) as archive:
        assert archive.namelist() == ['inner', 'outer']
    with pytest.raises(ValueError, match='outer runs into what follows'):
        members(content[:entry] + both + directory, tmp_path / 'a.zip')


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize('noise', [False, True])
def test_a_member_is_in_memory_once(method, noise, tmp_path):
    """However well it is packed, or not at all."""
    block = np.random.default_rng(0).bytes(1 << 20)
    content = block * 8 if not noise else np.random.default_rng(1).bytes(8 << 20)
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w', method) as archive:
        archive.writestr('noise', block)
        archive.writestr('large', content)
    tracemalloc.start()
    try:
        found = strict_zip.members(tmp_path / 'a.zip')
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found['large'] == content
    assert peak < 1.15 * (len(block) + len(content))


def test_more_members_than_weights_need(tmp_path):
    with zipfile.ZipFile(tmp_path / 'a.zip', 'w') as archive:
        for number in range(1000):
            archive.writestr(str(number), b'')
    assert len(strict_zip.members(tmp_path / 'a.zip')) == 1000
    content = (tmp_path / 'a.zip').read_bytes()
    end = content.rindex(b'PK\5\6')
    wide = struct.pack('<4sQHHIIQQQQ', b'PK\6\6', 44, 45, 45, 0, 0, 50_001, 50_001, 0, end)
    locator = struct.pack('<4sIQI', b'PK\6\7', 0, end, 1)
    short = struct.pack('<4sHHHHIIH', b'PK\5\6', 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    with pytest.raises(ValueError, match='it has 50001 members, and over 50000 no file of weights needs'):
        members(content[:end] + wide[:40] + struct.pack('<QQ', end, 0) + locator + short, tmp_path / 'a.zip')


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
        (with_bzip2, 'config.json is packed by bzip2: pack it by deflate, or not'),
        (with_encryption_bits, 'config.json is encrypted or patched'),
        (with_nothing, 'holds nothing'),
        (with_a_name_twice, 'two members of one name'),
    ],
)
def test_other_archives(spoil, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        members(spoil(ARCHIVES['python']()), tmp_path / 'a.zip')
