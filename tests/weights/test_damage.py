"""Files damaged on purpose, and files that want more than to be read, for each format but HDF5."""

import copyreg
import io
import itertools
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from damage import mutants
from harmless import harmless

from flaxmobile.weights import formats
from flaxmobile.weights.formats import npz, safetensors_file, torch_pickle

TORCH_FILES = Path(__file__).parent / 'torch_files'
ARRAYS = {
    'params/stem/conv/kernel': np.arange(12, dtype=np.float32).reshape(2, 2, 3),
    'batch_stats/stem/norm/mean': np.array([0.5, -1.5], np.float64),
}


def savez_compressed(arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


CHECKED = {
    'zip.pth': (TORCH_FILES / 'zip.pth').read_bytes(),
    'ours.safetensors': safetensors_file.encode_ours(ARRAYS, {'model': {'name': 'x'}, 'classes': ['a', 'b']}),
    'arrays.npz': npz.encode(ARRAYS),
}
UNCHECKED = {
    'legacy.pth': (TORCH_FILES / 'legacy.pth').read_bytes(),
    'foreign.safetensors': safetensors_file.encode(
        {name.replace('/', '.'): array for name, array in ARRAYS.items()}, {'format': 'pt'}
    ),
    'compressed.npz': savez_compressed(ARRAYS),
}

ZIPS = ('.pth', '.npz')
"""Of a zip a flipped bit may be one of a permission or of who packed it, which changes nothing."""


def test_harm_is_seen():
    with pytest.raises(MemoryError), harmless():
        bytearray(1 << 27)
    for act in (lambda: os.system('true'), lambda: exec('1'), lambda: pickle.loads(pickle.dumps(OrderedDict()))):
        with pytest.raises(AssertionError), harmless():
            act()


def write(path, content):
    path.write_bytes(content)
    return path


def as_bytes(file):
    return {name: (array.dtype.name, array.shape, array.tobytes()) for name, array in file.tensors.items()}


def read(path, content):
    """What is read from that content; None where it is refused, for which the message has to start with the path."""
    path.write_bytes(content)
    try:
        return formats.read(path)
    except ValueError as refusal:
        if not str(refusal).startswith(f'{path}: '):
            raise
        return None


@pytest.fixture(autouse=True, scope='module')
def warm(tmp_path_factory):
    """What reading imports is imported before anything is watched."""
    folder = tmp_path_factory.mktemp('warm')
    for name, content in (CHECKED | UNCHECKED).items():
        assert read(folder / name, content)


@pytest.mark.parametrize('name', CHECKED)
def test_what_has_checksums_is_refused_or_the_same(tmp_path, name):
    """Whatever befalls it; where its end is missing it is refused."""
    expected = formats.read(write(tmp_path / name, CHECKED[name]))
    with harmless():
        found = [(how, read(tmp_path / name, mutant)) for how, mutant in mutants(CHECKED[name], 1000)]
    for how, file in found:
        assert not (file and how.startswith('cut' if name.endswith(ZIPS) else ('cut', 'flip'))), how
        assert not file or as_bytes(file) == as_bytes(expected), how


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', [pytest.param('zip.pth', marks=pytest.mark.thorough), 'ours.safetensors', 'arrays.npz']
)
def test_every_bit_counts(tmp_path, name):
    data, expected = CHECKED[name], as_bytes(formats.read(write(tmp_path / name, CHECKED[name])))
    mutant = bytearray(data)
    for place, bit in itertools.product(range(len(data)), range(8)):
        mutant[place] ^= 1 << bit
        file = read(tmp_path / name, mutant)
        assert not file or (name.endswith(ZIPS) and as_bytes(file) == expected), (place, bit)
        mutant[place] = data[place]


class ReferencePickle(pickle._Unpickler):
    """A state dict as Python reads it: tensors as (storage, offset, size, stride), storages as (type, key, size)."""

    def find_class(self, module, name):
        known = {
            'collections.OrderedDict': OrderedDict,
            'torch._utils._rebuild_tensor_v2': lambda *arguments: arguments[:4],
            'torch._utils._rebuild_parameter': lambda tensor, *_: tensor,
        }
        return name if name.endswith('Storage') else known[f'{module}.{name}']

    def persistent_load(self, identity):
        return identity[1], identity[2], identity[4]


TYPES = {'Float': '<f4', 'Double': '<f8', 'Half': '<f2', 'Long': '<i8', 'Int': '<i4', 'Short': '<i2', 'Char': 'i1'}
TYPES |= {'Byte': 'u1', 'Bool': '?', 'BFloat16': ml_dtypes.bfloat16, 'Untyped': 'u1'}


def reference_legacy(data):
    stream = io.BytesIO(data)
    *_, root, keys = (ReferencePickle(stream).load() for _ in range(5))
    types = {key: np.dtype(TYPES[kind.removesuffix('Storage')]) for (kind, key, _), *_ in root.values()}
    numbers = {}
    for key in keys:
        length = int.from_bytes(stream.read(8), 'little')
        numbers[key] = np.frombuffer(stream.read(length * types[key].itemsize), types[key])
    return {
        name: np.array(
            [numbers[key][offset + int(np.dot(place, stride))] for place in np.ndindex(*size)], types[key]
        ).reshape(size)
        for name, ((_, key, _), offset, size, stride) in root.items()
    }


