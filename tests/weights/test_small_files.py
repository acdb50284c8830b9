"""Small files that would cost much, headers that are none, and text that lies."""

import functools
import io
import json
import struct
import tracemalloc
import warnings
import zipfile

import h5py
import numpy as np
import pytest
from harmless import harmless
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors_files import safetensors_of
from torch_archives import Made, torch_zip, weights

from flaxmobile.weights import find, formats
from flaxmobile.weights.answers import Facts
from flaxmobile.weights.download import _check_kept, _check_whole, _digest_path
from flaxmobile.weights.formats import checkpoint, npz, safetensors_file, torch_pickle
from flaxmobile.weights.transfer import fault_of

SIZE = 8 << 20
NOISE = np.random.default_rng(0).integers(1 << 32, size=SIZE // 8, dtype=np.uint32).view(np.float32)
ARRAYS = {'noise': NOISE, 'zeros': np.zeros(SIZE // 8, np.float32)}


def zipped(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def repacked(content, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return zipped({name: archive.read(name) for name in archive.namelist()}, method)


def big_endian_torch():
    with zipfile.ZipFile(io.BytesIO(torch_pickle.encode(ARRAYS))) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    numbers = {f'archive/data/{number}': array.byteswap().tobytes() for number, array in enumerate(ARRAYS.values())}
    return zipped(parts | numbers | {'archive/byteorder': b'big'})


LARGE = {
    'stored.npz': lambda: npz.encode(ARRAYS),
    'deflated.npz': lambda: repacked(npz.encode(ARRAYS)),
    'big endian.npz': lambda: zipped({f'{name}.npy': npy(array.astype('>f4')) for name, array in ARRAYS.items()}),
    'columns.npz': lambda: npz.encode({name: np.asfortranarray(a.reshape(4, -1)) for name, a in ARRAYS.items()}),
    'stored.pth': lambda: torch_pickle.encode(ARRAYS),
    'deflated.pth': lambda: repacked(torch_pickle.encode(ARRAYS)),
    'big endian.pth': big_endian_torch,
    'foreign.safetensors': lambda: safetensors_file.encode(ARRAYS, {}),
    'ours.safetensors': lambda: safetensors_file.encode_ours({f'params/{n}': a for n, a in ARRAYS.items()}, {}),
}


@pytest.mark.parametrize('name', LARGE)
def test_what_is_read_is_in_memory_once(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(LARGE[name]())
    tracemalloc.start()
    try:
        file = formats.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * SIZE
    for tensor, array in ARRAYS.items():
        found = next(value for key, value in file.tensors.items() if key.endswith(tensor))
        assert found.dtype == np.float32
        assert not found.flags.writeable
        assert found.ravel().tobytes() == array.tobytes()


def keras_file():
    """A `.keras` of one layer, in the layout of `model.weights.h5`."""
    file = io.BytesIO()
    with h5py.File(file, 'w') as weights_file:
        group = weights_file.create_group('layers/conv2d/vars')
        group.attrs['name'] = 'conv2d'
        group.create_dataset('0', data=NOISE[:12].reshape(2, 2, 3, 1))
    return zipped({'metadata.json': b'{}', 'config.json': b'{}', 'model.weights.h5': file.getvalue()})


@pytest.mark.parametrize('make', [keras_file, lambda: npz.encode(ARRAYS), lambda: torch_zip(weights(), 4)])
def test_weights_that_another_tool_packed_again(tmp_path, make):
    """Deflated, in another order, with a folder, permissions, times, a comment and what the Finder adds."""
    path, content = tmp_path / 'weights', make()
    path.write_bytes(content)
    expected = formats.read(path)
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as target:
        target.comment = b'packed again'
        target.mkdir('archive')
        for name in sorted(archive.namelist(), reverse=True):
            info = zipfile.ZipInfo(name, (2026, 1, 2, 3, 4, 6))
            info.external_attr, info.compress_type, info.create_system = 0o100755 << 16, zipfile.ZIP_DEFLATED, 19
            info.extra = struct.pack('<HHBI', 0x5455, 5, 1, 0)
            target.writestr(info, archive.read(name))
        target.writestr('__MACOSX/._archive', b'x')
    found = formats.read(path)
    assert found.kind == expected.kind
    assert {name: array.tobytes() for name, array in found.tensors.items()} == {
        name: array.tobytes() for name, array in expected.tensors.items()
    }


def test_a_thousand_keys_that_share_one_dictionary(tmp_path):
    """In less memory than a copy for each key would take, and in less time."""
    shared = dict.fromkeys(map(str, range(5000)), NOISE[:4])
    path = tmp_path / 'shared.pth'
    for root in ({f'k{number}': shared for number in range(1000)}, {'a': [shared] * 1000, 'b': (shared,) * 1000}):
        path.write_bytes(torch_zip(root | {'loss': NOISE[:1]}))
        with harmless(), warnings.catch_warnings(action='ignore'):
            try:
                assert list(formats.read(path).tensors) == ['loss']
            except ValueError as refusal:
                assert 'holds several state dicts (k0 of 5,000 tensors, ' in str(refusal)  # noqa: PT017
    path.write_bytes(torch_zip({'state_dict': weights(), **{f'k{number}': weights() for number in range(9)}}))
    with pytest.warns(UserWarning, match='took state_dict, not k0, k1, '):
        assert formats.read(path).tensors.keys() == weights().keys()


def test_a_mapping_that_is_there_often_is_looked_through_once():
    looked = []
    shared = dict.fromkeys(map(str, range(1000)), 1)
    with pytest.raises(ValueError, match='several state dicts'):
        checkpoint.choose({f'k{number}': shared for number in range(1000)}, lambda value: looked.append(value) is None)
    assert len(looked) == 1000 + 1000  # and the checkpoint itself


def test_objects_that_share_what_is_inside(tmp_path):
    """A tower of objects that each hold the one below twice, 2^200 ways down in all; at its foot a tensor, or none."""
    state_dict = torch_pickle._pickle({'name': np.ones(1, np.float32)})[2:-1]
    path = tmp_path / 'tower.pth'
    for foot in (b'N', state_dict):
        tower = foot + b'q\0010' + b'cmine\nFloor\nh\1h\1\x86Rq\0010' * 200 + b'h\1'
        root = b'\x80\2' + state_dict + b'(X\6\0\0\0beside' + tower + b'X\4\0\0\0morecmine\nCellar\nh\1\x85Ru.'
        path.write_bytes(zipped({'archive/data.pkl': root, 'archive/data/0': bytes(4)}))
        if foot == b'N':
            with harmless(), warnings.catch_warnings(action='ignore'):
                assert list(formats.read(path).tensors) == ['name']
        else:
            with harmless(), pytest.raises(ValueError, match=r'refused: it asks for mine\.(Floor|Cellar)'):
                formats.read(path)


def test_deep_nesting(tmp_path):
    """Twenty thousand lists, dicts or objects in each other."""
    state_dict = torch_pickle._pickle({'name': np.ones(1, np.float32)})[2:-1]
    for opening, closing in ((b'](', b'e'), (b'}(X\1\0\0\0a', b'u'), (b'cmine\nThing\n', b'\x85R')):
        deep = opening * 20_000 + b'N' + closing * 20_000
        root = b'\x80\2}(X\4\0\0\0deepq\1' + deep + b'X\5\0\0\0model' + state_dict + b'u.'
        path = tmp_path / 'deep.pth'
        path.write_bytes(zipped({'archive/data.pkl': root, 'archive/data/0': bytes(4)}))
        with harmless(), warnings.catch_warnings(action='ignore'):
            assert list(formats.read(path).tensors) == ['name']


def test_safetensors_that_overlap_or_are_many(tmp_path):
    path = tmp_path / 'a.safetensors'
    entry = {'dtype': 'F32', 'shape': [4], 'data_offsets': [0, 16]}
    for other in ([0, 16], [4, 20], [0, 0], [8, 24]):
        shape = [(other[1] - other[0]) // 4]
        path.write_bytes(safetensors_of({'a': entry, 'b': {**entry, 'shape': shape, 'data_offsets': other}}, bytes(24)))
        with pytest.raises(ValueError, match=rf'^{path}: is no whole safetensors file'):
            formats.read(path)
    path.write_bytes(safetensors_of(b'{' + b' ' * (1 << 22) + b'}'))
    with harmless(), pytest.raises(ValueError, match=rf'^{path}: .*its header is longer than 4194304 bytes'):
        formats.read(path)
    path.write_bytes(
        safetensors_of(json.dumps({'a': entry}).encode()[:-1] + b',"a":' + json.dumps(entry).encode() + b'}', bytes(16))
    )
    with pytest.raises(ValueError, match=rf'^{path}: .*its header names twice: a\)'):
        formats.read(path)


def header(text, version=1):
    text = text if isinstance(text, bytes) else text.encode('latin-1')
    return b'\x93NUMPY' + bytes([version, 0]) + struct.pack('<H' if version == 1 else '<I', len(text)) + text


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
HEADERS = {
    'only spaces': ' ' * 53 + '\n',
    'a length that is a truth': GOOD.replace('(2, 3)', '(True, 6)'),
    'a length below zero': GOOD.replace('(2, 3)', '(-2, -3)'),
    'a length of ten thousand digits': GOOD.replace('2', '2' * 9000),
    'an endless length beside none': GOOD.replace('(2, 3)', '(0, 9223372036854775807)'),
    'many lengths': GOOD.replace('(2, 3)', '(1,) * 3'),
    'more axes than NumPy has': GOOD.replace('(2, 3)', f'(6, {"1, " * 100})'),
    'no descr': GOOD.replace("'descr': '<f4',", ''),
    'a descr that is none': GOOD.replace("'<f4'", "'x'"),
    'a descr with an end': GOOD.replace("'<f4'", "'<f4\\x00'"),
    'a list as descr': GOOD.replace("'<f4'", '[]'),
    'a nested descr': GOOD.replace("'<f4'", '[' * 500 + ']' * 500),
    'an order that is none': GOOD.replace('False', '2'),
    'a bracket too many': GOOD + ']',
    'a string without end': GOOD.replace("'<f4'", "'<f4"),
    'a name': 'shape',
    'brackets': '(' * 5000,
    'minus signs': '-' * 9000 + '1',
    'a call': '__import__("os").system("true")',
    'an escape': "{'descr': '\\N{x}'}",
    'a zero byte': GOOD + '\0',
    'Latin-1': GOOD.replace('descr', 'd\xe9scr'),
}


@pytest.mark.parametrize('name', HEADERS)
def test_headers_that_are_none(tmp_path, name):
    path = tmp_path / 'a.npz'
    for version in (1, 2):
        path.write_bytes(zipped({'fine.npy': npy(NOISE[:6]), 'w.npy': header(HEADERS[name], version) + bytes(24)}))
        with warnings.catch_warnings(action='error'), pytest.raises(ValueError, match=rf'^{path}: w\.npy ') as refusal:
            formats.read(path)
        assert len(str(refusal.value)) < 600
        assert str(refusal.value).isprintable()


@given(text=st.text(alphabet="{}()[]',: \\\n#-0123456789LTruefalsdcopn_<>f4", max_size=80), data=st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_a_header_says(text, data, tmp_path_factory):
    """It is what NumPy reads too, or refused by the array's name."""
    start = data.draw(st.integers(0, len(GOOD)))
    spoilt = data.draw(st.sampled_from([text, GOOD[:start] + text + GOOD[start + len(text) :]]))
    content = header(spoilt) + bytes(24)
    path = tmp_path_factory.getbasetemp() / 'a.npz'
    path.write_bytes(zipped({'w.npy': content}))
    try:
        found = formats.read(path).tensors['w']
    except ValueError as refusal:
        assert str(refusal).startswith(f'{path}: w.npy ')  # noqa: PT017
    else:
        expected = np.load(io.BytesIO(content))
        assert (found.shape, found.dtype, found.tobytes()) == (expected.shape, expected.dtype, expected.tobytes())


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('code', '?bhilqBHILQefdgFDGSUVOMm')
def test_every_type_that_numpy_writes(tmp_path, code, order):
    """A number is read right, whatever the order of its bytes and axes; of all else array and type are named."""
    dtype = np.dtype({'S': 'S3', 'U': 'U3', 'V': 'V3', 'M': 'M8[s]', 'm': 'm8[s]'}.get(code, code)).newbyteorder(order)
    values = np.arange(6).reshape(2, 3).astype(dtype) if code != 'V' else np.zeros((2, 3), dtype)
    path = tmp_path / 'a.npz'
    for array in (values, np.asfortranarray(values), values[:, :0], values[0, 1:2].reshape(())):
        np.savez(path, fine=NOISE[:6], w=array)
        if dtype.kind in 'fiub':
            found = formats.read(path).tensors['w']
            assert found.dtype == dtype.newbyteorder('=')
            assert found.dtype.isnative
            np.testing.assert_array_equal(found, array)
        else:
            with pytest.raises(ValueError, match=rf'^{path}: w\.npy is of type .*, and only numbers are read'):
                formats.read(path)


def test_an_unfinished_header_is_refused_in_words(tmp_path):
    path = tmp_path / 'a.npz'
    path.write_bytes(zipped({'a.npy': header("{'descr': (\n")}))
    with pytest.raises(ValueError, match=r'a\.npz: a\.npy is no array of NumPy \([^()]*\)$'):
        formats.read(path)


def test_arrays_with_named_fields(tmp_path):
    path = tmp_path / 'a.npz'
    for name in ('x', 'é', '日'):
        np.savez(path, w=np.zeros(2, [(name, '<f4')]))
        with pytest.raises(ValueError, match=rf'^{path}: w\.npy is '):
            formats.read(path)


ENTRY = json.dumps({'dtype': 'I8', 'shape': [1], 'data_offsets': [0, 1]})
EVIL = '\x1b]0;owned\x07\n\nflaxmobile: all is well\u202e'


def torch_with(root):
    return zipped({'archive/data.pkl': root, 'archive/data/0': bytes(4)})


def pickled(text):
    return b'X' + struct.pack('<I', len(text.encode())) + text.encode()


LYING = {
    'a type of safetensors': safetensors_of({EVIL: {'dtype': 'F8_E4M3', 'shape': [1], 'data_offsets': [0, 1]}}, b'x'),
    'no type of safetensors': safetensors_of({'a': {'dtype': EVIL, 'shape': [1], 'data_offsets': [0, 1]}}, b'x'),
    'two of one name': safetensors_of(('{' + ','.join([f'{json.dumps(EVIL)}:{ENTRY}'] * 2) + '}').encode(), b'x'),
    'a checksum': safetensors_file.encode(
        {'params/a': NOISE[:2]}, {'flaxmobile': json.dumps({'sha256': EVIL * 99, 'format': 1})}
    ),
    'a format': safetensors_file.encode_ours({'params/a': NOISE[:2]}, {'format': EVIL * 99}),
    'an array': zipped({f'{EVIL}.npy': b'x'}),
    'a type of an array': zipped({f'{EVIL}.npy': npy(np.zeros(2, [(EVIL, 'f4')]))}),
    'the header of an array': zipped({'a.npy': header(GOOD.replace('<f4', EVIL[:-1].replace('\n', '')))}),
    'the length of an array': zipped({f'{EVIL}.npy': header(GOOD)}),
    'members': zipped({EVIL + str(number): b'' for number in range(99)}),
    'a packed member': zipped({EVIL: b'x'}, zipfile.ZIP_BZIP2),
    'a spoilt member': zipped({f'{EVIL}.npy': b'unique'}).replace(b'unique', b'spoilt', 1),
    'a global': torch_with(b'\x80\2' + pickled(EVIL) + pickled('x') + b'\x93.'),
    'a global of an object': torch_with(
        b'\x80\2}' + pickled('model') + pickled(EVIL * 99) + pickled('x') + b'\x93)Rs.'
    ),
    'several state dicts': torch_zip({EVIL * 99: weights(), EVIL: weights()}),
    'a storage': torch_with(
        b'\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\n'
        + pickled(EVIL)
        + b'X\3\0\0\0cpuK\1tQK\0K\1\x85K\1\x85\x89}tRs.'
    ),
}


@pytest.mark.parametrize('name', LYING)
def test_text_from_files_is_escaped_and_bounded(tmp_path, name):
    path = tmp_path / 'weights.bin'
    path.write_bytes(LYING[name])
    with pytest.raises(ValueError, match='owned') as refusal:
        formats.read(path)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 3000


def test_a_path_is_named_once_however_odd(tmp_path):
    """What a check finds is put into a sentence that names the file already."""
    path = tmp_path / 'a\x1b[2J\nb' / 'weights.pth'
    path.parent.mkdir()
    weight = find('mobilenetv1_100.ra4_e3600_r224_in1k')
    for content, words in ((b'', 'is empty'), (torch_zip(weights()), 'it holds 3 tensors')):
        path.write_bytes(content)
        assert fault_of(path, functools.partial(_check_whole, weight)).startswith(words)
        _digest_path(path).write_text('no digest')
        with pytest.raises(ValueError, match=f'is not the file of .*: {words}.*it is fetched again') as refusal:
            _check_kept(weight, Facts(), path)
        assert str(refusal.value).count('weights.pth') == 1
        assert str(refusal.value).isprintable()


def test_text_of_a_warning_and_of_a_path(tmp_path):
    folder = tmp_path / 'a\x1b[2J\nb'
    folder.mkdir()
    for content in (b'', b'PK', zipped({'a': b''}), torch_zip({'a': 1}), safetensors_of({})[:-1]):
        (folder / 'weights.pth').write_bytes(content)
        with pytest.raises(ValueError, match=r'a\\x1b\[2J\\nb') as refusal:
            formats.read(folder / 'weights.pth')
        assert str(refusal.value).isprintable()
    for missing in (folder, folder / 'none'):
        with pytest.raises((ValueError, FileNotFoundError)) as refusal:
            formats.read(missing)
        assert str(refusal.value).isprintable()
    root = (
        {'model': weights()}
        | {EVIL + str(number): [] for number in range(99)}
        | {'x': Made(f'mine.{EVIL}'.replace('\n', ''))}
    )
    (folder / 'weights.pth').write_bytes(torch_zip(root | {'model': weights(), f'{EVIL}_ema': weights()}, 4))
    with pytest.warns(UserWarning) as caught:  # noqa: PT030
        formats.read(folder / 'weights.pth')
    (message,) = (str(warning.message) for warning in caught)
    assert message.isprintable()
    assert 'owned' in message
    assert len(message) < 4000
