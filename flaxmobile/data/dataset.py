"""A labelled set of images, and the batches made of it."""

import copy
import dataclasses
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np

from flaxmobile.data.batches import (
    CLASSIFICATION,
    Batch,
    BatchFormat,
    blank_element,
    collate,
    decoded,
    evaluation_element,
    training_elements,
)
from flaxmobile.data.images import UnreadableImage, image_size
from flaxmobile.data.preprocessing import Augmentation, Preprocessing
from flaxmobile.data.sample import Sample
from flaxmobile.data.workers import read_ahead

READ_THREADS = min(os.cpu_count() or 1, 16)
_KEPT_BYTES = 2**28


class UnreadableImages(ValueError):
    """More images of a data set are unreadable than is allowed."""


class Loaded(NamedTuple):
    """What one place of a batch was made into: elements, and the errors of unreadable images met, by their names."""

    elements: list[Batch]
    errors: dict[str, str]


class Examples(Protocol):
    """Samples that can be read in any order. One whose target cannot be read raises UnreadableImage."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Dataset(ABC):
    """Samples: images with what is known about them.

    Attributes:
        name: the name it was loaded by.
        split: the part of it, as `train[:90%]`.
        classes: the name of each class, in the order of the labels.
        unreadable: images that were met and could not be decoded, by name.
        parts: the whole splits it is made of, each with the range of its examples, where that is known.
        identity: what tells its examples from others: of a folder digests of all names and of some contents, of TFDS
            its version.
        drawn_from: the images of the whole folder, where it has no folders of splits and they were drawn; else 0.
        batch_format: which targets its samples have, and so what its batches hold: labels, where nothing else is said.
    """

    parts: tuple[tuple[str, range], ...] = ()
    identity: str = ''
    drawn_from: int = 0
    batch_format: BatchFormat = CLASSIFICATION

    def __init__(self, name: str, split: str, classes: tuple[str, ...], length: int, max_unreadable: float) -> None:
        self.name, self.split, self.classes = name, split, classes
        self._length = length
        self._allowed = max(1, int(max_unreadable * length)) if max_unreadable > 0 else 0
        self._unreadable: dict[str, None] = {}

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.name!r}, {self.split!r}, {len(self)} images, {len(self.classes)} classes)'

    @property
    def fingerprint(self) -> str:
        """The number of images and what tells them from others, in words."""
        return f'{len(self):,} images' + (f' ({self.identity})' if self.identity else '')

    @property
    def unreadable(self) -> list[str]:
        """Names of the images met so far that could not be decoded."""
        return list(self._unreadable)

    @abstractmethod
    def train_batches(
        self,
        batch_size: int,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        seed: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        workers: int = 0,
    ) -> Generator[Batch]:
        """Batches without end, in a new order each epoch; a batch may reach from one epoch into the next.

        What comes at a step follows from the seed and the step alone: `start_step=n` goes on where `n` batches were
        taken. An unreadable image is left out and the next readable one stands in for it.

        Args:
            batch_size: images per batch and process.
            preprocessing: the image size, channels and interpolation.
            augmentation: how the images are varied. Each comes `repeated_augmentation` times, one after the other.
            seed: what order and augmentation are drawn from, 0 or more.
            start_step: how many batches to skip.
            process_index: which of `process_count` processes this is; each gets its own part.
            process_count: how many processes share the data set.
            workers: processes that read and augment; 0 for threads of this one. The batches are the same.

        Yields:
            Batches as `batches.Batch` says: `image`, `index`, `mask` (all True), and what the samples have of `label`,
            `boxes` with `box_labels`, and `segmentation_mask`.

        Raises:
            FileNotFoundError: a file that was there when the data set was opened is gone.
            UnreadableImages: more images cannot be read than is allowed.
            ChildProcessError: a worker was killed.
            ValueError: the copies of an image cannot be in one batch of one process, or a sample has more boxes than
                a batch has room for.
        """

    @abstractmethod
    def evaluation_batches(
        self, batch_size: int, preprocessing: Preprocessing, *, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        """Every example once over all processes, in order; each process yields the same number of batches.

        Args:
            batch_size: images per batch and process.
            preprocessing: the image size, channels, crop fraction and interpolation.
            process_index: which of `process_count` processes this is; each gets its own contiguous part.
            process_count: how many processes share the data set.

        Yields:
            As `train_batches`, all of one size: `mask` is False where an image cannot be read and where there is none
            (`index` -1), which fills up the last batches.

        Raises:
            FileNotFoundError: a file that was there when the data set was opened is gone.
            UnreadableImages: more images cannot be read than is allowed.
        """

    def _count(self, errors: Mapping[str, str]) -> None:
        """Take in the names of unreadable images, each with its error."""
        for name, error in errors.items():
            self._unreadable.setdefault(name)
            if len(self._unreadable) > self._allowed:
                shown = ', '.join(self.unreadable[:5]) + (', ...' if len(self._unreadable) > 5 else '')
                raise UnreadableImages(
                    f'{self.name} ({self.split}): {len(self._unreadable)} of {len(self)} images cannot be read, and '
                    f'{self._allowed} may be: {shown}. Repair or remove them, or raise max_unreadable. '
                    f'The last one: {error}'
                )


class RandomAccessDataset(Dataset):
    """A data set whose examples are read in any order, by Grain.

    One that decoded takes up to 256 MiB is decoded once and kept in memory.
    """

    def __init__(
        self, name: str, split: str, classes: tuple[str, ...], examples: Examples, max_unreadable: float
    ) -> None:
        super().__init__(name, split, classes, len(examples), max_unreadable)
        self._examples = examples
        self._numbers: Sequence[int] = range(len(classes))
        self._kept: dict[tuple[int, int], Sample] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {'_kept': {}, '_unreadable': {}}

    def renumbered(self, classes: Sequence[str]) -> 'RandomAccessDataset':
        """The same examples in the same order, labelled by the places of their classes in `classes`, the same names."""
        other = copy.copy(self)
        other.classes, other._kept, other._unreadable = tuple(classes), {}, {}
        other._numbers = [classes.index(self.classes[number]) for number in self._numbers]
        return other

    def encoded(self, index: int) -> bytes:
        """The encoded image of an example.

        Raises:
            UnreadableImage: its file cannot be read.
        """
        return _encoded(self._examples[index])

    def _is_kept(self, height: int, width: int, planes: int) -> bool:
        return height * width * planes * len(self) <= _KEPT_BYTES

    def _load(self, index: int, channels: int) -> Sample:
        """A sample, decoded if it is kept so, else as it is encoded."""
        if (index, channels) in self._kept:
            return self._kept[index, channels]
        sample = self._examples[index].renumbered(self._numbers)
        if isinstance(sample.image, np.ndarray):
            return sample  # It takes its memory already.
        encoded = _encoded(sample)
        sample = dataclasses.replace(sample, image=encoded)
        if self._is_kept(*image_size(encoded), channels + (sample.mask is not None)):
            sample = self._kept[index, channels] = decoded(sample, channels)
        return sample

    def _load_for_training(
        self, index: int, preprocessing: Preprocessing, augmentation: Augmentation, rng: np.random.Generator
    ) -> list[Batch]:
        sample = self._load(index, preprocessing.channels)
        return training_elements(sample, index, preprocessing, augmentation, rng, self.batch_format)

    def _missing(self, index: int) -> tuple[str, int]:
        """The name and the label of a sample that cannot be read.

        Raises:
            FileNotFoundError: its file is gone.
        """
        try:
            sample = self._examples[index]
        except UnreadableImage:
            return f'{self.name} {self.split} #{index}', 0
        check_present(sample)
        return sample.name, sample.renumbered(self._numbers).label or 0

    def train_batches(  # noqa: D102
        self,
        batch_size: int,
        preprocessing: Preprocessing,
        augmentation: Augmentation,
        *,
        seed: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        workers: int = 0,
    ) -> Generator[Batch]:
        check_share(batch_size, process_index, process_count, augmentation.repeated_augmentation)

        if workers < 0:
            raise ValueError(f'workers is {workers}: it has to be 0 (threads of this process) or more')

        def load(index: int, rng: np.random.Generator) -> Loaded:
            errors: dict[str, str] = {}
            for candidate in range(index, index + len(self)):
                position = candidate % len(self)
                try:
                    return Loaded(self._load_for_training(position, preprocessing, augmentation, rng), errors)
                except UnreadableImage as error:
                    errors[self._missing(position)[0]] = str(error)
            raise none_readable(self)

        elements = grain.MapDataset.range(len(self)).seed(seed).shuffle().repeat().random_map(load)
        images = batch_size // augmentation.repeated_augmentation
        batches = elements.batch(images, drop_remainder=True, batch_fn=_collate_loaded)  # There is no last one.
        return self._iterate(batches[start_step * process_count + process_index :: process_count], workers)

    def evaluation_batches(  # noqa: D102
        self, batch_size: int, preprocessing: Preprocessing, *, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        check_share(batch_size, process_index, process_count)
        share, length = evaluation_share(len(self), batch_size, process_index, process_count)

        def load(index: int) -> Loaded:
            if index not in share:
                return Loaded([blank_element(-1, preprocessing, self.batch_format)], {})
            try:
                sample = self._load(index, preprocessing.channels)
                return Loaded([evaluation_element(sample, index, preprocessing, self.batch_format)], {})
            except UnreadableImage as error:
                name, label = self._missing(index)
                return Loaded([blank_element(index, preprocessing, self.batch_format, label)], {name: str(error)})

        elements = grain.MapDataset.range(share.start, share.start + length).map(load)
        return self._iterate(elements.batch(batch_size, batch_fn=_collate_loaded), 0)

    def _iterate(self, batches: grain.MapDataset, workers: int) -> Generator[Batch]:
        with closing(read_ahead(batches, workers, READ_THREADS)) as loaded:
            for batch, errors in loaded:
                self._count(dict(errors))  # Here, as a worker knows only its own.
                yield batch


def none_readable(dataset: Dataset) -> UnreadableImages:
    """The error of a data set with no image that can be read."""
    return UnreadableImages(f'{dataset.name} ({dataset.split}): none of the {len(dataset)} images can be read')


def check_present(sample: Sample) -> None:
    """Tell an image that is gone from one that is damaged: raise a FileNotFoundError for it."""
    if isinstance(sample.image, Path) and not sample.image.exists():
        raise FileNotFoundError(
            f'{sample.image} was there at the beginning and is gone: is its disk still mounted? A run goes on with '
            'resume=True once it is back'
        )


def check_share(batch_size: int, process_index: int, process_count: int, copies: int = 1) -> None:
    """Refuse a batch or a process that cannot be."""
    if batch_size < 1:
        raise ValueError(f'batch_size is {batch_size}: it has to be 1 or more on each process')
    if batch_size % copies:
        raise ValueError(
            f'batch_size is {batch_size} on each process: it has to be a multiple of repeated_augmentation ({copies})'
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f'process_index is {process_index} of {process_count}: it counts from 0')


def evaluation_share(length: int, batch_size: int, process_index: int, process_count: int) -> tuple[range, int]:
    """A process's examples, and their number filled up to whole batches, the same on every process."""
    share = -(-length // process_count)
    start = min(process_index * share, length)
    return range(start, min(start + share, length)), -(-share // batch_size) * batch_size


def _encoded(sample: Sample) -> bytes:
    image = sample.image
    if isinstance(image, np.ndarray):
        raise TypeError(f'{sample.name} has decoded pixels: there is no file of it')
    try:
        return image if isinstance(image, bytes) else image.read_bytes()
    except OSError as error:
        raise UnreadableImage(f'cannot read {image!s} as an image: {error}') from error


def _collate_loaded(loaded: list[Loaded]) -> tuple[Batch, tuple[tuple[str, str], ...]]:
    elements = itertools.chain.from_iterable(one.elements for one in loaded)
    return collate(list(elements)), tuple(error for one in loaded for error in one.errors.items())
