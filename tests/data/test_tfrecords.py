"""tfrecord files against array_record files of the same examples. Needs TensorFlow."""

import dataclasses
import itertools

import numpy as np
import pytest

pytest.importorskip('tensorflow')

import tensorflow_datasets as tfds

from flaxmobile.data import Augmentation, Preprocessing, UnreadableImages, fashion_mnist, load_dataset
from flaxmobile.data.dataset import RandomAccessDataset
from flaxmobile.data.tfrecords import TfrecordDataset

GREY = Preprocessing(28, 1, (0.5,), (0.5,), 1.0)
CROPS = Augmentation((0.5, 1.0))


class FewImages(fashion_mnist.FashionMnistMini, skip_registration=True):
    """The first images alone."""

    name = 'few_images'

    def _read(self):
        sizes = {'train': 230, 'test': 57}
        return {
            split: fashion_mnist.Labelled(*(array[: sizes[split]] for array in part))
            for split, part in super()._read().items()
        }


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    folders = {}
    for kind, shards in (('tfrecord', 5), ('array_record', 1)):
        folders[kind] = tmp_path_factory.mktemp(kind)
        config = tfds.download.DownloadConfig(try_download_gcs=False, num_shards=shards)
        FewImages(data_dir=folders[kind], file_format=kind).download_and_prepare(download_config=config)
    return folders


@pytest.fixture(scope='module')
def both(folders):
    def load(split):
        records, arrays = (load_dataset('few_images', split, data_dir=folder) for folder in folders.values())
        assert isinstance(records, TfrecordDataset)
        assert isinstance(arrays, RandomAccessDataset)
        assert (len(records), records.classes) == (len(arrays), arrays.classes)
        return records, arrays

    return load


def joined(batches, name='index'):
    return np.concatenate([batch[name] for batch in batches])


def assert_same(first, second):
    for one, other in itertools.zip_longest(first, second):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize('split', ['train', 'test[3:51]', 'test[:13%]+train[90%:]', 'train[100:]+train[:7]'])
@pytest.mark.parametrize('processes', [1, 3])
def test_evaluation_equals_that_of_array_record(both, split, processes):
    records, arrays = both(split)
    for process in range(processes):
        share = {'process_index': process, 'process_count': processes}
        assert_same(records.evaluation_batches(10, GREY, **share), arrays.evaluation_batches(10, GREY, **share))


def test_more_processes_than_examples(both):
    records, arrays = both('test[:2]')
    for process in range(4):
        share = {'process_index': process, 'process_count': 4}
        assert_same(records.evaluation_batches(2, GREY, **share), arrays.evaluation_batches(2, GREY, **share))
    with pytest.raises(ValueError, match='2 images for 4 processes'):
        records.train_batches(2, GREY, CROPS, seed=0, process_index=0, process_count=4)


def test_each_epoch_holds_each_example_once_in_another_order(both):
    records, arrays = both('train[:200]')
    batches = list(itertools.islice(records.train_batches(20, GREY, CROPS, seed=0), 20))
    first, second = joined(batches[:10]), joined(batches[10:])
    assert sorted(first) == sorted(second) == list(range(200))
    assert np.mean(first == second) < 0.1
    assert np.mean(first == np.arange(200)) < 0.1
    labels = joined(arrays.evaluation_batches(200, GREY), 'label')
    np.testing.assert_array_equal(joined(batches, 'label'), labels[joined(batches)])


def test_processes_have_parts_of_their_own(both):
    records, _ = both('train[:200]')
    parts = [
        joined(itertools.islice(records.train_batches(5, GREY, CROPS, seed=1, process_index=p, process_count=4), 10))
        for p in range(4)
    ]
    assert sorted(np.concatenate(parts)) == list(range(200))


@pytest.mark.parametrize('start', [0, 3, 12, 40])
def test_start_step_goes_on_where_it_stopped(both, start):
    records, _ = both('train')
    straight = records.train_batches(16, GREY, CROPS, seed=2, process_index=1, process_count=2)
    resumed = records.train_batches(16, GREY, CROPS, seed=2, process_index=1, process_count=2, start_step=start)
    assert_same(itertools.islice(straight, start, start + 3), itertools.islice(resumed, 3))


def test_the_next_readable_image_stands_in(both):
    records, _ = both('train')
    sample = records._sample
    broken = {5, 6, 200}

    def sometimes_broken(index, record):
        found = sample(index, record)
        return dataclasses.replace(found, image=found.image[:40]) if index in broken else found

    expected = joined(itertools.islice(records.train_batches(10, GREY, CROPS, seed=0), 46))
    records._sample, records._allowed = sometimes_broken, 3
    found = joined(itertools.islice(records.train_batches(10, GREY, CROPS, seed=0), 46))
    for place, index in enumerate(expected):
        if index in broken:
            index = next(later for later in expected[place:] if later not in broken)
        assert found[place] == index
    resumed = joined(itertools.islice(records.train_batches(10, GREY, CROPS, seed=0, start_step=20), 26))
    np.testing.assert_array_equal(found[200:], resumed)
    mask = joined(records.evaluation_batches(10, GREY), 'mask')
    np.testing.assert_array_equal(np.flatnonzero(~mask), sorted(broken))
    assert sorted(records.unreadable) == [f'few_images train #{index}' for index in (200, 5, 6)]
    records._allowed = 2
    records._unreadable.clear()
    with pytest.raises(UnreadableImages, match='3 of 230'):
        list(records.evaluation_batches(10, GREY))


def test_repeated_augmentation(both):
    records, _ = both('train[:200]')
    repeated = Augmentation((0.5, 1.0), repeated_augmentation=4)
    share = {'process_index': 1, 'process_count': 2}
    batches = list(itertools.islice(records.train_batches(20, GREY, repeated, seed=0, **share), 20))
    once = list(itertools.islice(records.train_batches(5, GREY, CROPS, seed=0, **share), 20))
    np.testing.assert_array_equal(joined(batches), np.repeat(joined(once), 4))
    copies = joined(batches, 'image').reshape(100, 4, -1)
    assert np.mean([len({copy.tobytes() for copy in image}) for image in copies]) > 3.9
    resumed = records.train_batches(20, GREY, repeated, seed=0, start_step=7, **share)
    assert_same(itertools.islice(batches, 7, 12), itertools.islice(resumed, 5))
