"""Keras's files damaged on purpose: refused by name, or read as their bytes say."""

import io
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hdf5_files import LAYOUTS, WEIGHTS, file_of, named, repacked

from flaxmobile.weights.formats import hdf5, plain_hdf5
from flaxmobile.weights.formats.plain_hdf5.filters import DEFLATE, LZF, Filter, undo
from flaxmobile.weights.formats.plain_hdf5.headers import read_header
from flaxmobile.weights.formats.plain_hdf5.source import Source

MUTATIONS = 150


def damaged(content, rng):
    """Cut, or with bits flipped, bytes drawn anew, zeroed, filled or copied."""
    mutant = bytearray(content)
    place = rng.randrange(len(content))
    match rng.choice(['flip', 'flip', 'flip', 'cut', 'draw', 'fill', 'copy']):
        case 'flip':
            for _ in range(rng.choice([1, 1, 1, 8])):
                bit = rng.randrange(8 * len(content))
                mutant[bit // 8] ^= 1 << bit % 8
        case 'cut':
            del mutant[place:]
        case 'draw':
            mutant[place : place + 4] = rng.randbytes(len(mutant[place : place + 4]))
        case 'fill':
            mutant[place : place + 8] = rng.choice([b'\0', b'\xff']) * len(mutant[place : place + 8])
        case 'copy':
            mutant[place : place + 8] = mutant[: len(mutant[place : place + 8])]
    return bytes(mutant)


def given(monkeypatch, content):
    monkeypatch.setattr(Path, 'read_bytes', lambda _: content)
    monkeypatch.setattr(Path, 'open', lambda *_: io.BytesIO(content))


def attempt():
    """The tensors and '', or none and why they were refused."""
    try:
        return hdf5.read(Path('a.h5')).tensors, ''
    except ValueError as error:
        return {}, str(error)


def structures(content, monkeypatch):
    """Where the structures and arrays of a file begin."""
    starts = set()
    numbers = Source.numbers

    def noted(source, start, count):
        starts.add(start)
        return numbers(source, start, count)

    with monkeypatch.context() as patch:
        patch.setattr(Source, 'numbers', noted)
        list(plain_hdf5.arrays(content))
    return sorted(starts)


def pointed(content, starts, rng):
    """With one address in place of another, exactly or nearly: structures overlap, are shared, go round in circles."""
    mutant = bytearray(content)
    while True:
        place = content.find(rng.choice(starts).to_bytes(8, 'little'), rng.randrange(len(content)))
        if place >= 0:
            break
    target = rng.choice(starts) + rng.choice([0, 0, 8, -8, 1])
    mutant[place : place + 8] = max(0, target).to_bytes(8, 'little')
    return bytes(mutant)


def counted(monkeypatch):
    """A list that grows by the size of every read."""
    sizes = []
    numbers = Source.numbers

    def noted(source, start, count):
        found = numbers(source, start, count)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Source, 'numbers', noted)
    return sizes


FORMS = {
    'earliest': lambda content: content,
    'latest': lambda content: repacked(content, 'latest'),
    'chunks': lambda content: repacked(content, chunks=True),
    'packed': lambda content: repacked(content, compression='lzf', shuffle=True),
    'latest chunks': lambda content: repacked(content, 'latest', chunks=True),
    'latest resizable': lambda content: repacked(content, 'latest', endless=True),
    'latest packed': lambda content: repacked(content, 'latest', compression='gzip', fletcher32=True),
}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_mutations(layout, form, monkeypatch):
    """Without the checksums of the newer structures, which would find nearly all of them."""
    content = FORMS[form](file_of(LAYOUTS[layout]))
    starts = structures(content, monkeypatch)
    monkeypatch.setattr(Source, 'check', lambda *_: None)
    rng, refused = random.Random(layout + form), 0
    mutations = MUTATIONS if form == 'earliest' else MUTATIONS // 4
    read = counted(monkeypatch)
    tracemalloc.start()
    try:
        for number in range(mutations):
            mutant = pointed(content, starts, rng) if number % 2 else damaged(content, rng)
            given(monkeypatch, mutant)
            read.clear()
            tensors, message = attempt()
            assert sum(read) <= len(mutant)
            if message:
                assert message.startswith('a.h5: ')
                assert len(message) < 500
                assert message.isprintable()
                refused += 1
            elif form in ('earliest', 'latest'):
                assert sum(array.nbytes for array in tensors.values()) <= len(mutant)
                assert all(array.tobytes() in mutant for array in tensors.values())
        assert tracemalloc.get_traced_memory()[1] < 48 << 20
    finally:
        tracemalloc.stop()
    assert mutations / 5 < refused < mutations


