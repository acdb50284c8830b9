"""Parts of a data set that share images."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from flaxmobile.runs.splits import load_splits
from flaxmobile.training.config import load_config

CONFIG = load_config('image_folder')


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten images of each of two classes for training, and five of each for testing."""
    root = tmp_path_factory.mktemp('photos')
    for split, count in (('train', 10), ('test', 5)):
        for name in ('cat', 'dog'):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(root / split / name / f'{number}.png')
    return str(root)


@pytest.mark.parametrize(
    ('train', 'validation', 'test', 'message'),
    [
        ('train', 'train[90%:]', 'test', r"2 of the 2 images of validation_split 'train\[90%:\]'"),
        ('train[:15]', 'train[12:]', 'test', '3 of the 8 images of validation_split'),
        ('train[:50%]+test[:2]', 'train[50%:]', 'test', "2 of the 10 images of test_split 'test'"),
    ],
)
def test_training_images_are_not_tested_on(photos: str, train: str, validation: str, test: str, message: str) -> None:
    config = dataclasses.replace(
        CONFIG, dataset=photos, train_split=train, validation_split=validation, test_split=test
    )
    with pytest.raises(ValueError, match=message):
        load_splits(config.data_plan)


def test_parts_that_share_nothing(photos: str) -> None:
    config = dataclasses.replace(CONFIG, dataset=photos, validation_split='train[90%:]', test_split='train[90%:]')
    assert [len(images) for images in load_splits(config.data_plan)] == [18, 2, 2]


def test_the_embedded_set() -> None:
    config = dataclasses.replace(CONFIG, dataset='fashion_mnist_mini', train_split='train', validation_split='test')
    assert [len(images) for images in load_splits(config.data_plan)] == [10_000, 2_000, 2_000]
    with pytest.raises(ValueError, match='10 of the 10 images of validation_split'):
        load_splits(dataclasses.replace(config.data_plan, validation_split='train[:10]'))
