"""Keras's files as h5py makes them; what HDF5 can hold beyond that, refused before it is read."""

import io
import struct
import tracemalloc
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
from hdf5_files import CLASSES, LAYOUTS, WEIGHTS, file_of, legacy, named

import flaxmobile
from flaxmobile.models.network import variable_shapes
from flaxmobile.weights import from_keras, to_keras
from flaxmobile.weights.formats import hdf5
from flaxmobile.weights.keras_names import file_layers


def read(content, path):
    path.write_bytes(content)
    return hdf5.read(path)


def archive(content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as zipped:
        zipped.writestr('config.json', '{}')
        zipped.writestr('model.weights.h5', content)
    return file.getvalue()


def assert_same(tensors, wanted):
    assert tensors.keys() == wanted.keys()
    for name, array in wanted.items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].tobytes() == array.tobytes()


@pytest.mark.parametrize('layout', LAYOUTS)
def test_layouts(layout, tmp_path):
    file = read(file_of(LAYOUTS[layout]), tmp_path / 'a.h5')
    assert file.kind == 'keras'
    assert_same(file.tensors, WEIGHTS)


def test_a_keras_archive(tmp_path):
    assert_same(read(archive(file_of(named)), tmp_path / 'a.keras').tensors, WEIGHTS)


def test_a_weights_file_without_names(tmp_path):
    tensors = read(file_of(lambda file: named(file, names=False)), tmp_path / 'a.weights.h5').tensors
    ordinals = [name.rpartition('/') for name in WEIGHTS]
    assert_same(tensors, {f'{CLASSES[layer]}/{leaf}': WEIGHTS[f'{layer}/{leaf}'] for layer, _, leaf in ordinals})


def test_names_longer_than_a_header_and_many_of_them(tmp_path):
    names = [f'layer_{number}_' + 'é' * number for number in range(300)]

    def fill(file):
        for number, name in enumerate(names):
            group = file.create_group(f'layers/conv2d_{number}/vars')
            for other in range(number % 4):
                group.attrs[f'other_{other}'] = 'x' * 100
            group.attrs['name'] = name
            group.create_dataset('0', data=np.full(2, number, np.float32))

    tensors = read(file_of(fill), tmp_path / 'a.weights.h5').tensors
    assert {name: array[0] for name, array in tensors.items()} == {
        f'{name}/kernel': number for number, name in enumerate(names)
    }


@pytest.mark.parametrize('dtype', ['<f2', '>f4', '<f8', 'bfloat16', '<i4'])
def test_types(dtype, tmp_path):
    dtype = np.dtype(ml_dtypes.bfloat16) if dtype == 'bfloat16' else np.dtype(dtype)
    array = np.arange(6).reshape(2, 3).astype(dtype)
    tensors = read(file_of(lambda file: file.create_dataset('a/a/kernel', data=array)), tmp_path / 'a.h5').tensors
    assert_same(tensors, {'a/kernel': array.astype(dtype.newbyteorder('='))})


@pytest.mark.parametrize(
    ('name', 'suffix'), [('tf_mobilenetv1_025', '.h5'), ('tf_mobilenetv3_small_075', '.weights.h5')]
)
def test_what_is_written_is_read(name, suffix, tmp_path):
    model = flaxmobile.create_model(name, num_classes=3)
    rng = np.random.default_rng(0)
    variables = tree_of(variable_shapes(model), lambda leaf: rng.normal(size=leaf.shape).astype(np.float32))
    tensors = to_keras(variables, model)
    hdf5.write(tmp_path / f'a{suffix}', tensors, file_layers(model), 'MobileNet')
    again = hdf5.read(tmp_path / f'a{suffix}').tensors
    assert_same(again, tensors)
    assert_same(to_keras(from_keras(again, model), model), tensors)


def tree_of(tree, draw):
    return {key: tree_of(value, draw) for key, value in tree.items()} if isinstance(tree, dict) else draw(tree)


def test_names_of_another_network_are_not_written(tmp_path):
    layers = file_layers(flaxmobile.create_model('tf_mobilenetv2_100'))
    with pytest.raises(ValueError, match=r'a\.h5: not among the Keras names of MobileNetV2: conv1/kernel'):
        hdf5.write(tmp_path / 'a.h5', {'conv1/kernel': np.ones(1)}, layers, 'MobileNetV2')
    assert not list(tmp_path.iterdir())


def huge(**options):
    return lambda file, _: file.create_dataset('a/a/kernel', shape=(10**10,), dtype='f4', **options)


