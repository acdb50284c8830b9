"""Every format read and written, held against other readers and against files that torch wrote."""

import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from safetensors_files import safetensors_of

from flaxmobile.weights import formats
from flaxmobile.weights.formats import npz, safetensors_file, torch_pickle

# What torch 2.14.1's torch.save wrote from tensors of these values, `turned` as `whole.t()[1:, ::2]`; the checkpoint,
# in protocol 4, from {'epoch': 3, 'arch': 'x', 'best': 0.5, 'state_dict': BatchNorm2d(2)'s, 'optimizer': an SGD's}.
TORCH_FILES = Path(__file__).parent / 'torch_files'
WHOLE = np.arange(24, dtype=np.float32).reshape(4, 6)
SAVED = {
    'whole': WHOLE,
    'turned': WHOLE.T[1:, ::2],
    'parameter': np.array([1.5, -2], np.float32),
    'scalar': np.array(3, np.float32),
    'empty': np.zeros((0, 3), np.float32),
    'double': np.array([0.1], np.float64),
    'half': np.array([0.5, 65504], np.float16),
    'bfloat': np.array([1, -3], ml_dtypes.bfloat16),
    'long': np.array([2**40], np.int64),
    'int': np.array([-7], np.int32),
    'short': np.array([-8], np.int16),
    'char': np.array([-9], np.int8),
    'byte': np.array([200], np.uint8),
    'bool': np.array([True, False]),
}


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name
        assert not found[name].flags.writeable


