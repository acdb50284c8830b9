"""Data sets prepared by TensorFlow Datasets: found, prepared, and read with or without TensorFlow."""

import contextlib
import importlib.util
import io
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import naming

from flaxmobile.data.dataset import Dataset, RandomAccessDataset
from flaxmobile.data.sample import Sample, labelled
from flaxmobile.data.splits import split_ranges

OWN = ('fashion_mnist', 'fashion_mnist_mini')
NEEDS_TENSORFLOW = "pip install 'flaxmobile[tensorflow]'"


class TfdsExamples:
    """Examples of a data set that TFDS prepared in a format with random access."""

    def __init__(self, name: str, split: str, source: Any, image: str, label: str) -> None:
        self._name, self._split, self._source, self._image, self._label = name, split, source, image, label

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        example = self._source[index]
        return labelled(example[self._image], int(example[self._label]), f'{self._name} {self._split} #{index}')


def data_folder(data_dir: str | os.PathLike[str] | None) -> epath.Path:
    """Where TFDS keeps its data sets; may be a bucket."""
    return epath.Path(data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()


def known_names() -> set[str]:
    """Every name TFDS knows, and ours."""
    return {*OWN, *tfds.list_builders(with_community_datasets=False)}


def known_classes(name: str, data_dir: str | os.PathLike[str] | None) -> int | None:
    """How many classes a data set has that TFDS knows, prepared or not; None where it does not know it."""
    if not _of_tfds(name):
        return None
    info = tfds.builder(name, data_dir=data_folder(data_dir), try_gcs=False).info
    return int(info.features[_keys(name, info)[1]].num_classes)


def is_known(name: str, data_dir: epath.Path, version: str | None = None) -> bool:
    """Whether a name is that of a data set that TFDS knows, or that is prepared."""
    try:
        naming.parse_builder_name_kwargs(name)
    except ValueError:
        return False
    return _of_tfds(name) or _prepared(name, data_dir, version) is not None


def _of_tfds(name: str) -> bool:
    return re.split('[/:]', name)[0] in known_names()


def open_tfds(
    name: str, split: str, *, data_dir: epath.Path, download: bool, version: str | None, max_unreadable: float
) -> Dataset | None:
    """Open a data set by its TFDS name, preparing it where that is asked for or costs nothing.

    None if it is neither prepared nor known to TFDS.
    """
    if not is_known(name, data_dir, version):
        return None
    builder = _prepared(name, data_dir, version) or _prepare(name, data_dir, version, download)
    return open_builder(builder, name, split, max_unreadable=max_unreadable)


def open_builder(builder: tfds.core.DatasetBuilder, name: str, split: str, *, max_unreadable: float) -> Dataset:
    """Open a prepared data set: without TensorFlow where its files can be read in any order, else through tf.data."""
    parts = tuple(split_ranges(split, {key: info.num_examples for key, info in builder.info.splits.items()}))
    dataset = _open(builder, name, split, parts, max_unreadable)
    dataset.parts = parts
    dataset.identity = str(builder.info.full_name)
    return dataset


def _open(
    builder: tfds.core.DatasetBuilder, name: str, split: str, parts: Sequence[tuple[str, range]], max_unreadable: float
) -> Dataset:
    image, label = _keys(name, builder.info)
    classes = tuple(builder.info.features[label].names)
    absolute = '+'.join(f'{key}[{part.start}:{part.stop}]' for key, part in parts if part)
    decoders = {image: tfds.decode.SkipDecoding()}
    formats = builder.info.available_file_formats()
    if formats & tfds.core.FileFormat.with_random_access():
        source = builder.as_data_source(absolute, decoders=decoders)
        return RandomAccessDataset(
            name, split, classes, TfdsExamples(name, split, source, image, label), max_unreadable
        )
    if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise ValueError(f'{name} is prepared as {builder.info.file_format}: array_record or tfrecord can be read')
    if not importlib.util.find_spec('tensorflow'):
        raise ModuleNotFoundError(
            f'{name} in {builder.data_dir} is prepared as tfrecord, which TensorFlow reads: {NEEDS_TENSORFLOW}'
        )
    from flaxmobile.data.tfrecords import TfrecordDataset

    def parse(record: bytes, called: str) -> Sample:
        example = builder.info.features.deserialize_example_np(record, decoders=decoders)
        return labelled(example[image], int(example[label]), called)

    return TfrecordDataset(name, split, classes, builder.info.splits[absolute].file_instructions, parse, max_unreadable)


def _keys(name: str, info: tfds.core.DatasetInfo) -> tuple[str, str]:
    features = dict(info.features.items()) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    images = [key for key, feature in features.items() if type(feature) is tfds.features.Image]
    labels = [key for key, feature in features.items() if type(feature) is tfds.features.ClassLabel]
    if (keys := info.supervised_keys) and keys[0] in images and keys[1] in labels:
        return keys[0], keys[1]
    if len(images) == len(labels) == 1:
        return images[0], labels[0]
    raise ValueError(
        f'{name} is no set for image classification: one Image and one ClassLabel are needed, and it has '
        + (', '.join(f'{key} ({type(feature).__name__})' for key, feature in features.items()) or 'neither')
    )


def _prepared(name: str, data_dir: epath.Path, version: str | None) -> tfds.core.DatasetBuilder | None:
    try:
        options = {'version': version} if version else {}
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=data_dir, **options)
    except tfds.core.DatasetNotFoundError:
        return None


