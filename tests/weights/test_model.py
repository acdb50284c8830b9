"""A model with all that is needed to use it: what it answers, what it says of itself, and what is no model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from PIL import Image

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile import weights
from flaxmobile.data import Preprocessing
from flaxmobile.layers import fold_batch_norm
from flaxmobile.weights import Model, formats
from flaxmobile.weights.class_names import in_order, label_positions
from flaxmobile.weights.formats import safetensors_file

NAME = 'mobilenetv1_025'
PREPROCESSING = Preprocessing(32, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))


def make(num_classes: int = 3, **fields: Any) -> Model:
    module = flaxmobile.create_model(NAME, num_classes=num_classes)
    return Model(module, random_variables(module, (1, 32, 32, 3)), PREPROCESSING, name=NAME, **fields)


@pytest.fixture(scope='module')
def unnamed() -> Model:
    return make()


@pytest.fixture
def numbered(unnamed: Model, tmp_path: Path) -> Path:
    """A file of ours as it was written when names that were not known had to be numbers."""
    path = tmp_path / 'old.safetensors'
    unnamed.save(path)
    file = formats.read(path)
    said = file.metadata | {'format': 2, 'classes': ['0', '1', '2']}
    path.write_bytes(safetensors_file.encode_ours(file.tensors, said))
    return path


def test_probabilities(unnamed: Model) -> None:
    """By the module itself, in float64 from the logits on; five images at a time or all at once."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    mean, std = np.array([0.2, 0.3, 0.4]), np.array([0.5, 0.6, 0.7])
    images = jnp.asarray((pixels / 255 - mean) / std, jnp.float32)
    logits = np.asarray(jax.jit(unnamed.module.apply)(unnamed.variables, images), np.float64)
    want = np.exp(logits - logits.max(1, keepdims=True))
    want /= want.sum(1, keepdims=True)
    for found in (unnamed.predict(pixels), unnamed.predict(pixels, batch_size=5)):
        assert (found.shape, found.dtype) == ((7, 3), np.float32)
        np.testing.assert_allclose(found, want, atol=1e-5)
    assert unnamed.predict(pixels[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ('images', 'words'),
    [
        (np.zeros((32, 32, 3), np.uint8), r'images are \[32, 32, 3\]: this model takes uint8 \[images, 32, 32, 3\]'),
        (np.zeros((1, 33, 32, 3), np.uint8), r'images are \[1, 33, 32, 3\]'),
        (np.zeros((1, 32, 32, 1), np.uint8), r'images are \[1, 32, 32, 1\]'),
        ('photo.jpg', r'a str was given: flaxmobile\.data\.prepare_for_evaluation\(path, model\.preprocessing\) makes'),
        (b'\xff\xd8', r'a bytes was given: '),
        (np.zeros((1, 32, 32, 3), np.float32), r'cannot normalise float32 .*uint8'),
    ],
)
def test_images_that_it_does_not_take(unnamed: Model, images: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unnamed.predict(images)


def test_a_model_is_no_module(unnamed: Model) -> None:
    told = r'a Model was given: pass model\.module and model\.variables'
    with pytest.raises(TypeError, match=told):
        flaxmobile.compile_inference(unnamed, unnamed.variables, batch_size=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=told):
        fold_batch_norm(unnamed, unnamed.variables, np.zeros((1, 32, 32, 3)))  # type: ignore[arg-type]


def test_it_says_what_it_is_in_a_line(unnamed: Model) -> None:
    # 470,072 with the classifier of 1000 classes of 256 features, as in tests/models/reference_counts.json.
    parameters = 213_072 + 3 * 257
    assert repr(unnamed) == f'Model({NAME}: {parameters:,} parameters, 32x32 pixels, 3 classes without names)'
    named = dataclasses.replace(unnamed, labels=('cat', 'dog', 'owl'))
    assert repr(named) == f'Model({NAME}: {parameters:,} parameters, 32x32 pixels, 3 classes)'
    assert repr(make(0, task=None)) == f'Model({NAME}: 213,072 parameters, 32x32 pixels, 0 classes)'


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'labels': ('a', 'b')}, 'names 2 classes for 3 logits'),
        ({'labels': ('a', 'b', 'a')}, "classes names 'a' twice"),
        ({'labels': 'abc'}, "classes is 'abc', and has to be a list"),
        ({'task': None}, "task is None, and a MobileNetV1 of 3 classes has task='classification'"),
        ({'task': 'detection'}, "task is 'detection', and a MobileNetV1 of 3 classes has task='classification'"),
        ({'num_classes': 0}, "task is 'classification', and a MobileNetV1 of 0 classes has task=None"),
    ],
)
def test_what_is_no_model(fields: dict[str, Any], words: str) -> None:
    module = flaxmobile.create_model(NAME, num_classes=fields.pop('num_classes', 3))
    with pytest.raises(ValueError, match=words):
        Model(module, {'params': {}}, PREPROCESSING, **fields)


def test_labels_are_a_tuple_of_its_own(unnamed: Model) -> None:
    assert dataclasses.replace(unnamed, labels=['cat', 'dog', 'owl']).labels == ('cat', 'dog', 'owl')


def test_a_module_of_one_s_own_has_no_name_to_be_written(unnamed: Model, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'own\.npz: the model does not say its network: dataclasses\.replace'):
        dataclasses.replace(unnamed, name='').save(tmp_path / 'own.npz')
    assert not list(tmp_path.iterdir())


