import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import finished_run, tiny  # noqa: F401 - fixtures

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile import data, weights
from flaxmobile.cli.models import _published
from flaxmobile.training.config import TrainConfig
from flaxmobile.weights import Model
from flaxmobile.weights.class_names import vocabulary

NETWORK = 'tf_mobilenetv1_025'
NAME = f'{NETWORK}.keras_r128_in1k'
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope='module')
def random_model() -> Model:
    """The network of the published name, for small images and with weights that nobody published."""
    model = flaxmobile.create_model(NETWORK)
    preprocessing, names = weights.find(NAME).preprocessing(32), vocabulary('imagenet-1k').names
    return Model(model, random_variables(model, (1, 32, 32, 3)), preprocessing, names, name=NETWORK)


@pytest.fixture(scope='module')
def file(random_model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('weights') / 'random.safetensors'
    random_model.save(path)
    return path


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight images of noise, as large as the network is given."""
    folder = tmp_path_factory.mktemp('images')
    pixels = np.random.default_rng(0).integers(0, 256, (8, 36, 36, 3), np.uint8)
    paths = [folder / f'{number}.png' for number in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.fixture(scope='module')
def logits(random_model: Model, images: list[Path]) -> np.ndarray:
    """What the network says of them: at a crop of 87.5 % noise of 36 pixels is cut to 32, and not resized."""
    pixels = np.stack([np.asarray(Image.open(path))[2:-2, 2:-2] for path in images])
    return np.asarray(jax.jit(random_model.module.apply)(random_model.variables, pixels / np.float32(127.5) - 1))


def test_the_list(command: Run) -> None:
    status, out, _ = command('weights', 'list', 'mobilenetv4_hybrid_medium')
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ['name', 'classes', 'pixels', 'top-1', 'in', '%', 'license']
    assert ['mobilenetv4_hybrid_medium.e200_r256_in12k', '11821', '256,', '320', '-,', '-', 'Apache-2.0'] in lines
    assert [line[0] for line in lines if line and line[0].endswith('_in1k*')] == [
        'mobilenetv4_hybrid_medium.ix_e550_r256_in1k*'
    ]
    status, out, _ = command('weights', 'list')
    assert sum('_in' in line or '.in1k' in line for line in out.splitlines()) == 101


def test_the_list_says_which_licence_is_not_an_open_one(command: Run) -> None:
    terms = (
        'mobilenetv5_300m.gemma3n is under the Gemma licence, which is not an open one: whoever uses the weights '
        'accepts its terms, https://ai.google.dev/gemma/terms'
    )
    _, out, _ = command('weights', 'list', 'mobilenetv5*')
    lines = out.splitlines()
    assert lines[1].split() == ['mobilenetv5_300m.gemma3n*', '-', '768', '-', 'Gemma']
    assert terms in lines
    status, out, err = command('list', 'mobilenetv5*')
    assert (status, out.split(), err.strip()) == (0, ['mobilenetv5_300m', 'mobilenetv5_300m_enc'], terms)
    _, _, err = command('list', 'mobilenetv4*')
    assert not err


def test_the_list_as_json(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('FLAXMOBILE_CACHE', '/somewhere')
    status, out, _ = command('weights', 'list', 'mobilenetv2_100.tv_*', '--json')
    assert status == 0
    (entry,) = json.loads(out)
    assert entry['num_classes'] == 1000
    assert entry['address'] == 'https://download.pytorch.org/models/mobilenet_v2-b0353104.pth'
    assert entry['path'] == '/somewhere/mobilenetv2_100.tv_in1k/mobilenet_v2-b0353104.pth'
    assert entry['top1'] == {'224': 71.878}


@pytest.mark.parametrize(
    ('words', 'wanted'),
    [
        (['weights', 'list', 'mobilnetv4_conv_large'], 'Did you mean: mobilenetv4_conv_large, '),
        (['weights', 'fetch'], 'invalid choice'),
        (['predict', 'mobilenetv2_100.ra_in1', 'a.png'], 'Did you mean: mobilenetv2_100.ra_in1k'),
        (['evaluate', 'mobilnetv2_100', '--data', 'imagenet2012'], 'Did you mean: mobilenetv2_100, '),
        (['predict', 'no/such/file.safetensors', 'a.png'], 'there is no run and no file no/such/file.safetensors'),
        (['predict', NAME, 'a.png', '--weights', 'no/such.h5'], 'no/such.h5: there is no such file'),
    ],
)
def test_wrong_input(command: Run, words: list[str], wanted: str) -> None:
    status, out, err = command(*words)
    assert status == 2
    assert wanted in ' '.join((out + err).split())
    assert 'Traceback' not in out + err


def test_a_run_brings_its_own_weights(command: Run, finished_run: Path, file: Path, images: list[Path]) -> None:  # noqa: F811
    for model in (finished_run, file):
        status, _, err = command('predict', model, images[0], '--weights', file)
        assert status == 2
        assert '--weights goes with a published name' in err


def test_predict(command: Run, file: Path, images: list[Path], logits: np.ndarray) -> None:
    want = [vocabulary('imagenet-1k').names[number] for number in logits.argmax(-1)]
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares = (shares / shares.sum(-1, keepdims=True)).max(-1)
    for model in ([NAME, '--weights', file, '--image-size', '32'], [file]):
        status, out, err = command('predict', model[0], *images, *model[1:], '--json', '--top', '1')
        assert (status, err) == (0, '')
        found = [result['predictions'][0] for result in json.loads(out)]
        assert [guess['class'] for guess in found] == want
        np.testing.assert_allclose([guess['probability'] for guess in found], shares, rtol=1e-3)


def test_a_bare_name_says_which_on_the_side(
    command: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('FLAXMOBILE_CACHE', str(tmp_path))
    cached = weights.cache_path(weights.find(NETWORK))
    cached.parent.mkdir()
    shutil.copy(file, cached)
    status, out, err = command('predict', NETWORK, tmp_path / 'none.png')
    assert status == 1
    assert err == 'tf_mobilenetv1_025: taking tf_mobilenetv1_025.keras_r224_in1k\n'
    assert 'taking' not in out


def test_a_file_of_any_network_with_classes_of_its_own(command: Run, images: list[Path], tmp_path: Path) -> None:
    model = flaxmobile.create_model('mobilenetv1_025', num_classes=3)  # Of which no weights are published.
    variables = random_variables(model, (1, 32, 32, 3))
    np.savez(tmp_path / 'mine.npz', **weights.to_torch(variables, model))
    words = (
        'predict',
        'mobilenetv1_025',
        images[0],
        '--weights',
        tmp_path / 'mine.npz',
        '--image-size',
        '32',
        '--json',
    )
    status, out, err = command(*words)
    assert (status, len(json.loads(out)[0]['predictions'])) == (0, 3)
    assert 'mine.npz says neither how images are prepared' in err


@pytest.mark.parametrize('kind', ['names', 'synsets'])
def test_evaluate_by_name_and_by_synset(
    command: Run, file: Path, images: list[Path], logits: np.ndarray, tmp_path: Path, kind: str
) -> None:
    # Of eight images the folders of three say another class than the network does.
    labels = (logits.argmax(-1) + (np.arange(8) < 3)) % 1000
    for path, label in zip(images, labels, strict=True):
        folder = tmp_path / 'set' / 'test' / getattr(vocabulary('imagenet-1k'), kind)[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    words = ['--weights', file, '--image-size', '32', '--batch-size', '8']
    status, out, err = command('evaluate', NAME, '--data', tmp_path / 'set', *words)
    assert (status, err) == (0, '')
    first, figures, _, last = out.splitlines()
    assert first.startswith(f'{NAME} on ')
    assert figures.startswith('accuracy 62.50%')
    assert figures.endswith('8 images')
    assert last == 'published for ImageNet-1k: accuracy 41.50% at 128 pixels'


def test_classes_that_the_model_does_not_know(command: Run, file: Path, images: list[Path], tmp_path: Path) -> None:
    for name in ('goldfish', 'unicorn'):
        (tmp_path / 'set' / 'test' / name).mkdir(parents=True)
        (tmp_path / 'set' / 'test' / name / 'a.png').write_bytes(images[0].read_bytes())
    status, _, err = command('evaluate', file, '--data', tmp_path / 'set')
    assert status == 2
    assert 'does not know 1 of the 2 classes of the data set (unicorn)' in err


def test_what_evaluate_asks_for(
    command: Run,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny: TrainConfig,  # noqa: F811
    finished_run: Path,  # noqa: F811
) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, split: str, **options: Any) -> None:
        asked.append((name, split, options['data_dir'], options['download']))
        raise ValueError('that is all')

    monkeypatch.setattr(data, 'load_dataset', load_dataset, raising=False)
    status, _, err = command('evaluate', NAME, '--weights', file)
    assert (status, asked) == (2, [])
    assert f'say which images {NAME} is to see: --data imagenet2012' in err
    command('evaluate', NAME, '--weights', file, '--data', 'imagenet2012', '--data-dir', 'here', '--download')
    command('evaluate', file, '--data', 'cifar10')
    command('evaluate', file, '--data', 'imagenet2012', '--split', 'train[:1%]')
    command('evaluate', finished_run, '--download')
    assert asked == [
        ('imagenet2012', 'validation', 'here', True),
        ('cifar10', 'test', None, False),
        ('imagenet2012', 'train[:1%]', None, False),
        ('blobs', 'test', None, True),
    ]


def test_the_published_figures() -> None:
    weight = weights.find('mobilenetv4_conv_small')
    assert _published(weight, 256) == 'published for ImageNet-1k: accuracy 74.64% at 256 pixels'
    assert _published(weight, 160).endswith('accuracy 73.76% at 224 pixels, 74.64% at 256 pixels')


def test_the_cache_of_the_command(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('FLAXMOBILE_CACHE', str(tmp_path))
    path = weights.cache_path(weights.find('mobilenetv2_100.tv_in1k'))
    path.parent.mkdir()
    path.write_bytes(b'not what it should be')
    status, _, err = command('predict', 'mobilenetv2_100.tv_in1k', 'a.png')
    assert status == 2
    assert f'{path} is not the file of mobilenetv2_100.tv_in1k: it holds 21 bytes instead of 14,212,972' in err
