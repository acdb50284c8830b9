"""What a trained model says of image files."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flaxmobile.data import Preprocessing, UnreadableImage, prepare_for_evaluation
from flaxmobile.data.folders import find_images, tell_passed_over
from flaxmobile.messages import printable
from flaxmobile.weights import Model
from flaxmobile.weights.model import predict_batch


def predict_files(model: Model, paths: Iterable[Path], top: int, batch_size: int = 32) -> list[dict[str, Any]]:
    """The `top` most probable classes of each image file, of a folder all images in it and in the folders within.

    Of a folder the same files are images as for a data set: hidden ones are passed over, and files that are no images,
    which a warning counts and names.

    One entry an image, in order: `{'image': path, 'predictions': [{'index': number, 'class': name, 'probability':
    share}, ...]}`, the name being None where it is not known; or `{'image': path, 'error': reason}` where it cannot be
    read. No more than `batch_size` images are in memory at once.

    Raises:
        FileNotFoundError: a folder holds no image.
        ValueError: `top` is not positive.
    """
    if top < 1:
        raise ValueError(f'top must be 1 or more, not {top}')
    if not model.num_classes:
        raise ValueError('this model has no classifier (num_classes=0), so it cannot name anything')
    files = list(_files(paths))
    batch_size = min(batch_size, max(1, len(files)))
    results = []
    for start in range(0, len(files), batch_size):
        part = [_read(path, model.preprocessing) for path in files[start : start + batch_size]]
        results += part
        good = [result for result in part if 'error' not in result]
        if not good:
            continue
        probabilities = predict_batch(model, np.stack([result.pop('pixels') for result in good]), batch_size)
        for result, row in zip(good, probabilities, strict=True):
            result['predictions'] = [_prediction(model, index, row) for index in np.argsort(-row, kind='stable')[:top]]
    return results


def _prediction(model: Model, index: int, probabilities: np.ndarray) -> dict[str, Any]:
    name = None if model.labels is None else model.labels[index]
    return {'index': int(index), 'class': name, 'probability': float(probabilities[index])}


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
