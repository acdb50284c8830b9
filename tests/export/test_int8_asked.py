"""What is refused of an int8 export, what is said of one, and which images a folder gives to calibrate on."""

import contextlib
import io
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_networks import SIZE, small
from tiny_run import Blobs, blobs

from flaxmobile.data import Preprocessing
from flaxmobile.export import Int8, calibration, export
from flaxmobile.export.calibration import read_images
from flaxmobile.export.checks import FLOAT16_TOLERANCE, Answer, Int8Check, Runtime, write_checked

PIXELS = np.zeros((16, SIZE, SIZE, 3), np.uint8)
WANTED = np.eye(4, dtype=np.float32)[[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ('name', 'options', 'words'),
    [
        ('a.tflite', {'int8': Int8(PIXELS), 'float16': True}, 'int8=... and float16=True are two kinds'),
        ('a.jax', {'int8': Int8(PIXELS)}, r'a.jax: int8=... goes with a .tflite or .onnx file alone'),
        ('a.onnx', {'int8': Int8(PIXELS, int8_io=True)}, 'int8_io=True goes with a .tflite file'),
        ('a.onnx', {'int8': Int8(PIXELS, 'mse')}, 'observer=mse goes with a .tflite file'),
        ('a.tflite', {'int8': Int8(PIXELS[:, :9])}, r'calibration are uint8 \[16, 9, 48, 3\]: give'),
        ('a.tflite', {'int8': True}, r'int8 must be flaxmobile.export.Int8\(calibration=pixels\), not True$'),
        ('a.onnx', {'int8': PIXELS}, r'int8 must be flaxmobile.export.Int8\(calibration=pixels\), not array\('),
    ],
)
def test_bad_input_is_refused(name: str, options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        export(small('short'), tmp_path / name, **options)
    assert len(str(refused.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('count', [0, 15])
def test_few_images_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f'^calibration has {count} images, and 16 at least are needed'):
        Int8(PIXELS[:count])


def test_one_shared_image_is_not_held_out() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), np.uint8)
    asked = Int8(pixels[:16])
    assert asked.held_out(pixels[16:])
    assert not asked.held_out(pixels[15:])
    assert not asked.held_out(None)  # Then it is compared on those of calibration.


def checked(path: Path, got: np.ndarray, held_out: bool = True, classes: bool = True) -> Int8Check | None:
    runtime = Runtime('numpy', 'numpy', lambda content, images: (got, 1))
    known = Int8Check(0.75, held_out=held_out)
    return write_checked(
        path, b'file', {}, answer=Answer(WANTED, WANTED, classes=classes), runtime=runtime, int8=known
    ).int8


def test_a_float16_file_may_be_off_by_three_hundredths(tmp_path: Path) -> None:
    for scale, name in ((1.029, 'a'), (1.031, 'b')):
        runtime = Runtime('numpy', 'numpy', lambda content, images, scale=scale: (WANTED * scale, 1))
        told = {'answer': Answer(WANTED, WANTED), 'runtime': runtime, 'tolerance': FLOAT16_TOLERANCE}
        with pytest.raises(ValueError, match='answers otherwise') if name == 'b' else contextlib.nullcontext():
            write_checked(tmp_path / name, b'file', {}, **told)
    assert [path.name for path in tmp_path.iterdir()] == ['a']


def test_agreement_is_the_share_of_equal_first_answers(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert checked(tmp_path / 'a', WANTED * 3 - 1, held_out=False) == Int8Check(0.75, 4, False, 1.0)
        assert checked(tmp_path / 'b', WANTED * 1.19, classes=False) == Int8Check(0.75, 4, True, None)


def test_a_low_agreement_is_said_and_the_file_written(tmp_path: Path) -> None:
    path, got = tmp_path / 'a', WANTED[[0, 1, 3, 3]]
    with pytest.warns(UserWarning, match=r"a: its first answer is the float model's on only 75.0% of 4 images"):
        assert checked(path, got) == Int8Check(0.75, 4, True, 0.75)
    assert path.read_bytes() == b'file'


def test_without_classes_a_great_error_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r'a: the largest error on 4 images is 0.21 of the largest answer$'):
        checked(tmp_path / 'a', WANTED * 1.21, classes=False)


@pytest.mark.parametrize('wrong', [WANTED * np.nan, WANTED[:3]])
def test_an_int8_file_without_an_answer_is_not_written(wrong: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='answers otherwise'):
        checked(tmp_path / 'a', wrong)
    assert list(tmp_path.iterdir()) == []


PREPROCESSING = Preprocessing(8, 1, (0.5,), (0.5,), crop_fraction=1.0)


def folder_of(path: Path, count: int) -> Path:
    """Images of one grey each, 0 and up, in two folders."""
    for number in range(count):
        file = path / str(number % 2) / f'{number}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(file)
    return path


@pytest.mark.parametrize(
    ('there', 'asked', 'calibrated', 'compared'),
    [(16, 100, 16, 0), (18, 100, 16, 2), (40, 100, 32, 8), (40, 20, 20, 20), (130, 16, 16, 100)],
)
def test_a_folder_is_divided(there: int, asked: int, calibrated: int, compared: int, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / 'photos', there)
    parts = read_images(str(folder), PREPROCESSING, asked)
    assert [(part.dtype, part.shape) for part in parts] == [
        (np.uint8, (calibrated, 8, 8, 1)),
        (np.uint8, (compared, 8, 8, 1)),
    ]
    greys = [part[:, 0, 0, 0].tolist() for part in parts]
    assert len({*greys[0], *greys[1]}) == calibrated + compared  # None is in both.
    assert greys[0] != sorted(greys[0])  # They are drawn, not the first by name.
    again = read_images(str(folder), PREPROCESSING, asked)
    np.testing.assert_array_equal(np.concatenate(parts), np.concatenate(again))


def test_an_image_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / 'photos', 17)
    (folder / '0' / '0.png').write_bytes(b'no image')
    with pytest.warns(UserWarning, match=r'left out, as it cannot be read: .*photos/0/0\.png'):
        calibrated, compared = read_images(str(folder), PREPROCESSING, 100)
    assert (len(calibrated), len(compared)) == (16, 0)
    assert sorted(calibrated[:, 0, 0, 0].tolist()) == list(range(1, 17))