def _prepare(name: str, data_dir: epath.Path, version: str | None, download: bool) -> tfds.core.DatasetBuilder:
    make = _own_builder(name, data_dir)
    if make:
        return _prepare_own(make, version)
    if not download:
        raise FileNotFoundError(f'{name} is not prepared in {data_dir}. {_advice(name)}')
    try:
        options = {'version': version} if version else {}
        builder = tfds.builder(name, data_dir=data_dir, file_format='array_record', **options)
        builder.download_and_prepare()
    except ImportError as error:
        missing = error.name or 'tensorflow'
        advice = NEEDS_TENSORFLOW if missing == 'tensorflow' else f'pip install {missing}'
        raise ModuleNotFoundError(f'preparing {name} needs {missing}: {advice}', name=missing) from error
    except (OSError, AssertionError) as error:  # TFDS asserts that files to be fetched by hand are there.
        raise OSError(f'cannot prepare {name} in {data_dir}: {error}') from error
    return builder


def _advice(name: str) -> str:
    advice = 'Give data_dir, where it is prepared elsewhere, or download=True to fetch and prepare it'
    if os.path.isdir(name):
        advice += f'. For the folder of this name write ./{name}'
    if name == 'fashion_mnist':
        return f'apt-get install dataset-fashion-mnist gives the files it is prepared from. {advice}'
    return advice


def _own_builder(name: str, data_dir: epath.Path) -> Callable[[], tfds.core.DatasetBuilder] | None:
    from flaxmobile.data import fashion_mnist

    options = {'data_dir': data_dir, 'file_format': 'array_record'}
    if name == 'fashion_mnist_mini':
        return lambda: fashion_mnist.FashionMnistMini(**options)
    if name == 'fashion_mnist':
        for folder in (data_dir, data_dir / 'downloads' / 'manual', fashion_mnist.DEBIAN_FOLDER):
            if all(path.is_file() for path in fashion_mnist.idx_files(folder)):
                return lambda: fashion_mnist.FashionMnist(folder, **options)
    return None


def _prepare_own(make: Callable[[], tfds.core.DatasetBuilder], version: str | None) -> tfds.core.DatasetBuilder:
    builder = make()
    if version and not builder.version.match(version):
        raise ValueError(f'{builder.name} has the version {builder.version}, and {version} was asked for')
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        # Seconds of work need no progress bars.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            builder.download_and_prepare(download_config=config)
    except OSError as error:
        # TFDS prepares beside and then renames: another process may have been first.
        if not (builder := make()).is_prepared():
            raise OSError(
                f'cannot prepare {builder.name} in {builder.data_dir}: {error}. Give another data_dir'
            ) from error
    return builder
