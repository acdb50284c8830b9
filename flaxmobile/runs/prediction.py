"""What a trained model says of images."""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from flaxmobile.data import Preprocessing, UnreadableImage, prepare_for_evaluation
from flaxmobile.data.folders import find_images, tell_passed_over
from flaxmobile.messages import printable
from flaxmobile.models.inference import compiler_options, forward
from flaxmobile.weights import LoadedModel


def predict(loaded: LoadedModel, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """The probability of each class, float32 [images, classes].

    Args:
        loaded: the model.
        images: prepared for evaluation, uint8 [images, height, width, channels].
        batch_size: how many go through the network at once.
    """

    batch_size = min(batch_size, len(images))
    parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return np.concatenate([_predict(loaded, part, batch_size) for part in parts])


def _predict(loaded: LoadedModel, images: np.ndarray, batch_size: int) -> np.ndarray:
    padded = np.pad(images, [(0, batch_size - len(images)), (0, 0), (0, 0), (0, 0)])
    probabilities = _probabilities(loaded.model, loaded.preprocessing)
    return np.asarray(probabilities(loaded.variables, padded))[: len(images)]


@functools.lru_cache(maxsize=8)
def _probabilities(model: nn.Module, preprocessing: Preprocessing) -> Callable[[Any, np.ndarray], jax.Array]:
    platform = jax.default_backend()

    def probabilities(variables: Any, batch: jax.Array) -> jax.Array:
        logits = forward(model, variables, preprocessing.normalize(batch), platform=platform)
        return jax.nn.softmax(logits.astype(jnp.float32))

    return jax.jit(probabilities, compiler_options=compiler_options(platform))


def predict_files(loaded: LoadedModel, paths: Iterable[Path], top: int, batch_size: int = 32) -> list[dict[str, Any]]:
    """The `top` most probable classes of each image file, of a folder all images in it and in the folders within.

    Of a folder the same files are images as for a data set: hidden ones are passed over, and files that are no images,
    which a warning counts and names.

    One entry an image, in order: `{'image': path, 'predictions': [{'class': name, 'probability': share}, ...]}`, or
    `{'image': path, 'error': reason}` where it cannot be read. No more than `batch_size` images are in memory at once.

    Raises:
        FileNotFoundError: a folder holds no image.
        ValueError: `top` is not positive.
    """
    if top < 1:
        raise ValueError(f'top must be 1 or more, not {top}')
    if not loaded.classes:
        raise ValueError('this model has no classifier (num_classes=0), so it cannot name anything')
    files = list(_files(paths))
    batch_size = min(batch_size, max(1, len(files)))
    results = []
    for start in range(0, len(files), batch_size):
        part = [_read(path, loaded.preprocessing) for path in files[start : start + batch_size]]
        results += part
        good = [result for result in part if 'error' not in result]
        if not good:
            continue
        probabilities = _predict(loaded, np.stack([result.pop('pixels') for result in good]), batch_size)
        for result, row in zip(good, probabilities, strict=True):
            order = np.argsort(-row, kind='stable')[:top]
            result['predictions'] = [{'class': loaded.classes[k], 'probability': float(row[k])} for k in order]
    return results


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = find_images(path)
        told = tell_passed_over(path, found.others)
        if not (found.images or found.unread):
            raise FileNotFoundError(f'the folder {printable(path)} holds no image' + (f'; {told}' if told else ''))
        if told:
            warnings.warn(told, stacklevel=4)
        yield from sorted([*found.images, *found.unread])


def _read(path: Path, preprocessing: Preprocessing) -> dict[str, Any]:
    try:
        pixels = prepare_for_evaluation(path, preprocessing)
    except UnreadableImage as error:
        return {'image': str(path), 'error': str(error)}
    return {'image': str(path), 'pixels': pixels}
