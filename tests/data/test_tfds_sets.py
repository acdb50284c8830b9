import importlib.util
import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from flaxmobile.data import Preprocessing, load_dataset

TINY = Preprocessing(8, 3, crop_fraction=1.0)


class ToyShapes(tfds.core.GeneratorBasedBuilder):
    """Nine grey squares of three classes; the number of each is in its pixels."""

    VERSION = tfds.core.Version('1.2.0')

    def _info(self):
        features = {
            'picture': tfds.features.Image(shape=(8, 8, 3)),
            'shape': tfds.features.ClassLabel(names=['disc', 'ring', 'star']),
            'note': tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(9), 'validation': self._generate_examples(3)}

    def _image(self, index):
        content = io.BytesIO()
        Image.new('RGB', (8, 8), (index, index, index)).save(content, 'PNG')
        content.seek(0)
        return content

    def _generate_examples(self, count):
        for index in range(count):
            yield index, {'picture': self._image(index), 'shape': index % 3, 'note': 'a note'}


class ToyArrays(ToyShapes):
    """The same, encoded by TFDS, which needs TensorFlow for it."""

    def _image(self, index):
        return np.full((8, 8, 3), index, np.uint8)


class ToyTexts(tfds.core.GeneratorBasedBuilder):
    """No images at all."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = {'text': tfds.features.Text(), 'label': tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples()}

    def _generate_examples(self):
        yield 0, {'text': 'words', 'label': 1}


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
    """A folder in which `toy_shapes` was prepared by being asked for."""
    folder = tmp_path_factory.mktemp('prepared')
    load_dataset('toy_shapes', 'train', data_dir=folder, download=True)
    return folder


def assert_is_toy_shapes(train):
    assert train.classes == ('disc', 'ring', 'star')
    [batch] = train.evaluation_batches(9, TINY)
    numbers = batch['image'][:, 0, 0, 0]
    assert sorted(numbers) == list(range(9))
    np.testing.assert_array_equal(batch['label'], numbers % 3)


def test_by_name_whatever_its_keys_are_called(prepared):
    assert_is_toy_shapes(load_dataset('toy_shapes', 'train', data_dir=prepared))
    assert_is_toy_shapes(load_dataset('toy_shapes:1.*.*', 'train', data_dir=prepared))
    assert_is_toy_shapes(load_dataset('toy_shapes', 'train', data_dir=prepared, version='1.2.0'))
    assert len(load_dataset('toy_shapes', 'train[:50%]+validation[:1]', data_dir=prepared)) == 5
    assert len(load_dataset('toy_shapes', 'train[:]', data_dir=prepared)) == 9


def test_by_the_folder_it_was_prepared_in(prepared):
    assert_is_toy_shapes(load_dataset(str(prepared / 'toy_shapes' / '1.2.0'), 'train'))


def test_a_prepared_set_whose_code_is_not_known(prepared):
    (prepared / 'strange_shapes').mkdir()
    target = prepared / 'strange_shapes' / '1.2.0'
    target.symlink_to(prepared / 'toy_shapes' / '1.2.0')
    assert_is_toy_shapes(load_dataset('strange_shapes', 'train', data_dir=prepared))


def test_reading_imports_no_tensorflow(prepared):
    program = f"""
import sys
from flaxmobile.data import Augmentation, Preprocessing, load_dataset
train = load_dataset('toy_shapes', 'train', data_dir={str(prepared)!r})
next(train.train_batches(4, Preprocessing(8), Augmentation(), seed=0))
assert not {{'tensorflow', 'torch', 'matplotlib'}} & set(sys.modules)
"""
    subprocess.run([sys.executable, '-c', program], check=True, timeout=60)


def test_importing_the_settings_imports_nothing_heavy():
    program = """
import sys
from flaxmobile.data import Augmentation, Preprocessing
assert not {'tensorflow', 'tensorflow_datasets', 'grain', 'PIL'} & set(sys.modules)
"""
    subprocess.run([sys.executable, '-c', program], check=True, timeout=60)


def test_not_prepared(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf'not prepared in {tmp_path}\. Give data_dir.*download=True'):
        load_dataset('cifar10', 'train', data_dir=tmp_path)


def test_the_default_place_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_dataset('cifar10', 'train')


def test_unknown_names(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError,
        match=r"unknown data set 'fashion_mnist_mni'.*_mini.*Nor is there a folder /.*_mni",
    ):
        load_dataset('fashion_mnist_mni', 'train', data_dir=tmp_path)
    (tmp_path / 'photos').mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r'there is no folder .*/photo and no data set .* Did you mean photos\?'):
        load_dataset('photo', 'train', data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"unknown data set ''"):
        load_dataset('', 'train', data_dir=tmp_path)


def test_a_version_that_is_not_there(prepared):
    with pytest.raises(ValueError, match=r'has the version 1\.0\.0, and 9\.0\.0 was asked for'):
        load_dataset('fashion_mnist_mini', 'train', data_dir=prepared / 'none', version='9.0.0')
    with pytest.raises(FileNotFoundError):
        load_dataset('toy_shapes', 'train', data_dir=prepared, version='9.0.0')


def test_an_unknown_split(prepared):
    with pytest.raises(ValueError, match=r"unknown split 'test'.*train has 9, validation has 3"):
        load_dataset('toy_shapes', 'test', data_dir=prepared)


def test_a_set_without_images(tmp_path):
    with pytest.raises(ValueError, match=r'toy_texts is no set for image classification.*text \(Text\), label'):
        load_dataset('toy_texts', 'train', data_dir=tmp_path, download=True)


def test_files_to_fetch_by_hand(tmp_path):
    with pytest.raises(OSError, match=r'(?s)cannot prepare imagenet2012 .*ILSVRC2012_img_train\.tar'):
        load_dataset('imagenet2012', 'train', data_dir=tmp_path, download=True)


@pytest.mark.skipif(importlib.util.find_spec('tensorflow'), reason='TensorFlow is installed')
def test_preparing_that_needs_tensorflow_says_so(tmp_path):
    with pytest.raises(ModuleNotFoundError, match=r"needs tensorflow: pip install 'flaxmobile\[tensorflow\]'"):
        load_dataset('toy_arrays', 'train', data_dir=tmp_path, download=True)


@pytest.mark.skipif(importlib.util.find_spec('tensorflow'), reason='TensorFlow is installed')
def test_tfrecord_without_tensorflow_says_so(tmp_path):
    builder = ToyShapes(data_dir=tmp_path, file_format='array_record')
    builder.download_and_prepare()
    info = tmp_path / 'toy_shapes' / '1.2.0' / 'dataset_info.json'
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    with pytest.raises(ModuleNotFoundError, match=r'prepared as tfrecord.*flaxmobile\[tensorflow\]'):
        load_dataset('toy_shapes', 'train', data_dir=tmp_path)