def early(file, _):
    """Contiguous, and allocated at once."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    group = file.create_group('a/a')
    h5py.h5d.create(group.id, b'kernel', h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((1001,)), properties)


def soft_link(file, _):
    file.create_dataset('b/b/kernel', data=np.ones(3))
    file['a/a/kernel'] = h5py.SoftLink('/b/b/kernel')


def external_link(file, folder):
    with h5py.File(folder / 'secret.h5', 'w') as secret:
        secret.create_dataset('kernel', data=np.ones(3))
    file['a/a/kernel'] = h5py.ExternalLink(str(folder / 'secret.h5'), '/kernel')


def external_storage(file, folder):
    (folder / 'secret').write_bytes(bytes(400))
    file.create_dataset('a/a/kernel', shape=(100,), dtype='f4', external=[(str(folder / 'secret'), 0, 400)])


def virtual(file, folder):
    with h5py.File(folder / 'secret.h5', 'w') as secret:
        secret.create_dataset('kernel', data=np.ones(3))
    layout = h5py.VirtualLayout(shape=(3,), dtype='f8')
    layout[:] = h5py.VirtualSource(str(folder / 'secret.h5'), 'kernel', shape=(3,))
    file.create_virtual_dataset('a/a/kernel', layout)


def circle(file, _):
    file.create_dataset('a/a/kernel', data=np.ones(3))
    file['a/b'] = file['a']


def often(file, _):
    file.create_dataset('a/a/kernel', data=np.ones(10_000))
    for number in range(50):
        file[f'b/b/kernel_{number}'] = file['a/a/kernel']


def texts(file, _):
    file.create_dataset('a/a/kernel', data=['x', 'y'])


def references(file, _):
    file.create_dataset('a/a/kernel', data=[file.ref], dtype=h5py.ref_dtype)


def records(file, _):
    file.create_dataset('a/a/kernel', data=np.zeros(3, [('x', 'f4'), ('y', 'f4')]))


def named_type(file, _):
    file['a/a/kernel'] = np.dtype('f4')


def twice(file, _):
    file.create_dataset('a/a/kernel', data=np.ones(3))
    file.create_dataset('model_weights/a/a/kernel:0', data=np.ones(3))


@pytest.mark.parametrize(
    ('fill', 'words'),
    [
        (huge(), 'claims 40000000000 bytes, of which 0 are stored'),
        (huge(chunks=True), 'a/a/kernel claim 40000028672 bytes, which the file cannot hold'),
        (huge(chunks=True, compression='gzip'), 'a/a/kernel claim 40000028672 bytes, which the file cannot hold'),
        (soft_link, 'a/a/kernel is a link, which is not followed'),
        (external_link, 'a/a/kernel is a link to another file, which is not followed'),
        (external_storage, 'a/a/kernel shows what lies in another file, which is not read'),
        (virtual, 'a/a/kernel shows what lies in another file, which is not read'),
        (circle, 'is linked twice'),
        (often, 'is linked twice'),
        (texts, 'a/a/kernel does not hold numbers'),
        (references, 'a/a/kernel does not hold numbers'),
        (records, 'a/a/kernel does not hold numbers'),
        (named_type, 'a/a/kernel is neither a group nor an array'),
        (twice, 'it holds a/kernel twice'),
        (lambda file, _: file.create_group('a'), 'no Keras weights in it'),
        (lambda file, _: file.create_dataset('optimizer/vars/0', data=[1.0]), 'no Keras weights in it'),
    ],
)
def test_what_keras_does_not_write(fill, words, tmp_path):
    content = file_of(lambda file: fill(file, tmp_path))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf'bad\.h5: .*{words}'):
            read(content, tmp_path / 'bad.h5')
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def test_ten_gigabytes_claimed_in_a_header(tmp_path):
    content = file_of(lambda file: early(file, None))
    for number in (1001, 4004):
        assert content.count(number.to_bytes(8, 'little')) in (1, 2)
        content = content.replace(number.to_bytes(8, 'little'), (number * 2_500_000).to_bytes(8, 'little'))
    with pytest.raises(ValueError, match=r'bad\.h5: .*a/a/kernel claims 10010000000 bytes, of which \d+ are stored'):
        read(content, tmp_path / 'bad.h5')


def test_arrays_that_share_their_bytes(tmp_path):
    """Each fits the file alone, all together they do not."""
    names = [f'bias_{number}' for number in range(100)]
    content = file_of(lambda file: [file.create_dataset(f'a/a/{name}', data=np.full(1000, 2.0)) for name in names])
    with h5py.File(io.BytesIO(content)) as file:
        offsets = [file[f'a/a/{name}'].id.get_offset() for name in names]
    content = content.replace(struct.pack('<Q', 1000), struct.pack('<Q', 5000))
    for offset in offsets:
        content = content.replace(struct.pack('<QQ', offset, 8000), struct.pack('<QQ', offsets[0], 40_000))
    with pytest.raises(ValueError, match=r'bad\.h5: .*share their bytes, or together claim more'):
        read(content, tmp_path / 'bad.h5')


def test_other_files(tmp_path):
    for content in (b'', b'\x89HDF\r\n\x1a\n', bytes(1000)):
        with pytest.raises(ValueError, match=r'bad\.h5: damaged, or not a file of Keras weights'):
            read(content, tmp_path / 'bad.h5')
    with pytest.raises(ValueError, match=r'bad\.keras: damaged, or not a file of Keras weights'):
        read(archive(b'no HDF5'), tmp_path / 'bad.keras')
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as zipped:
        zipped.writestr('model.weights.npz', '')
    with pytest.raises(ValueError, match=r'bad\.keras: no model\.weights\.h5 in it.*it holds model\.weights\.npz'):
        read(file.getvalue(), tmp_path / 'bad.keras')
    with pytest.raises(FileNotFoundError):
        hdf5.read(tmp_path / 'missing.h5')


def test_a_weights_group_is_read_in_place(tmp_path):
    assert_same(read(file_of(lambda file: legacy(file, suffix='')), tmp_path / 'a.h5').tensors, WEIGHTS)
