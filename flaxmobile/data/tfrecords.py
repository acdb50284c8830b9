"""Data sets that TFDS prepared as tfrecord files: TensorFlow reads and shuffles bytes, our own code does the rest."""

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from flaxmobile.data.batches import Batch, blank_element, collate, evaluation_element, training_elements
from flaxmobile.data.dataset import READ_THREADS, Dataset, check_share, evaluation_share, none_readable
from flaxmobile.data.images import UnreadableImage
from flaxmobile.data.preprocessing import Augmentation, Preprocessing
from flaxmobile.data.sample import Sample

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
import tensorflow as tf

_SHUFFLE_BUFFER = 8192
_FILES_AT_ONCE = 16

Parse = Callable[[bytes, str], Sample]
"""Makes a sample of a record and of what it is called."""


class Piece(NamedTuple):
    """`take` records of a file after `skip`; the first is example number `start`."""

    path: str
    skip: int
    take: int
    start: int


class TfrecordDataset(Dataset):
    """A data set that is read in the order of its files.

    Each process reads a contiguous part. Training reads up to 16 files of it at once, in a new order each epoch,
    through a shuffle buffer of 8192 encoded images; going on in the middle of an epoch reads what came before in it.
    """

    def __init__(
        self,
        name: str,
        split: str,
        classes: tuple[str, ...],
        file_instructions: Sequence[Any],
        parse: Parse,
        max_unreadable: float,
    ) -> None:
        starts = list(itertools.accumulate((file.take for file in file_instructions), initial=0))
        super().__init__(name, split, classes, starts[-1], max_unreadable)
        self._pieces = [
            Piece(os.fspath(file.filename), file.skip, file.take, start)
            for file, start in zip(file_instructions, starts, strict=False)
        ]
        self._parse = parse
        # JAX has the accelerators: TensorFlow would take all their memory.
        with contextlib.suppress(RuntimeError):  # TensorFlow was in use before.
            for kind in ('GPU', 'TPU'):
                tf.config.set_visible_devices([], kind)

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
        if workers:
            raise ValueError(
                f'{self.name} is prepared as tfrecord, which threads of this process decode: workers is {workers} and '
                'has to be 0. Prepared as array_record, worker processes could read it'
            )
        check_share(batch_size, process_index, process_count, augmentation.repeated_augmentation)
        bounds = [len(self) * process // process_count for process in (process_index, process_index + 1)]
        pieces = cut(self._pieces, range(*bounds))
        if not pieces:
            raise ValueError(f'{self.name} ({self.split}) has {len(self)} images for {process_count} processes')

        def load(item: tuple[int, int, bytes]) -> list[Batch] | None:
            place, index, record = item
            sample = self._sample(index, record)
            rng = np.random.default_rng((seed, process_index, place))
            try:
                return training_elements(sample, index, preprocessing, augmentation, rng, self.batch_format)
            except UnreadableImage as error:
                self._count({sample.name: str(error)})
                return None

        images = batch_size // augmentation.repeated_augmentation
        records = _shuffled(pieces, bounds[1] - bounds[0], seed, start_step * images)
        copies = self._next_readable(_in_order(load, records, 2 * images + READ_THREADS))
        return _batches(itertools.chain.from_iterable(copies), batch_size)

    def evaluation_batches(  # noqa: D102
        self, batch_size: int, preprocessing: Preprocessing, *, process_index: int = 0, process_count: int = 1
    ) -> Iterator[Batch]:
        check_share(batch_size, process_index, process_count)
        share, length = evaluation_share(len(self), batch_size, process_index, process_count)

        def load(item: tuple[int, bytes]) -> Batch:
            index, sample = item[0], self._sample(*item)
            try:
                return evaluation_element(sample, index, preprocessing, self.batch_format)
            except UnreadableImage as error:
                self._count({sample.name: str(error)})
                return blank_element(index, preprocessing, self.batch_format, sample.label or 0)

        pieces = cut(self._pieces, share)
        records = _records(pieces, 1).as_numpy_iterator() if pieces else iter(())
        elements = _in_order(load, records, 2 * batch_size + READ_THREADS)
        filling = itertools.repeat(blank_element(-1, preprocessing, self.batch_format), length - len(share))
        return _batches(itertools.chain(elements, filling), batch_size)

    def _next_readable(self, elements: Iterable[list[Batch] | None]) -> Iterator[list[Batch]]:
        missing = 0
        for element in elements:
            if element is not None:
                yield from itertools.repeat(element, missing + 1)
                missing = 0
            elif (missing := missing + 1) > len(self):
                raise none_readable(self)

    def _sample(self, index: int, record: bytes) -> Sample:
        return self._parse(record, f'{self.name} {self.split} #{index}')


def cut(pieces: Iterable[Piece], part: range) -> list[Piece]:
    """The pieces that hold the examples of `part`."""
    found = []
    for piece in pieces:
        first, last = max(part.start, piece.start), min(part.stop, piece.start + piece.take)
        if first < last:
            found.append(Piece(piece.path, piece.skip + first - piece.start, last - first, first))
    return found


def _records(pieces: Sequence[Piece], files_at_once: int) -> 'tf.data.Dataset':
    """(number of the example, its record), in an order that follows from the arguments."""

    def read(path: Any, skip: Any, take: Any, start: Any) -> Any:
        return tf.data.TFRecordDataset(path, buffer_size=2**20).skip(skip).take(take).enumerate(start)

    paths, *numbers = zip(*pieces, strict=True)
    columns = (list(paths), *(np.asarray(column, np.int64) for column in numbers))
    return tf.data.Dataset.from_tensor_slices(columns).interleave(
        read, cycle_length=files_at_once, num_parallel_calls=files_at_once, deterministic=True
    )


def _shuffled(pieces: Sequence[Piece], length: int, seed: int, position: int) -> Iterator[tuple[int, int, bytes]]:
    """(place, number of the example, its record) from `position` of the endless stream on."""
    for epoch in itertools.count(position // length):
        rng = np.random.default_rng((seed, epoch))
        order = [pieces[place] for place in rng.permutation(len(pieces))]
        records = _records(order, _FILES_AT_ONCE).shuffle(
            _SHUFFLE_BUFFER, seed=int(rng.integers(2**31)), reshuffle_each_iteration=False
        )
        done = max(0, position - epoch * length)
        numbered = records.skip(done).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
        for place, (index, record) in enumerate(numbered, epoch * length + done):
            yield place, int(index), record


def _in_order(load: Callable[[Any], Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """`map(load, items)` on several threads, `ahead` items in advance."""
    items, pool = iter(items), ThreadPoolExecutor(READ_THREADS)
    waiting: deque[Future] = deque()
    try:
        waiting.extend(pool.submit(load, item) for item in itertools.islice(items, ahead))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(load, item) for item in itertools.islice(items, 1))
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=False)


def _batches(elements: Iterator[Batch], batch_size: int) -> Generator[Batch]:
    while batch := list(itertools.islice(elements, batch_size)):
        yield collate(batch)