def test_a_flipped_bit_of_a_newer_structure_is_found(monkeypatch):
    """Headers, groups, heaps, trees and indexes of chunks have checksums."""

    def fill(file):
        for number in range(40):
            file[f'a/{"long_" * 20}{number}'] = np.float32(number)
        for place, most in enumerate([None, (50,), (None,), (None, None)]):
            sides = (4, 4) if most and len(most) == 2 else (40,)
            shape = np.arange(np.prod(sides)).reshape(sides)
            file.create_dataset(f'b/{place}', data=shape, chunks=(2,) * len(sides), maxshape=most)
        for number in range(12):
            file['b'].attrs[f'x{number}'] = 'y' * 100
        file['b'].attrs['name'] = 'z'

    content, blocks = file_of(fill, libver='latest'), []
    with monkeypatch.context() as patch:
        patch.setattr(Source, 'check', lambda *given: blocks.append(given[-2]))
        list(plain_hdf5.arrays(content))
    kinds = {block[:4] for block in blocks}
    wanted = {'OHDR', 'OCHK', 'FRHP', 'FHIB', 'BTHD', 'BTLF', 'FAHD', 'FADB', 'EAHD', 'EAIB', 'EADB'}
    assert kinds >= {kind.encode() for kind in wanted} | {plain_hdf5.SIGNATURE[:4]}
    rng = random.Random(0)
    for block in blocks:
        mutant = bytearray(content)
        mutant[content.index(block) + rng.randrange(len(block))] ^= 1 << rng.randrange(8)
        with pytest.raises(ValueError, match=r'damaged|version|link|cut|closed|addresses|HDF5'):
            list(plain_hdf5.arrays(bytes(mutant)))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_flipped_bit_of_an_array_is_read_as_it_says(layout, monkeypatch):
    content = file_of(LAYOUTS[layout])
    spans = []
    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(lambda _, item: spans.append((item.id.get_offset(), item)) if hasattr(item, 'nbytes') else None)
        arrays = {offset: item[()] for offset, item in spans}
    weights = {array.tobytes(): name for name, array in WEIGHTS.items()}
    rng = random.Random(0)
    for offset, array in arrays.items():
        name = weights.get(array.tobytes())
        bit = rng.randrange(8 * array.nbytes)
        mutant = bytearray(content)
        mutant[offset + bit // 8] ^= 1 << bit % 8
        given(monkeypatch, bytes(mutant))
        tensors = hdf5.read(Path('a.h5')).tensors
        changed = {key for key in WEIGHTS if tensors[key].tobytes() != WEIGHTS[key].tobytes()}
        assert changed == ({name} if name else set())
        for key in changed:
            flips = np.frombuffer(tensors[key].tobytes(), np.uint8) ^ np.frombuffer(WEIGHTS[key].tobytes(), np.uint8)
            assert np.flatnonzero(np.unpackbits(flips, bitorder='little')).tolist() == [bit]


def test_every_mutation_of_a_keras_archive_is_refused(monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as zipped:
        zipped.writestr('config.json', '{}')
        zipped.writestr('model.weights.h5', file_of(named))
    content, rng = buffer.getvalue(), random.Random(0)
    given(monkeypatch, content)
    assert hdf5.read(Path('a.keras')).tensors.keys() == WEIGHTS.keys()
    for _ in range(MUTATIONS):
        mutant = damaged(content, rng)
        if mutant != content:
            given(monkeypatch, mutant)
            with pytest.raises(ValueError, match=r'^a\.keras: damaged'):
                hdf5.read(Path('a.keras'))


def header(*messages: tuple[int, bytes]) -> bytes:
    """An object header of version 1 with those messages."""
    bodies = b''.join(struct.pack('<HHB3x', kind, len(body), 0) + body for kind, body in messages)
    return struct.pack('<BBHII4x', 1, 0, len(messages), 1, len(bodies)) + bodies


def test_a_header_in_a_circle_is_refused() -> None:
    content = header((0x10, struct.pack('<QQ', 16, 24)), (0, b''))
    with pytest.raises(ValueError, match='share their bytes'):
        read_header(Source(content), 0)


def test_a_header_with_two_names_is_refused() -> None:
    file = io.BytesIO()
    with h5py.File(file, 'w') as opened:
        opened.create_group('a').attrs['name'] = 'x'
        opened['a'].attrs['nome'] = 'y'
        opened['a/0'] = 1.0
    content = file.getvalue()
    assert [array.group_name for array in plain_hdf5.arrays(content)] == ['x']
    assert content.count(b'nome') == 1
    with pytest.raises(ValueError, match='two names'):
        list(plain_hdf5.arrays(content.replace(b'nome', b'name')))


def old_group(symbols: list[tuple[int, int]], names: bytes, rest: bytes) -> bytes:
    """A file whose root has those members, offsets of their names and addresses from the start of `rest`."""
    heap, nodes = 96 + 40, 96 + 40 + 32 + len(names)
    leaves = [symbols[start : start + 32] for start in range(0, len(symbols), 32)]
    leaf_start = nodes + 24 + 16 * len(leaves) + 8
    sizes = [8 + 40 * len(leaf) for leaf in leaves]
    base = leaf_start + sum(sizes)
    superblock = plain_hdf5.SIGNATURE + b'\0\0\0\0\0\x08\x08\0' + struct.pack('<HHI', 4, 16, 0)
    superblock += struct.pack('<4Q', 0, 2**64 - 1, base + len(rest), 2**64 - 1) + struct.pack('<QQII16x', 0, 96, 1, 0)
    content = superblock + header((0x11, struct.pack('<QQ', nodes, heap)))
    content += b'HEAP\0\0\0\0' + struct.pack('<QQQ', len(names), 2**64 - 1, heap + 32) + names
    content += b'TREE' + struct.pack('<BBHQQ', 0, 0, len(leaves), 2**64 - 1, 2**64 - 1)
    for number in range(len(leaves)):
        content += struct.pack('<QQ', 0, leaf_start + sum(sizes[:number]))
    content += bytes(8)
    for leaf in leaves:
        content += b'SNOD\1\0' + struct.pack('<H', len(leaf))
        content += b''.join(struct.pack('<QQII16x', name, base + address, 0, 0) for name, address in leaf)
    assert len(content) == base
    return content + rest


EMPTY = (
    (0x01, struct.pack('<BBB5xQ', 1, 1, 0, 0)),
    (0x03, b'\x11' + plain_hdf5.headers._float(4, 8, 127, 0)),
    (0x08, struct.pack('<BBQQ6x', 3, 1, 2**64 - 1, 0)),
)


@pytest.mark.parametrize('overlap', [False, True])
def test_headers_that_share_a_block_are_not_read_again_and_again(overlap, monkeypatch) -> None:
    """Headers of 40 bytes that each go on in the same 300 kB: 200 of them would read 60 MB."""
    count = 200
    filler = struct.pack('<HHB3x', 0, 8, 0) + bytes(8)
    block = header(*EMPTY)[16:] + filler * 20_000
    names = b''.join(b'kernel_%03d\0' % number for number in range(count))
    more = [
        struct.pack('<BBHII4xHHB3x', 1, 0, 20_004, 1, 24, 0x10, 16, 0)
        + struct.pack('<QQ', 0, len(block) - (16 * number if overlap else 0))
        for number in range(count)
    ]
    symbols = [(11 * number, 40 * number) for number in range(count)]
    plain = old_group(symbols, names, b''.join(more) + block)
    place = len(plain) - len(block)
    for number, continued in enumerate(more):
        target = struct.pack('<Q', place + (16 * number * overlap))
        plain = plain.replace(continued, continued[:-16] + target + continued[-8:], 1)
    read = counted(monkeypatch)
    with pytest.raises(ValueError, match='share their bytes'):
        list(plain_hdf5.arrays(plain))
    assert sum(read) <= len(plain)
    assert len(read) < count


def test_names_and_texts_that_are_shared_are_not_read_again_and_again() -> None:
    long = b'n' * 50_000 + b'\0'
    one = header(*EMPTY)
    content = old_group([(0, len(one) * number) for number in range(100)], long, one * 100)
    with pytest.raises(ValueError, match='linked twice'):
        list(plain_hdf5.arrays(content))
    content = old_group([(number, len(one) * number) for number in range(100)], long, one * 100)
    with pytest.raises(ValueError, match='names are longer than the file'):
        list(plain_hdf5.arrays(content))
    content = old_group([(49_999 - number, len(one) * number) for number in range(100)], long, one * 100)
    assert len(list(plain_hdf5.arrays(content))) == 100


def test_two_texts_in_one_place() -> None:
    def fill(file):
        for name in 'ab':
            file.create_group(name).attrs['name'] = f'text {name}'
            file[f'{name}/0'] = 1.0

    content = file_of(fill)
    attribute = content.index(b'name\0\0\0\0')
    other = content.index(b'name\0\0\0\0', attribute + 1)
    shared = content[: other + 40] + content[attribute + 40 : attribute + 56] + content[other + 56 :]
    assert shared != content
    with pytest.raises(ValueError, match='a text of it is damaged'):
        list(plain_hdf5.arrays(shared))


@pytest.mark.parametrize('options', [{}, {'compression': 'gzip', 'compression_opts': 1}])
@pytest.mark.parametrize('version', ['earliest', 'latest'])
def test_chunks_that_share_their_bytes(version, options) -> None:
    content = file_of(
        lambda file: file.create_dataset('a', data=np.arange(24.0), chunks=(6,), **options), libver=version
    )
    with h5py.File(io.BytesIO(content)) as file:
        places = [file['a'].id.get_chunk_info(number).byte_offset for number in range(4)]
    packed = [struct.pack('<Q', place) for place in places]
    assert content.count(packed[1]) == 1
    with pytest.raises(ValueError, match=r'share their bytes|fails its checksum|does not unpack'):
        list(plain_hdf5.arrays(content.replace(packed[1], packed[0])))


@pytest.mark.parametrize('options', [{'chunks': True}, {'compression': 'gzip', 'compression_opts': 1, 'shuffle': True}])
@pytest.mark.parametrize('version', ['earliest', 'latest'])
def test_memory_of_a_packed_file_is_that_of_its_arrays(version, options, tmp_path) -> None:
    arrays = np.random.default_rng(0).normal(size=(4, 500, 500)).astype(np.float32)
    path = tmp_path / 'a.h5'
    path.write_bytes(
        file_of(
            lambda file: [
                file.create_dataset(f'a/kernel_{n}', data=array, **options) for n, array in enumerate(arrays)
            ],
            libver=version,
        )
    )
    tracemalloc.start()
    try:
        assert len(hdf5.read(path).tensors) == 4
        assert tracemalloc.get_traced_memory()[1] < 1.5 * arrays.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('version', ['earliest', 'latest'])
def test_what_claims_to_unpack_to_more_than_a_file_may_hold(version, tmp_path) -> None:
    zeros = np.zeros(6 << 20, np.float32)
    content = file_of(
        lambda file: file.create_dataset('a/kernel', data=zeros, chunks=(1 << 20,), compression='gzip'), libver=version
    )
    (tmp_path / 'a.h5').write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match='the chunks of a/kernel claim 25165824 bytes, which the file cannot hold'):
            hdf5.read(tmp_path / 'a.h5')
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(('name', 'number'), [('gzip', DEFLATE), ('lzf', LZF)])
def test_what_unpacks_to_more_than_it_claims(name, number) -> None:
    zeros = np.zeros(1 << 20, np.float32)
    content = file_of(lambda file: file.create_dataset('a', data=zeros, chunks=zeros.shape, compression=name))
    with h5py.File(io.BytesIO(content)) as file:
        block = file['a'].id.read_direct_chunk((0,))[1]
    assert undo(block, [Filter(number, ())], 0, zeros.nbytes) == zeros.tobytes()
    assert undo(zeros.tobytes(), [Filter(number, ())], 1, zeros.nbytes) == zeros.tobytes()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match='does not unpack to its size'):
            undo(block, [Filter(number, ())], 0, 1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 17
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize('name', ['a\x1b]0;title\x07\nb', '\u202eb'])
def test_names_are_escaped_in_messages(name, tmp_path) -> None:
    path = tmp_path / 'a\n\x1b.h5'
    path.write_bytes(file_of(lambda file: file.create_dataset(f'{name}/kernel', data=['text'])))
    with pytest.raises(ValueError, match='does not hold numbers') as caught:
        hdf5.read(path)
    assert str(caught.value).isprintable()