def test_names_that_are_not_known_are_not_invented(unnamed: Model, tmp_path: Path) -> None:
    path = tmp_path / 'own.safetensors'
    unnamed.save(path)
    with safetensors.safe_open(path, 'numpy') as file:
        said = json.loads(file.metadata()['flaxmobile'])
    assert (said['format'], said['classes']) == (3, None)
    assert weights.load_file(path).labels is None
    named = dataclasses.replace(unnamed, labels=('2', '1', '0'))
    named.save(path, overwrite=True)
    assert weights.load_file(path).labels == ('2', '1', '0')
    dataclasses.replace(unnamed, labels=('0', '1', '2')).save(path, overwrite=True)
    assert weights.load_file(path).labels == ('0', '1', '2')


def test_numbers_in_an_older_file_are_no_names(numbered: Path) -> None:
    found = weights.load_file(numbered)
    assert (found.labels, found.num_classes) == (None, 3)
    file = formats.read(numbered)
    for classes, labels in ((['2', '1', '0'], ('2', '1', '0')), (['a', '1', '2'], ('a', '1', '2'))):
        numbered.write_bytes(
            safetensors_file.encode_ours(file.tensors, file.metadata | {'format': 2, 'classes': classes})
        )
        assert weights.load_file(numbered).labels == labels
    numbered.write_bytes(safetensors_file.encode_ours(file.tensors, file.metadata | {'format': 2, 'classes': None}))
    with pytest.raises(ValueError, match='classes is None, and has to be a list of names'):
        weights.load_file(numbered)


def test_a_folder_called_by_a_number_is_not_the_class_of_that_number(numbered: Path, command: Any) -> None:
    """Three classes without names, and folders `0`, `1` and `2`."""
    with pytest.raises(ValueError, match=r"names of the model's classes are not known, .*\(0, 1, 2\)"):
        label_positions(('0', '1', '2'), None)
    assert label_positions(('2', '0'), ('0', '1', '2')).tolist() == [2, 0]
    images = numbered.with_name('photos')
    for name in '012':
        (images / 'test' / name).mkdir(parents=True)
        Image.new('RGB', (40, 40), (80 * int(name),) * 3).save(images / 'test' / name / 'a.png')
    status, out, err = command('evaluate', numbered, '--data', images)
    assert (status, out) == (2, '')
    assert err.startswith("flaxmobile: the names of the model's classes are not known")
    assert 'In Python, with model = flaxmobile.load(path), dataclasses.replace(model, labels=[...]).save(' in err
    # What it says to write is what helps.
    named = numbered.with_name('named.safetensors')
    dataclasses.replace(flaxmobile.load(numbered), labels=['0', '1', '2']).save(named)  # type: ignore[arg-type]
    assert weights.load_file(named).labels == ('0', '1', '2')


def test_people_read_a_number_where_there_is_no_name(numbered: Path, command: Any) -> None:
    image = numbered.with_name('a.png')
    Image.new('RGB', (40, 40), (200, 10, 90)).save(image)
    status, out, _ = command('predict', numbered, image, '--json')
    guesses = json.loads(out)[0]['predictions']
    assert (status, [guess['class'] for guess in guesses]) == (0, [None] * 3)
    assert sorted(guess['index'] for guess in guesses) == [0, 1, 2]
    _, out, _ = command('predict', numbered, image)
    assert [line.split('%')[1].strip() for line in out.splitlines()[1:]] == [
        f'class {guess["index"]}' for guess in guesses
    ]
    _, out, _ = command('convert', numbered, numbered.with_name('new.safetensors'))
    assert out.endswith(f'{NAME}, 3 classes\n')
    assert weights.load_file(numbered.with_name('new.safetensors')).labels is None


def test_one_way_to_open_a_name_a_file_or_a_run(unnamed: Model, tmp_path: Path) -> None:
    path = tmp_path / 'own.safetensors'
    unnamed.save(path)
    found = flaxmobile.load(path, image_size=64)
    assert found.preprocessing == dataclasses.replace(PREPROCESSING, image_size=64)
    jax.tree.map(np.testing.assert_array_equal, found.variables, unnamed.variables)
    assert flaxmobile.load(str(path)).preprocessing == PREPROCESSING
    with pytest.raises(FileNotFoundError, match='there is no run and no file'):
        flaxmobile.load(tmp_path / 'none.pth')
    with pytest.raises(
        ValueError, match=r"says its network itself, and overrides={'output_stride': 8} are for one that"
    ):
        flaxmobile.load(path, overrides={'output_stride': 8})
    for given in ({'network': NAME}, {'overrides': {'num_classes': 3}}, {'network': NAME, 'file': path}):
        with pytest.raises(
            ValueError, match='network and overrides go with a file as the source, and mobilenetv2_100 is'
        ):
            flaxmobile.load('mobilenetv2_100', **given)
    with pytest.raises(ValueError, match='is no run, no file and no published weights'):
        flaxmobile.load('mobilenetv1_25')


def test_names_in_the_order_of_a_run() -> None:
    composed, combining = 'Z\u00fcrich', 'Zu\u0308rich'
    assert in_order(('cat', composed), (combining, 'cat')) == (composed, 'cat')
    assert in_order(('cat', 'dog'), ('cat', 'owl')) is None
    assert in_order(('cat', 'dog'), ('cat',)) is None
