"""A run goes on with the images, the classes and the teacher that it began with, or not at all."""

import dataclasses
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_loop import contents
from tiny_run import LENGTHS

from flaxmobile.runs import folder as run
from flaxmobile.runs import splits
from flaxmobile.runs.training import prepare_folder, train
from flaxmobile.training.config import TrainConfig


def test_other_images_than_at_the_beginning(
    tiny: TrainConfig, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(finished_run)
    monkeypatch.setitem(LENGTHS, 'train', 97)
    with pytest.raises(ValueError, match='other images: those of the train split were 96 images and are 97 images'):
        train(tiny, finished_run, resume=True)
    assert contents(finished_run) == before


def test_other_classes_than_at_the_beginning(tiny: TrainConfig, tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD'))
    run.RunDescription(tiny, ('bar', apart), {}).write(tmp_path)
    run.check_data(tmp_path, run.RunDescription(tiny, ('bar', composed), {}))  # One name, written in two ways.
    with pytest.raises(ValueError, match=r'trained on other classes: they were 2 and are 2 \(in another order\)'):
        run.check_data(tmp_path, run.RunDescription(tiny, (composed, 'bar'), {}))


def folder_run(root: Path | str) -> tuple[TrainConfig, run.RunDescription]:
    """The configuration and the description of a run on a folder of images."""
    parts = {'train_split': 'train[:60%]', 'validation_split': 'train[60%:]', 'test_split': 'test'}
    config = TrainConfig(model='mobilenetv1_025', dataset=str(root), **parts)
    data = splits.load_splits(config.data_plan)
    return config, run.RunDescription(config, data.train.classes, splits.fingerprints(data))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images of two classes."""
    rng = np.random.default_rng(0)
    for label in ('cat', 'dog'):
        (tmp_path / 'images' / label).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 255, (4, 4, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / 'images' / label / f'{number}.png')
    return tmp_path / 'images'


def test_a_folder_of_images_may_move(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known by what is in it, however it is written; afterwards the run knows where it is."""
    run_dir = tmp_path / 'run'
    config, before = folder_run(images)
    before.write(run_dir)
    monkeypatch.chdir(tmp_path)
    moved = images.rename(tmp_path / 'moved')
    for root in ('./moved/', str(moved), 'moved'):
        config, now = folder_run(root)
        run.check_folder(run_dir, config, resume=True, overwrite=False)
        run.check_data(run_dir, now)
        prepare_folder(run_dir, now, resume=True, overwrite=False)
        assert run.read_description(run_dir) == now


def test_a_folder_of_other_images_is_told_from_one_that_moved(images: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / 'run'
    folder_run(images)[1].write(run_dir)
    for change, words in (
        (
            lambda root: (root / 'cat/0.png').rename(root / 'cat/other.png'),
            r'(train|validation|test) split were .*names',
        ),
        (
            lambda root: shutil.copy(root / 'dog/1.png', root / 'dog/0.png'),
            r'(train|validation|test) split were .*contents',
        ),
        (lambda root: (root / 'cat').rename(root / 'cow'), r'they were 2 and are 2 \(gone: cat; new: cow\)'),
    ):
        other = shutil.copytree(images, tmp_path / f'other {words[:9]}{len(words)}')
        change(other)
        with pytest.raises(ValueError, match=rf'{words}.*the data set was .*images and is .*other'):
            run.check_data(run_dir, folder_run(other)[1])


def test_another_data_set_by_name_is_another_configuration(tiny: TrainConfig, finished_run: Path) -> None:
    """Two of TFDS may have as many images, of the same version."""
    before = contents(finished_run)
    with pytest.raises(ValueError, match=r'another configuration \(dataset was blobs and is drops\)'):
        train(dataclasses.replace(tiny, dataset='drops'), finished_run, resume=True)
    assert contents(finished_run) == before


def test_another_teacher_than_at_the_beginning(tiny: TrainConfig, tmp_path: Path) -> None:
    taught = dataclasses.replace(tiny, teacher='runs/large')
    run.RunDescription(taught, ('cat', 'dog'), {}, 1).write(tmp_path)
    run.check_data(tmp_path, run.RunDescription(taught, ('cat', 'dog'), {}, 1))
    run.check_data(tmp_path, run.RunDescription(dataclasses.replace(taught, teacher='moved'), ('cat', 'dog'), {}, 1))
    with pytest.raises(ValueError, match=r'has learnt from other weights than those of runs/large now \(teacher was'):
        run.check_data(tmp_path, run.RunDescription(taught, ('cat', 'dog'), {}, 2))
