"""The contact sheet's pictures against the images they are of, and what is said of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flaxmobile.data import load_dataset
from flaxmobile.inspection import preview
from flaxmobile.training.config import TrainConfig, load_config

PLAIN = {'crop_scale': (1.0, 1.0), 'crop_ratio': (1.0, 1.0), 'flip': False}


def mini(**changes: object) -> TrainConfig:
    return load_config('fashion_mnist_mini').with_options(**changes)


@pytest.fixture
def first() -> np.ndarray:
    """The first five training images."""
    dataset = load_dataset('fashion_mnist_mini', 'train[:5]')
    return next(dataset.evaluation_batches(5, mini().preprocessing))['image']


def test_rows_hold_the_image_and_its_variants(first):
    originals, columns = preview.read_columns(mini(**PLAIN), 5)
    np.testing.assert_array_equal(originals.images, first)
    assert originals.captions == ['T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat']
    assert len(columns) == preview.VARIANTS
    for column in columns:
        np.testing.assert_array_equal(column.images, first)
    _, varied = preview.read_columns(mini(), 5)
    assert len({column.images.tobytes() for column in varied}) == preview.VARIANTS


@pytest.mark.slow
def test_mixed_images_are_said_to_be_what_they_are(first):
    """The share is read off the pixels by least squares; for CutMix by counting."""
    _, columns = preview.read_columns(mini(**PLAIN, mixup_alpha=1.0, cutmix_alpha=1.0), 5)
    before = np.roll(first, 1, axis=0)
    methods = set()
    for column in columns:
        methods.add(column.note)
        said = float(column.captions[1].split(' %')[0]) / 100
        assert [part.split(' % ')[1] for part in column.captions[1].split('\n')] == ['Trouser', 'T-shirt/top']
        difference = first.astype(float) - before
        if column.note == 'Mixup':
            share = (difference * (column.images - before.astype(float))).sum() / (difference**2).sum()
            assert said == pytest.approx(share, abs=0.01)
        else:
            taken = np.all((column.images == before) | (difference == 0), axis=0)
            kept = np.all((column.images == first) | (difference == 0), axis=0)
            assert np.all(taken | kept)
            told = np.any(difference != 0, axis=0)
            assert np.abs((kept & told).sum() / told.sum() - said) < 0.2
    assert methods == {'Mixup', 'CutMix'}


def test_a_batch_normalised_and_back_is_the_batch(first):
    preprocessing = mini().preprocessing
    np.testing.assert_array_equal(preprocessing.denormalize(preprocessing.normalize(first)), first)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({}, 'crops of 70 to 100 % of the area · half mirrored · bicubic'),
        (PLAIN | {'auto_augment': 'trivialaugment'}, 'crops of 100 % of the area · TrivialAugment · bicubic'),
        (
            PLAIN | {'auto_augment': 'randaugment', 'randaugment_magnitude_std': 0.5, 'randaugment_increasing': True},
            'crops of 100 % of the area · RandAugment of 2 layers, magnitude 9 ± 0.5, increasing · bicubic',
        ),
        (
            PLAIN
            | {
                'auto_augment': 'randaugment',
                'randaugment_magnitude_std': float('inf'),
                'color_jitter': 0.4,
                'random_erasing': 0.25,
                'mixup_alpha': 0.2,
                'cutmix_alpha': 1,
                'repeated_augmentation': 4,
                'train_interpolation': 'random',
            },
            'crops of 100 % of the area · RandAugment of 2 layers, magnitude 0 to 9 · colour jitter 0.4 · '
            'random erasing of 25 % · Mixup of Beta(0.2, 0.2) · CutMix of Beta(1, 1) · each 4 times in a batch · '
            'bilinear or bicubic',
        ),
    ],
)
def test_the_recipe_in_words(changes, words):
    assert ' · '.join(preview.recipe(mini(**changes))) == words


def test_the_command_writes_a_picture(command, tmp_path: Path):
    output = tmp_path / 'sheet.png'
    words = ['--auto-augment', 'randaugment', '--cutmix-alpha', '1', '--train-image-size', '20']
    status, out, _ = command('preview', 'fashion_mnist_mini', '--output', output, '--images', '3', *words)
    assert (status, out) == (0, f'{output}\n')
    with Image.open(output) as picture:
        assert picture.format == 'PNG'
        assert min(picture.size) > 600
        assert len(np.unique(np.asarray(picture.convert('L')))) > 100


def test_a_folder_with_a_broken_image_and_few_of_them(tmp_path: Path, command):
    for name, colour in (('cat', 'red'), ('dog', 'blue')):
        (tmp_path / 'photos' / name).mkdir(parents=True)
        for number in range(3):
            Image.new('RGB', (50, 40), colour).save(tmp_path / 'photos' / name / f'{number}.png')
    (tmp_path / 'photos' / 'cat' / '0.png').write_bytes(b'broken')
    words = ['--dataset', tmp_path / 'photos', '--images', '99', '--train-split', 'train', '--image-size', '32']
    status, _, err = command('preview', 'image_folder', '--output', tmp_path / 'sheet.png', *words)
    assert status == 0, err
    assert (tmp_path / 'sheet.png').is_file()


@pytest.mark.parametrize(
    ('words', 'wanted'),
    [
        (['--output', 'sheet.jpg'], 'sheet.jpg does not end in .png'),
        (['--images', '0'], 'images is 0: it has to be 1 or more'),
        (['--auto-augment', 'randaugmet'], 'randaugmet'),
        (['--dataset', './nowhere'], 'there is no folder ./nowhere'),
    ],
)
def test_wrong_input_is_said_and_nothing_is_written(command, words, wanted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = command('preview', 'fashion_mnist_mini', *words)
    assert status == 2
    assert wanted in out + err
    assert not list(tmp_path.iterdir())
