"""ImageNet-like JPEGs to training batches: random resized crop to 224, flip, uint8; each library as it recommends."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.worker import Case

SIZE, HEIGHT, WIDTH, QUALITY = 224, 375, 500, 90
Work = tuple[Callable[[], Any], np.ndarray]


def make_photographs(folder: Path, count: int) -> None:
    """Fill `folder` with two classes of photographs of 500x375 pixels: parts of those that come with scikit."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    photographs = [*load_sample_images().images, data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    rng = np.random.default_rng(0)
    for number in range(count):
        image = Image.fromarray(photographs[number % len(photographs)])
        height = int(min(image.height, image.width * HEIGHT / WIDTH) * rng.uniform(0.6, 1))
        width = height * WIDTH // HEIGHT
        left, top = (int(rng.integers(room + 1)) for room in (image.width - width, image.height - height))
        part = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, (left, top, left + width, top + height))
        path = folder / f'class{number % 2}' / f'{number:04}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        part.save(path, quality=QUALITY)


def _endless(batches: Iterator[Any]) -> Work:
    first = np.asarray(next(batches))
    if first.dtype != np.uint8:
        raise TypeError(f'its batches are {first.dtype}')
    return lambda: next(batches), np.sort(first.shape)


def ours(case: Case, folder: str, workers: bool) -> Work:
    """flaxmobile: Grain and Pillow, in threads or in worker processes."""
    from flaxmobile.data import Augmentation, Preprocessing, load_dataset

    batches = load_dataset(folder, 'train').train_batches(
        case.batch,
        Preprocessing(SIZE, interpolation='bilinear'),
        Augmentation(),
        seed=0,
        workers=case.threads if workers else 0,
    )
    return _endless(batch['image'] for batch in batches)


def torch_loader(case: Case, folder: str) -> Work:
    """torch's DataLoader and torchvision's transforms: Pillow in worker processes."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    loader = DataLoader(
        ImageFolder(folder, transforms.Compose(steps)),
        case.batch,
        shuffle=True,
        num_workers=case.threads,
        drop_last=True,
        persistent_workers=True,
    )
    return _endless(images for _ in itertools.count() for images, _ in loader)


def tf_data(case: Case, folder: str, antialias: bool) -> Work:
    """tf.data: the crop alone is decoded, in threads."""
    import tensorflow as tf

    def prepare(path: Any) -> Any:
        content = tf.io.read_file(path)
        shape = tf.io.extract_jpeg_shape(content)
        start, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros((1, 0, 4)),
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([start[:2], size[:2]], 0)
        image = tf.image.decode_and_crop_jpeg(content, window, channels=3)
        image = tf.image.resize(image, (SIZE, SIZE), antialias=antialias)
        return tf.cast(tf.round(tf.image.random_flip_left_right(image)), tf.uint8)

    paths = sorted(str(path) for path in Path(folder).rglob('*.jpg'))
    options = tf.data.Options()
    options.threading.private_threadpool_size = case.threads
    images = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat().map(prepare, case.threads)
    return _endless(images.batch(case.batch).prefetch(2).with_options(options).as_numpy_iterator())
