"""Arrays and groups in every way that h5py writes them, against h5py's own reading."""

import io
import itertools

import h5py
import numpy as np
import pytest
from hdf5_files import LAYOUTS, WEIGHTS, file_of, repacked
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmobile.weights.formats import hdf5, plain_hdf5
from flaxmobile.weights.formats.plain_hdf5.chunk_arrays import ExtensibleArray, FixedArray
from flaxmobile.weights.formats.plain_hdf5.source import NOWHERE, Source, lookup3

VERSIONS = ('earliest', 'v108', 'v110', 'latest')  # The latest is v200 by HDF5 2.0.
FILTERS = (
    {},
    {'compression': 'gzip'},
    {'compression': 'gzip', 'shuffle': True, 'fletcher32': True},
    {'compression': 'lzf', 'shuffle': True},
    {'fletcher32': True},
)
TYPES = ('<f4', '>f4', '<f2', '<f8', '<i8', '>u2', 'u1')


def same_as_h5py(content):
    """The arrays by their paths, once they were held against h5py's."""
    wanted = {}

    def keep(name, item):
        if isinstance(item, h5py.Dataset):
            wanted[name] = item[()]

    with h5py.File(io.BytesIO(content)) as file:
        file.visititems(keep)
    arrays = {'/'.join(array.path): array for array in plain_hdf5.arrays(content)}
    assert arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        array = np.asarray(array)
        values = arrays[name].values
        assert (values.shape, values.dtype) == (array.shape, array.dtype.newbyteorder('='))
        assert values.tobytes() == array.astype(values.dtype).tobytes()
        assert not values.flags.writeable
    return arrays


@st.composite
def datasets(draw):
    """Numbers and how h5py is to store them."""
    chunk = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    sides = [draw(st.integers(0, 13)) for _ in chunk]
    most = [draw(st.sampled_from([side, side + 3, None])) for side in sides]
    # An endless side has to be longer than no chunk, a fixed one at least a chunk.
    chunk = [side if limit is None else max(1, min(side, limit)) for side, limit in zip(chunk, most, strict=True)]
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    seed = draw(st.integers(0, 2**32 - 1))
    values = np.random.default_rng(seed).integers(0, draw(st.sampled_from([2, 200])), sides).astype(dtype)
    most = [None if limit is None else max(limit, side) for limit, side in zip(most, chunk, strict=True)]
    return values, {'chunks': tuple(chunk), 'maxshape': tuple(most), **draw(st.sampled_from(FILTERS))}


@settings(max_examples=50)
@given(datasets(), st.sampled_from(VERSIONS))
def test_chunks(dataset, version):
    values, options = dataset
    same_as_h5py(file_of(lambda file: file.create_dataset('a/kernel', data=values, **options), libver=version))


@pytest.mark.parametrize('most', [(5, 7, 4), (9, 8, 10), (None, 8, 10), (9, None, 10), (9, 8, None), (None, 8, None)])
@pytest.mark.parametrize('options', [{}, {'compression': 'gzip'}])
def test_chunks_in_three_dimensions(most, options):
    """Each kind of index numbers them in an order of its own."""
    values = np.arange(140, dtype=np.int32).reshape(5, 7, 4)
    options = {'chunks': (2, 3, 1), 'maxshape': most, **options}
    same_as_h5py(file_of(lambda file: file.create_dataset('a', data=values, **options), libver='latest'))


@pytest.mark.parametrize('version', VERSIONS)
def test_an_array_that_grew(version):
    def fill(file):
        dataset = file.create_dataset('a', data=np.arange(12.0).reshape(3, 4), chunks=(2, 3), maxshape=(None, 50))
        dataset.resize((9, 11))
        dataset[:] = np.arange(99.0).reshape(9, 11)
        dataset.resize((9, 7))

    same_as_h5py(file_of(fill, libver=version))


@pytest.mark.parametrize('version', VERSIONS)
def test_chunks_that_are_allocated_at_once_and_need_no_index(version):
    def fill(file):
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((2, 3))
        properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        space = h5py.h5s.create_simple((5, 7))
        dataset = h5py.Dataset(h5py.h5d.create(file.id, b'early', h5py.h5t.IEEE_F32LE, space, properties))
        dataset[:] = np.arange(35).reshape(5, 7)

    same_as_h5py(file_of(fill, libver=version))


