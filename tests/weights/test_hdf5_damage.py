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
from hdf5_files import LAYOUTS, WEIGHTS, file_of, named

from flaxmobile.weights.formats import hdf5, plain_hdf5

MUTATIONS = 1000


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


@pytest.mark.parametrize('layout', LAYOUTS)
def test_mutations(layout, monkeypatch):
    content = file_of(LAYOUTS[layout])
    rng, refused = random.Random(layout), 0
    tracemalloc.start()
    try:
        for _ in range(MUTATIONS):
            mutant = damaged(content, rng)
            given(monkeypatch, mutant)
            tensors, message = attempt()
            if message:
                assert message.startswith('a.h5: ')
                refused += 1
            assert sum(array.nbytes for array in tensors.values()) <= len(mutant)
            assert all(array.tobytes() in mutant for array in tensors.values())
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    assert MUTATIONS / 5 < refused < MUTATIONS


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
    with pytest.raises(ValueError, match='circle'):
        plain_hdf5._object(content, 0)


def test_a_header_with_two_names_is_refused() -> None:
    attribute = plain_hdf5.TEXT_ATTRIBUTE.ljust(48, b'\0')
    size = len(header((12, bytes(64))))
    heap = b'GCOL\1\0\0\0' + struct.pack('<Q', 40) + struct.pack('<H6xQ', 1, 4) + b'conv\0\0\0\0'
    name = attribute + struct.pack('<IQI', 4, size, 1)
    assert plain_hdf5._object(header((12, name)) + heap, 0).name == 'conv'
    twice = attribute + struct.pack('<IQI', 4, len(header((12, name), (12, name))), 1)
    with pytest.raises(ValueError, match='two names'):
        plain_hdf5._object(header((12, twice), (12, twice)) + heap, 0)