def reference_safetensors(data):
    length = int.from_bytes(data[:8], 'little')
    header = json.loads(data[8 : 8 + length])
    header.pop('__metadata__', None)
    types = {'F32': '<f4', 'F64': '<f8', 'I32': '<i4', 'I64': '<i8', 'U32': '<u4', 'U64': '<u8', 'F16': '<f2'}
    numbers = data[8 + length :]
    return {
        name: np.frombuffer(numbers[slice(*entry['data_offsets'])], types[entry['dtype']]).reshape(entry['shape'])
        for name, entry in header.items()
    }


REFERENCES = {
    'legacy.pth': reference_legacy,
    'foreign.safetensors': reference_safetensors,
    'compressed.npz': lambda _: ARRAYS,
}


@pytest.mark.parametrize('name', UNCHECKED)
def test_what_has_none_is_refused_or_read_as_its_bytes_say(tmp_path, name):
    found = []
    with harmless():
        for how, mutant in mutants(UNCHECKED[name], 1000):
            file = read(tmp_path / name, mutant)
            if file:
                found.append((how, mutant, file.tensors))
    for how, mutant, tensors in found:
        expected = REFERENCES[name](mutant)
        assert tensors.keys() == expected.keys(), how
        for tensor, array in expected.items():
            assert (tensors[tensor].dtype, tensors[tensor].shape) == (array.dtype, array.shape), how
            assert tensors[tensor].tobytes() == array.tobytes(), how
    assert len(found) < 700


