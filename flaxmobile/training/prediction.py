"""What a trained model says of images."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmobile.data import Preprocessing, UnreadableImage, prepare_for_evaluation, read_image
from flaxmobile.data.folders import SUFFIXES
from flaxmobile.weights import LoadedModel


def predict(loaded: LoadedModel, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """The probability of each class, float32 [images, classes].

    Args:
        loaded: the model.
        images: prepared for evaluation, uint8 [images, height, width, channels].
        batch_size: how many go through the network at once.
    """

    @jax.jit
    def probabilities(variables: Any, batch: jax.Array) -> jax.Array:
        logits = loaded.model.apply(variables, loaded.preprocessing.normalize(batch))
        return jax.nn.softmax(jnp.asarray(logits, jnp.float32))

    batch_size = min(batch_size, len(images))
    parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    padded = [np.pad(part, [(0, batch_size - len(part)), (0, 0), (0, 0), (0, 0)]) for part in parts]
    return np.concatenate([np.asarray(probabilities(loaded.variables, part)) for part in padded])[: len(images)]


def predict_files(loaded: LoadedModel, paths: Iterable[Path], top: int, batch_size: int = 32) -> list[dict[str, Any]]:
    """The `top` most probable classes of each image file, of a folder all that are in it.

    One entry an image, in order: `{'image': path, 'predictions': [{'class': name, 'probability': share}, ...]}`, or
    `{'image': path, 'error': reason}` where it cannot be read.

    Raises:
        FileNotFoundError: a folder holds no image.
        ValueError: `top` is not positive.
    """
    if top < 1:
        raise ValueError(f'top must be 1 or more, not {top}')
    results = [_read(path, loaded.preprocessing) for path in _files(paths)]
    good = [result for result in results if 'error' not in result]
    if good:
        probabilities = predict(loaded, np.stack([result.pop('pixels') for result in good]), batch_size)
        for result, row in zip(good, probabilities, strict=True):
            order = np.argsort(-row, kind='stable')[:top]
            result['predictions'] = [{'class': loaded.classes[k], 'probability': float(row[k])} for k in order]
    return results


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob('*') if file.suffix.lower() in SUFFIXES and file.is_file())
        if not found:
            raise FileNotFoundError(f'the folder {path} holds no image ({", ".join(SUFFIXES)})')
        yield from found


def _read(path: Path, preprocessing: Preprocessing) -> dict[str, Any]:
    try:
        pixels = prepare_for_evaluation(read_image(path, preprocessing.channels), preprocessing)
    except UnreadableImage as error:
        return {'image': str(path), 'error': str(error)}
    return {'image': str(path), 'pixels': pixels}