@pytest.mark.parametrize('index', [FixedArray, ExtensibleArray])
@pytest.mark.parametrize('options', [{}, {'compression': 'gzip'}])
def test_an_index_of_many_chunks(index, options):
    """Each block and page of it, by single chunks; the arrays of such files would be slow to make."""
    places = [0, 3, 4, 19, 20, 900, 1023, 1024, 20_000, 69_999]

    def fill(file):
        most = None if index is ExtensibleArray else 70_000
        dataset = file.create_dataset('a', (70_000,), 'i4', chunks=(1,), maxshape=(most,), **options)
        for place in places:
            dataset[place] = place + 1

    content = file_of(fill, libver='latest')
    with h5py.File(io.BytesIO(content)) as file:
        wanted = [file['a'].id.get_chunk_info_by_coord((place,)) for place in places]
    start = content.index(b'FAHD' if index is FixedArray else b'EAHD')
    found = index(Source(content), start)
    assert [int.from_bytes(found.entry(place)[:8], 'little') for place in places] == [at.byte_offset for at in wanted]
    if options:
        assert [int.from_bytes(found.entry(place)[8:-4], 'little') for place in places] == [at.size for at in wanted]
    assert int.from_bytes(found.entry(1)[:8], 'little') == NOWHERE


@pytest.mark.parametrize(('version', 'options'), [('earliest', {}), ('latest', {}), ('v108', {'track_order': True})])
def test_groups_of_many_members_with_many_attributes(version, options):
    """So many that a group of the new kind keeps them in a tree and a heap of several blocks."""

    def fill(file):
        for number in range(100):
            group = file.create_group(f'layers/{"é" * (number % 50)}layer_{number}', **options)
            for other in range(number % 12):
                group.attrs[f'other_{other}'] = np.arange(number)
            group.attrs['name'] = f'name of {number}'
            group['0'] = np.float32(number)
        file['layers'].attrs['large'] = np.zeros(8000 if version == 'earliest' else 20_000)

    arrays = same_as_h5py(file_of(fill, libver=version))
    assert all(array.group_name == f'name of {int(array.values)}' for array in arrays.values())


@settings(max_examples=20)
@given(st.text(st.characters(exclude_characters='\0', codec='utf-8'), max_size=70), st.sampled_from(VERSIONS))
def test_names_of_layers(text, version):
    def fill(file):
        file.create_group('fixed').attrs['name'] = np.bytes_(text.encode() + b'.')
        file.create_group('text').attrs['name'] = text
        for name in ('fixed', 'text'):
            file[name]['0'] = 1.0

    names = {array.path[0]: array.group_name for array in plain_hdf5.arrays(file_of(fill, libver=version))}
    assert names == {'fixed': f'{text}.', 'text': text}


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(
    ('version', 'filters'), [*itertools.product(('earliest', 'latest'), ({'chunks': True}, *FILTERS[1:]))]
)
def test_a_file_of_keras_that_was_packed_again(layout, version, filters, tmp_path):
    content = repacked(file_of(LAYOUTS[layout]), version, **filters)
    path = tmp_path / 'a.h5'
    path.write_bytes(content)
    tensors = hdf5.read(path).tensors
    assert tensors.keys() == WEIGHTS.keys()
    assert all(tensors[name].tobytes() == array.tobytes() for name, array in WEIGHTS.items())


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'scaleoffset': 3}, 'scaleoffset'),
        ({'compression': 32015, 'compression_opts': (3,)}, 'zstd'),
        ({'compression': 32099}, 'filter 32099'),
    ],
)
def test_other_filters_are_refused_by_name(options, words, tmp_path, monkeypatch):
    monkeypatch.setattr(h5py.h5z, 'filter_avail', lambda _: True)
    path = tmp_path / 'a.h5'
    # h5py has no such filter: what is optional it leaves out, and names in the file all the same.
    options = {**options, 'allow_unknown_filter': True} if 'compression' in options else options
    path.write_bytes(file_of(lambda file: file.create_dataset('a/kernel', data=np.arange(9), **options)))
    with pytest.raises(ValueError, match=rf'a\.h5: a/kernel is packed with {words}, and only gzip, .*: write it anew'):
        hdf5.read(path)


def test_a_chunk_that_was_never_written_is_no_weight():
    def fill(file):
        file.create_dataset('a', (9,), 'f4', chunks=(2,))[:5] = 1

    with pytest.raises(ValueError, match='a lies in 5 chunks, of which 2 were never written'):
        list(plain_hdf5.arrays(file_of(fill)))


def test_lookup3():
    """Bob Jenkins's own examples."""
    assert lookup3(b'') == 0xDEADBEEF
    assert lookup3(b'Four score and seven years ago') == 0x17770551