def test_numbers_are_read_as_the_file_has_them(tmp_path):
    """Where nothing guards them, each flipped bit of a number is seen, in that number."""
    for name in ('legacy.pth', 'foreign.safetensors'):
        data, expected = UNCHECKED[name], REFERENCES[name](UNCHECKED[name])
        place = data.index(np.float32(13 if name == 'legacy.pth' else 7).tobytes())
        for bit in range(32):
            mutant = bytearray(data)
            mutant[place + bit // 8] ^= 1 << bit % 8
            file = read(tmp_path / name, bytes(mutant))
            changed = [key for key in expected if file.tensors[key].tobytes() != expected[key].tobytes()]
            assert changed in (['whole', 'turned'], ['params.stem.conv.kernel'])


REFUSED = {
    'os': 'system',
    'posix': 'system',
    'nt': 'system',
    'subprocess': 'Popen',
    'builtins': 'eval exec getattr __import__',
    '__builtin__': 'set',
    'importlib': 'import_module',
    'runpy': 'run_path',
    'pickle': 'loads',
    'shutil': 'rmtree',
    'copyreg': '_reconstructor',
    'functools': 'partial',
    'operator': 'attrgetter',
    'argparse': 'Namespace',
    'collections': 'defaultdict Counter OrderedDict.fromkeys',
    '_codecs': 'encode',
    'numpy.core.multiarray': '_reconstruct scalar',
    'torch': 'load Tensor Size device FloatTensor ComplexFloatStorage storage.os.system',
    'torch.hub': 'load',
    'torch.jit': 'load',
    'torch.cuda': 'os.system',
    'torch.storage': '_load_from_bytes os.system FloatStorage.__class__',
    'torch._utils': '_rebuild_tensor_v3 _rebuild_qtensor _rebuild_tensor_v2.__globals__',
    'torch.nn.modules.conv': 'Conv2d',
    'torchvision.models.mobilenetv2': 'MobileNetV2',
    'flaxmobile.cli': 'main',
}


def pushed(value):
    return pickle.dumps(value, 2)[2:-1]


def calls(module, name, argument):
    """Every way in which a pickle may call a function."""
    named, argument = f'c{module}\n{name}\n'.encode(), pushed(argument)
    yield named + argument + b'\x85R'
    yield pushed(module) + pushed(name) + b'\x93' + argument + b'\x85R'
    yield b'(' + argument + f'i{module}\n{name}\n'.encode()
    yield b'(' + named + argument + b'o'
    yield named + argument + b'\x85\x81'
    yield named + argument + b'\x85}\x92'
    yield named + b'(' + argument + b'tR0}'


def files(instructions):
    """A state dict of these instructions in torch's two formats; in the old one also where no state dict belongs."""
    root = b'\x80\4' + instructions + b'.'
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('archive/data.pkl', root)
    yield file.getvalue()
    parts = [pickle.dumps(part, 2) for part in (torch_pickle.MAGIC, 1001, {}, {'epoch': 3}, [])]
    for place in range(5):
        yield b''.join([*parts[:place], root, *parts[place + 1 :]])


@pytest.mark.parametrize('module', REFUSED)
def test_a_pickle_that_calls_something_is_refused_by_its_name(tmp_path, module):
    done, path = tmp_path / 'done', tmp_path / 'weights.pth'
    for name, argument in itertools.product(REFUSED[module].split(), (f'touch {done}', f'open({str(done)!r}, "w")')):
        for content in itertools.chain.from_iterable(map(files, calls(module, name, argument))):
            path.write_bytes(content)
            with harmless(), pytest.raises(ValueError, match=rf'^{path}: refused: it asks for ') as refusal:
                formats.read(path)
            assert f'{module}.{name}' in str(refusal.value)
    assert not done.exists()


STORAGE = b'(' + pushed('storage') + b'ctorch\nFloatStorage\n' + pushed('0') + pushed('cpu') + pushed(1) + b'tQ'
TENSOR = b'ctorch._utils\n_rebuild_tensor_v2\n(' + STORAGE + pushed((0, (1,), (1,), False, None))[:-2] + b'tR'
ORDERED = b'ccollections\nOrderedDict\n'
TRICKS = {
    'a registered extension': b'\x82\xf1' + pushed('true') + b'\x85R',
    'a text persistent id': b'Pos.system\n',
    'a persistent id that is no tuple': pushed('storage') + b'Q',
    'a persistent id of a module': b'(' + pushed('module') + ORDERED + pushed('x.py') + pushed('import os') + b'tQ',
    'a storage that is a function': STORAGE.replace(b'torch\nFloatStorage', b'collections\nOrderedDict'),
    'an object made by __new__': ORDERED + b')\x81',
    'an object made by __new__ with names': ORDERED + b')}\x92',
    'an object made by OBJ': b'(' + ORDERED + b'o',
    'an object made by INST': b'(icollections\nOrderedDict\n',
    'the inside of a name': ORDERED + pushed({'__call__': 1}) + b'b',
    'the inside of a storage': STORAGE + pushed({'dtype': 1}) + b'b',
    'slots': ORDERED + b')R' + pushed((None, {'__class__': 1})) + b'b',
    'a call of a string': pushed('os.system') + pushed(('true',)) + b'R',
    'a call of a storage type': b'ctorch\nFloatStorage\n' + pushed((10**10,)) + b'R',
    'a call with a list': ORDERED + b']R',
    'a call with too much': ORDERED + pushed(({}, {})) + b'R',
    'a parameter of a string': b'ctorch._utils\n_rebuild_parameter\n' + pushed(('x', True, None)) + b'R',
    'a tensor of a string': b'ctorch._utils\n_rebuild_tensor_v2\n' + pushed(('x', 0, (), (), False, None)) + b'R',
    'pairs that are none': ORDERED + pushed(([1, 2],)) + b'R',
    'a name that is a number': pushed(1) + pushed('x') + b'\x93',
    'a set': b'\x8f',
    'a frozen set': b'(\x91',
    'a byte array': b'\x96' + struct.pack('<Q', 1) + b'x',
    'a byte array of 10 GB': b'\x96' + struct.pack('<Q', 10**10),
    'an outside buffer': b'\x97',
    'a text of 10 GB': b'\x8d' + struct.pack('<Q', 10**10),
    'bytes of 10 GB': b'\x8e' + struct.pack('<Q', 10**10),
    'an integer of 2 GB': b'\x8b' + struct.pack('<i', 2**31 - 1),
    'a negative length': b'\x8b' + struct.pack('<i', -1),
    'a frame of 10 GB': b'\x95' + struct.pack('<Q', 10**10) + b']',
    'a memo of 32 GB': b']r\xff\xff\xff\xff',
    'a memo that is empty': b'h\0',
    'a stack that is empty': b'00',
    'a mark that is missing': b'u',
    'an item of a tuple': b')' + pushed('x') + b'N' + b's',
    'an element of a tuple': b')Na',
    'a key that is a tuple in a tuple': b'}' + b')' + b'\x85' * 10_000 + b'Ns',
    'a list in itself': b']q\0h\0a',
    'half a dict': b'}(' + pushed('x') + b'u',
    'a dict ten thousand times': ORDERED
    + b']('
    + (pushed('x') + b'N\x86') * 1000
    + b'eq\1\x85R'
    + (ORDERED + b'h\1\x85R') * 10_000
    + b'}',
    'nothing': b'',
    'an unknown instruction': b'\xff',
}


@pytest.mark.parametrize('trick', TRICKS)
def test_tricks(tmp_path, trick):
    path = tmp_path / 'weights.pth'
    copyreg.add_extension('os', 'system', 0xF1)
    try:
        for content in files(TRICKS[trick]):
            path.write_bytes(content)
            with harmless(), pytest.raises(ValueError, match=rf'^{path}: '):
                formats.read(path)
    finally:
        copyreg.remove_extension('os', 'system', 0xF1)


def test_what_unpacks_to_more_than_it_should(tmp_path):
    path = tmp_path / 'bomb'
    for name in ('archive/data.pkl', 'name.npy'):
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, bytes(1 << 26))
        with harmless(), pytest.raises(ValueError, match=rf'^{path}: .*claims 67108864 bytes unpacked'):
            formats.read(path)


def test_a_pickle_of_too_many_instructions(tmp_path):
    content = next(files(b']' * 400_001))
    with harmless(), pytest.raises(ValueError, match='its pickle has over 400000 instructions'):
        formats.read(write(tmp_path / 'weights.pth', content))
