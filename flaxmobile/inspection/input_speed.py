"""How many images a second the input gives, stage by stage."""

import time
from collections.abc import Callable
from itertools import islice
from statistics import median
from typing import Any

import jax
import numpy as np

from flaxmobile.data import Dataset, Sample, prepare_for_training, read_image
from flaxmobile.data.batches import collate, training_elements
from flaxmobile.data.dataset import RandomAccessDataset
from flaxmobile.parallel.mesh import make_mesh, shard_batch
from flaxmobile.training.config import TrainConfig

_SAMPLE = 256


def measure_input(config: TrainConfig, images: Dataset, rounds: int) -> dict[str, float]:
    """Images a second of each stage of the training input.

    `read` gives encoded bytes, `decode` whole images, `augment` training images of those; `decode crop and augment` is
    what is done instead of the two, without the rows below the crop. `batch` stacks images, `transfer` moves a batch
    to the devices. These run in this thread, on up to 256 images of the data set; `all` is the whole input as a run
    has it, with its workers or threads, after the batches that were ready.

    Args:
        config: the run.
        images: what it trains on.
        rounds: how often each stage is timed, in turn with the others; medians count.

    Raises:
        ValueError: the images cannot be read in any order.
    """
    if not isinstance(images, RandomAccessDataset):
        raise ValueError(f'{images.name} is prepared as tfrecord: only sets read in any order are timed by stage')
    if rounds < 1:
        raise ValueError(f'rounds is {rounds}: it has to be 1 or more')
    stages, count = _stages(config, images)
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds):
        for name, work in stages.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    speeds = {name: count / median(times) for name, times in seconds.items()}
    return speeds | {'all': _whole(config, images, rounds)}


def _stages(config: TrainConfig, images: RandomAccessDataset) -> tuple[dict[str, Callable[[], Any]], int]:
    rng, mesh = np.random.default_rng(0), make_mesh()
    preprocessing, augmentation = config.preprocessing, config.augmentation
    count = max(1, min(len(images), _SAMPLE) // mesh.size) * mesh.size
    chosen = rng.choice(len(images), count, replace=count > len(images)).tolist()
    encoded = [images.encoded(index) for index in chosen]
    decoded = [read_image(content, preprocessing.channels) for content in encoded]
    elements = [
        element
        for index, pixels in zip(chosen, decoded, strict=True)
        for element in training_elements(Sample(pixels, 0), index, preprocessing, augmentation, rng)[:1]
    ]
    batch = collate(elements)
    stages: dict[str, Callable[[], Any]] = {
        'read': lambda: [images.encoded(index) for index in chosen],
        'decode': lambda: [read_image(content, preprocessing.channels) for content in encoded],
        'augment': lambda: [prepare_for_training(pixels, preprocessing, augmentation, rng) for pixels in decoded],
        'decode crop and augment': lambda: [
            prepare_for_training(content, preprocessing, augmentation, rng) for content in encoded
        ],
        'batch': lambda: collate(elements),
        'transfer': lambda: jax.block_until_ready(shard_batch(batch, mesh)),
    }
    return stages, count


def _whole(config: TrainConfig, images: Dataset, rounds: int) -> float:
    batches = images.train_batches(
        config.batch_size, config.preprocessing, config.augmentation, seed=config.seed, workers=config.workers
    )
    count = -(-_SAMPLE // config.batch_size)
    seconds = []
    for _ in islice(batches, 4 * count + 4 * config.workers):
        pass
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in islice(batches, count):
            pass
        seconds.append(time.perf_counter() - start)
    # The sum, as batches come in bursts.
    return rounds * count * config.batch_size / sum(seconds)