def zip_of(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize('name', ['zip', 'legacy'])
def test_what_torch_wrote(name):
    file = formats.read(TORCH_FILES / f'{name}.pth')
    assert (file.kind, file.metadata) == ('torch', {})
    same(file.tensors, SAVED)


def test_a_checkpoint_is_unwrapped():
    with pytest.warns(UserWarning, match='passed over optimizer$'):
        file = formats.read(TORCH_FILES / 'checkpoint.pth')
    assert file.metadata == {'epoch': 3, 'arch': 'x', 'best': 0.5}
    zeros, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
    norm = {'weight': ones, 'bias': zeros, 'running_mean': zeros, 'running_var': ones}
    same(file.tensors, norm | {'num_batches_tracked': np.array(0)})


def instructions(*parts):
    """A pickle of protocol 2 from instructions, and from plain values, which it pushes."""
    pieces = (part if isinstance(part, bytes) else pickle.dumps(part, 2)[2:-1] for part in parts)
    return b'\x80\2' + b''.join(pieces) + b'.'


def tensor(kind=b'torch\nFloatStorage', key='0', length=4, offset=0, size=(4,), stride=(1,), view=()):
    storage = [b'(', 'storage', b'c' + kind + b'\n', key, 'cpu', length, *view, b'tQ']
    return [
        b'ctorch._utils\n_rebuild_tensor_v2\n(',
        *storage,
        offset,
        size,
        stride,
        False,
        b'ccollections\nOrderedDict\n)RtR',
    ]


def torch_zip(root, content=bytes(16), **extra):
    members = {'archive/data.pkl': root, 'archive/data/0': content, 'archive/version': b'3\n'}
    return zip_of(members | {f'archive/{name}': content for name, content in extra.items()})


def legacy(root, *contents, keys=('0',), magic=torch_pickle.MAGIC, system=None):
    parts = [pickle.dumps(part, 2) for part in (magic, 1001)] + [system or pickle.dumps({'little_endian': True}, 2)]
    return b''.join([*parts, root, pickle.dumps(list(keys), 2), *contents])


def test_what_python_2_and_a_gpu_wrote(tmp_path):
    """Its OrderedDict is a list of pairs, its strings are bytes, its storages on a GPU."""
    pair = [b'(U\4name', *tensor(b'torch.cuda\nFloatStorage', key='7', length=2, size=(2,)), b'l']
    root = instructions(b'ccollections\nOrderedDict\n((', *pair, b'ltR')
    path = tmp_path / 'old.pth'
    path.write_bytes(legacy(root, struct.pack('<q2f', 2, 1.5, -2), keys=['7']))
    same(formats.read(path).tensors, {'name': np.array([1.5, -2], np.float32)})


def test_big_endian_archives(tmp_path):
    root = instructions(b'}', 'name', *tensor(length=2, size=(2,)), b's')
    path = tmp_path / 'big.pth'
    path.write_bytes(torch_zip(root, struct.pack('>2f', 1.5, -2), byteorder=b'big'))
    same(formats.read(path).tensors, {'name': np.array([1.5, -2], np.float32)})
    path.write_bytes(torch_zip(root, struct.pack('>2f', 1.5, -2), byteorder=b'middle'))
    with pytest.raises(ValueError, match=r'big\.pth: its byte order is .*middle'):
        formats.read(path)


@pytest.mark.parametrize(
    ('view', 'right'),
    [
        ({'size': (4,), 'stride': (1,)}, True),
        ({'size': (2, 2), 'stride': (1, 2)}, True),
        ({'size': (2, 2), 'stride': (1, 1)}, True),
        ({'size': (4,), 'stride': (0,)}, True),
        ({'size': (0, 7), 'stride': (7, 1), 'offset': 9}, True),
        ({'size': (2,), 'stride': (4,)}, False),
        ({'size': (4,), 'stride': (1,), 'offset': 1}, False),
        ({'size': (5,), 'stride': (0,)}, False),
        ({'size': (2_500_000_000,), 'stride': (0,)}, False),
        ({'size': (50_000, 50_000), 'stride': (0, 0)}, False),
        ({'size': (2_500_000_000,), 'stride': (1,)}, False),
        ({'size': (2,), 'stride': (-1,), 'offset': 1}, False),
        ({'size': (-1,), 'stride': (1,)}, False),
        ({'size': (2,), 'stride': (1, 1)}, False),
        ({'size': (2.0,), 'stride': (1,)}, False),
        ({'size': (1,) * 33, 'stride': (1,) * 33}, False),
        ({'size': (10**4000,), 'stride': (0,)}, False),
        ({'size': (4,), 'stride': (1,), 'length': 5}, False),
        ({'size': (4,), 'stride': (1,), 'length': 2_500_000_000}, False),
        ({'size': (4,), 'stride': (1,), 'key': '1'}, False),
        ({'size': (4,), 'stride': (1,), 'view': [(0, 1, 2)]}, False),
        ({'size': (4,), 'stride': (1,), 'kind': b'torch\nComplexFloatStorage'}, False),
    ],
)
def test_a_view_lies_inside_its_storage(tmp_path, view, right):
    root = instructions(b'}', 'name', *tensor(**view), b's')
    path = tmp_path / 'view.pth'
    numbers = np.array([1, 2, 3, 4], np.float32)
    for content in (torch_zip(root, numbers.tobytes()), legacy(root, struct.pack('<q', 4), numbers.tobytes())):
        path.write_bytes(content)
        if right:
            grids = np.indices(view['size'])
            places = view.get('offset', 0) + sum(grid * step for grid, step in zip(grids, view['stride'], strict=True))
            expected = numbers[places] if np.size(places) else np.zeros(view['size'], np.float32)
            same(formats.read(path).tensors, {'name': expected})
        else:
            with pytest.raises(ValueError, match=r'view\.pth: '):
                formats.read(path)


@pytest.mark.parametrize(
    ('root', 'message'),
    [
        (instructions(*tensor()), 'holds a Tensor instead of a state dict'),
        (instructions([1, 2]), 'holds a list instead'),
        (instructions({'epoch': 3}), 'holds no tensors by name'),
        (instructions({}), 'holds no tensors by name'),
        (
            instructions(b'}', 'a', b'}', 'x', *tensor(), b's', b's', 'b', b'}', 'y', *tensor(), b's', b's'),
            r'holds several state dicts \(a of 1 tensors, b of 1 tensors\)',
        ),
        (instructions(b'}', (1, 2), *tensor(), b's'), 'holds no tensors by name'),
    ],
)
def test_what_holds_no_state_dict(tmp_path, root, message):
    path = tmp_path / 'other.pth'
    path.write_bytes(torch_zip(root))
    with pytest.raises(ValueError, match=rf'other\.pth: .*{message}'):
        formats.read(path)


ARRAYS = {
    'params/stem/conv/kernel': np.arange(12, dtype=np.float32).reshape(2, 2, 3),
    'scalar': np.array(-1.5, np.float64),
    'half': np.array([[0.5], [-65504]], np.float16),
    'empty': np.zeros((2, 0), np.float32),
    'count': np.array(3, np.int64),
    'bool': np.array([True, False]),
}
BFLOAT = {'bfloat': np.array([1, -3], ml_dtypes.bfloat16)}


def test_numpy_reads_our_npz(tmp_path):
    path = tmp_path / 'arrays.npz'
    path.write_bytes(npz.encode(ARRAYS))
    with np.load(path, allow_pickle=False) as loaded:
        assert list(loaded) == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert (loaded[name].dtype, loaded[name].tobytes()) == (array.dtype, array.tobytes())
    with pytest.raises(ValueError, match=r'bfloat is bfloat16, which .npz cannot hold: write .safetensors'):
        npz.encode(BFLOAT)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_we_read_numpys_npz(tmp_path, save):
    path = tmp_path / 'arrays.npz'
    save(path, **ARRAYS)
    same(formats.read(path).tensors, ARRAYS)
    save(path, big=np.array([1, 2], '>f4'), columns=np.asfortranarray(WHOLE))
    same(formats.read(path).tensors, {'big': np.array([1, 2], np.float32), 'columns': WHOLE})
    for array, words in ((np.array([{}]), 'object'), (np.array(['x']), 'U1'), (np.array([1j]), 'complex128')):
        save(path, fine=WHOLE, wrong=array)
        with pytest.raises(ValueError, match=rf'arrays\.npz: wrong\.npy is of type .*{words}, and only numbers'):
            formats.read(path)


def test_an_array_that_claims_more_than_it_holds(tmp_path):
    header = "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}"
    path = tmp_path / 'arrays.npz'
    for shape in ('2500000000,', '50000, 50000', '3,', '5,', '-4,', '0,', '10' * 4000 + ','):
        text = header.format(shape).encode()
        content = b'\x93NUMPY\1\0' + struct.pack('<H', len(text)) + text + bytes(16)
        path.write_bytes(zip_of({'name.npy': content}))
        with pytest.raises(ValueError, match=r'arrays\.npz: '):
            formats.read(path)
    for content in (b'', b'\x93NUMPY\1\0', b'\x93NUMPY\7\0' + bytes(99), b'\x93NUMPY\1\0\xff\xff' + b'(' * 65535):
        path.write_bytes(zip_of({'name.npy': content}))
        with pytest.raises(ValueError, match=r'arrays\.npz: name\.npy is no array of NumPy'):
            formats.read(path)


def test_safetensors_own_library_reads_ours_and_the_other_way_round(tmp_path):
    path = tmp_path / 'tensors.safetensors'
    foreign = {name.replace('params/', ''): array for name, array in (ARRAYS | BFLOAT).items()}
    path.write_bytes(safetensors_file.encode(foreign, {'format': 'pt'}))
    loaded = safetensors.numpy.load_file(path)
    for name, array in foreign.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes()
    safetensors.numpy.save_file(foreign, path, {'epoch': '3'})
    file = formats.read(path)
    assert (file.kind, file.metadata) == ('safetensors', {'epoch': '3'})
    same(dict(sorted(file.tensors.items())), dict(sorted(foreign.items())))
    with pytest.raises(ValueError, match='name is complex64, which safetensors cannot hold'):
        safetensors_file.encode({'name': np.ones(1, np.complex64)}, {})


def test_safetensors_headers_that_claim_too_much(tmp_path):
    path = tmp_path / 'tensors.safetensors'
    entry = {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}
    path.write_bytes(safetensors_of({'name': entry}, bytes(16)))
    same(formats.read(path).tensors, {'name': np.zeros(4, np.float32)})
    for changes in (
        {'shape': [2_500_000_000]},
        {'shape': [2_500_000_000], 'data_offsets': [0, 10_000_000_000]},
        {'shape': [2**40, 2**40]},
        {'shape': [2**63, 2, 0], 'data_offsets': [0, 16]},
        {'shape': [-4]},
        {'data_offsets': [16, 0]},
        {'data_offsets': [4, 20]},
        {'dtype': 'F64'},
        {'dtype': 'object'},
    ):
        path.write_bytes(safetensors_of({'name': entry | changes}, bytes(16)))
        with pytest.raises(ValueError, match=r'tensors\.safetensors: is no whole safetensors file'):
            formats.read(path)
    path.write_bytes(safetensors_of({'name': entry | {'dtype': 'F8_E5M2', 'shape': [16]}}, bytes(16)))
    with pytest.raises(ValueError, match=r'types that cannot be read: name is F8_E5M2'):
        formats.read(path)
    for content in (
        struct.pack('<Q', 10**10) + b'{}',
        safetensors_of(b'{' + b'[' * 10_000),
        safetensors_of(b'{"a":' * 10_000),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r'tensors\.safetensors: '):
            formats.read(path)


@pytest.mark.parametrize('length', [0x0280, 0x0580, 0x10280, 0x4B50, 0x0403_4B50])
def test_a_safetensors_header_as_long_as_the_first_bytes_of_another_format(tmp_path, length):
    """`\\x80\\2` begins a pickle and `PK\\3\\4` a zip."""
    path = tmp_path / 'weights.safetensors'
    if length < 1 << 20:
        entry = {'name': {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}, '__metadata__': {'note': ''}}
        entry['__metadata__']['note'] = ' ' * (length - len(json.dumps(entry)))
        path.write_bytes(safetensors_of(entry, struct.pack('<f', 1.5)))
        assert safetensors.numpy.load_file(path)['name'].tolist() == [1.5]
        same(formats.read(path).tensors, {'name': np.array([1.5], np.float32)})
    else:
        path.write_bytes(struct.pack('<Q', length) + b'{}')
        with pytest.raises(ValueError, match=r'weights\.safetensors: is no whole safetensors file'):
            formats.read(path)


OURS = {name: array for name, array in ARRAYS.items() if name.startswith('params/')}


def test_our_own_format(tmp_path):
    path = tmp_path / 'ours.safetensors'
    path.write_bytes(safetensors_file.encode_ours(OURS, {'model': {'name': 'x'}, 'classes': ['a']}))
    file = formats.read(path)
    assert (file.kind, file.metadata) == ('flaxmobile', {'format': 3, 'model': {'name': 'x'}, 'classes': ['a']})
    same(file.tensors, OURS)
    with safetensors.safe_open(path, 'numpy') as opened:
        content = json.loads(opened.metadata()['flaxmobile'])
        np.testing.assert_array_equal(opened.get_tensor('params/stem/conv/kernel'), OURS['params/stem/conv/kernel'])
    digits = content['sha256'].encode()
    zeroed = path.read_bytes().replace(digits, b'0' * 64)
    assert hashlib.sha256(zeroed).hexdigest().encode() == digits
    assert content['format'] == 3


def test_our_names_need_our_checksum(tmp_path):
    path = tmp_path / 'ours.safetensors'
    description = {'format': 1, 'model': {}, 'sha256': '0' * 64}
    for metadata in (
        {},
        {'flaxmobile': ''},
        {'flaxmobile': '[]'},
        {'flaxmobile': '[' * 100_000},
        {'flaxmobile': '{"format": 1}'},
    ):
        path.write_bytes(safetensors_file.encode(OURS, metadata))
        with pytest.raises(ValueError, match=r"ours\.safetensors: has flaxmobile's names and not its checksum"):
            formats.read(path)
    for checksum in ('0' * 64, '', 'f' * 63, 7, None, 'x' * 10**5):
        path.write_bytes(safetensors_file.encode(OURS, {'flaxmobile': json.dumps(description | {'sha256': checksum})}))
        with pytest.raises(ValueError, match=r'ours\.safetensors: is damaged: '):
            formats.read(path)
    for written in (4, 0, True, '1', [1]):
        path.write_bytes(safetensors_file.encode_ours(OURS, {'model': {}, 'format': written}))
        with pytest.raises(
            ValueError, match=r'has format .*, and this version of flaxmobile reads format 3 and before: '
        ):
            formats.read(path)
    path.write_bytes(safetensors_file.encode_ours(OURS, {'model': {}, 'format': 1}))
    assert formats.read(path).metadata == {'model': {}, 'format': 1}


def tar_gz():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        archive.add(Path(__file__), 'weights')
    return file.getvalue()


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'', 'is empty. Readable are safetensors, torch'),
        (b'\0', 'is damaged or of an unknown format'),
        (
            b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n',
            'is the pointer that Git LFS leaves.*git lfs pull',
        ),
        (b'\n<!DOCTYPE html><html>Not found</html>', 'is a web page, not weights'),
        (tar_gz(), 'is packed.*unpack it first'),
        (b'\x1c\0\0\0TFL3' + bytes(50), r'is a LiteRT \(TensorFlow Lite\) program'),
        (b'\x08\x08\x12\x07pytorch', 'looks like an ONNX program'),
        (zip_of({'script/data.pkl': b'', 'script/constants.pkl': b''}), 'is a TorchScript archive'),
        (zip_of({'photo.jpg': b'', 'b': b''}), r'is a zip archive of no known kind \(it holds b, photo.jpg\)'),
        (zip_of({}), 'damaged or not a plain zip archive: it holds nothing'),
        (pickle.dumps({'a': 1}, 2), 'is a pickle that torch.save did not write'),
        (pickle.dumps(OrderedDict, 4), 'is a pickle that torch.save did not write'),
        (pickle.dumps(1001, 0), 'is damaged or of an unknown format'),
        (legacy(instructions({}), magic=1), 'is a pickle that torch.save did not write'),
    ],
)
def test_what_else_a_file_may_be(tmp_path, content, words):
    path = tmp_path / 'weights.bin'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'^{path}: {words}'):
        formats.read(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.pth: there is no such file'):
        formats.read(tmp_path / 'none.pth')
    with pytest.raises(ValueError, match=rf'^{tmp_path}: is a folder'):
        formats.read(tmp_path)