@pytest.mark.parametrize(
    ('there', 'asked', 'words'),
    [
        (0, 100, 'photos holds no image that can be read'),
        (2, 100, 'photos has 2 images, and 16 at least are needed .* 48 to 100 are usual'),
        (16, 3, 'calibration_images=3 is too few: 16 at least'),
    ],
)
def test_too_few_images_are_refused(there: int, asked: int, words: str, tmp_path: Path) -> None:
    folder = tmp_path / 'photos'
    folder.mkdir()
    folder_of(folder, there)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read_images(str(folder), PREPROCESSING, asked)


def test_what_a_folder_holds_besides_is_told_by_kind(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / 'photos', 16)
    for name in ('b.heic', 'a.heic'):
        (folder / '1' / name).write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic')
    (folder / 'notes.txt').touch()
    told = (
        r'photos: passed over files that are no images: 1 \(notes\.txt\); '
        r'images of a kind that is not read, HEIC: 2 \(1/a\.heic, 1/b\.heic\)$'
    )
    with pytest.warns(UserWarning, match=told):
        assert len(read_images(str(folder), PREPROCESSING, 100)[0]) == 16
    shutil.rmtree(folder / '0')
    for file in folder.glob('1/*.png'):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=f'photos holds no image that can be read; .*{told}'):
        read_images(str(folder), PREPROCESSING, 100)


def test_no_name_is_not_the_folder_that_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_of(tmp_path, 16))
    with pytest.raises(ValueError, match=r"^what is to be calibrated on has the name '': name a folder of images"):
        read_images('', PREPROCESSING, 16)


def test_of_a_bare_name_the_data_set_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('cifar10', 'photos'):
        folder_of(tmp_path / name, 16)
    with pytest.raises(FileNotFoundError, match=r'^cifar10 is not prepared .* folder of this name write \./cifar10$'):
        read_images('cifar10', PREPROCESSING, 16, str(tmp_path / 'sets'))
    for folder in ('./cifar10', 'photos'):
        assert len(read_images(folder, PREPROCESSING, 16, str(tmp_path / 'sets'))[0]) == 16


def test_a_data_set_gives_its_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, 'load_dataset', blobs)
    calibrated, compared = read_images('blobs', PREPROCESSING, 70)
    own = [np.asarray(Image.open(io.BytesIO(bytes(Blobs('train')[index].image)))) for index in range(96)]
    np.testing.assert_array_equal(np.concatenate([calibrated, compared])[..., 0], own)
    assert (len(calibrated), len(compared)) == (70, 26)
