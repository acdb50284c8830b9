import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile import weights
from flaxmobile.weights.class_names import vocabulary

NAME = 'mobilenetv3_small_050.lamb_in1k'


@pytest.fixture(scope='module')
def variables() -> dict[str, Any]:
    return random_variables(flaxmobile.create_model('mobilenetv3_small_050'), (1, 64, 64, 3))


@pytest.fixture(scope='module')
def published(variables: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as timm publishes it."""
    path = tmp_path_factory.mktemp('published') / 'model.safetensors'
    save_file(weights.to_torch(variables, flaxmobile.create_model('mobilenetv3_small_050')), path, {'format': 'pt'})
    return path


def assert_same(got: dict[str, Any], want: dict[str, Any]) -> None:
    got, want = flatten_dict(got), flatten_dict(want)
    assert got.keys() == want.keys()
    for path in want:
        np.testing.assert_array_equal(got[path], want[path], strict=True)


def test_all_that_is_needed_comes_back(variables: dict[str, Any], published: Path) -> None:
    loaded = flaxmobile.load_pretrained(NAME, file=published)
    assert loaded.module == flaxmobile.create_model('mobilenetv3_small_050')
    assert_same(loaded.variables, variables)
    assert loaded.preprocessing == weights.find(NAME).preprocessing()
    assert loaded.labels == vocabulary('imagenet-1k').names


def test_from_the_cache(
    variables: dict[str, Any], published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('FLAXMOBILE_CACHE', str(tmp_path))
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / 'model.safetensors').write_bytes(published.read_bytes())
    assert_same(flaxmobile.load_pretrained(NAME).variables, variables)
    (tmp_path / NAME / 'model.safetensors').write_bytes(published.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r'model\.safetensors: is no whole .*\. Remove it, and it is fetched again'):
        flaxmobile.load_pretrained(NAME)


def test_a_bare_name_says_which(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, 'flaxmobile'):
        flaxmobile.load_pretrained('mobilenetv3_small_050', file=published)
    assert caplog.messages == [f'mobilenetv3_small_050: taking {NAME}']


def test_a_new_classifier(variables: dict[str, Any], published: Path) -> None:
    loaded = flaxmobile.load_pretrained(NAME, 37, file=published)
    assert (loaded.module.num_classes, loaded.labels, loaded.overrides) == (37, None, {'num_classes': 37})
    for collection in ('params', 'batch_stats'):
        assert_same(*({**tree[collection], 'classifier': {}} for tree in (loaded.variables, variables)))
    # timm draws a classifier uniformly within 1 / sqrt(classes).
    kernel, bias = (loaded.variables['params']['classifier'][name] for name in ('kernel', 'bias'))
    assert (kernel.shape, bias.tolist()) == ((1024, 37), [0.0] * 37)
    assert np.abs(kernel).max() == pytest.approx(37**-0.5, rel=1e-3)
    assert np.std(kernel) == pytest.approx((3 * 37) ** -0.5, rel=0.02)
    other = flaxmobile.load_pretrained(NAME, 37, file=published, key=jax.random.key(3))
    assert np.abs(kernel - other.variables['params']['classifier']['kernel']).max() > 0.1


def test_a_new_classifier_of_as_many_classes(variables: dict[str, Any], published: Path) -> None:
    """Somebody else's thousand classes, not ImageNet's."""
    for number in (None, 1000):
        loaded = flaxmobile.load_pretrained(NAME, number, file=published, new_classifier=True)
        assert loaded.labels is None
        kernel, bias = (loaded.variables['params']['classifier'][name] for name in ('kernel', 'bias'))
        assert (kernel.shape, np.any(bias)) == ((1024, 1000), False)
        assert np.abs(kernel).max() == pytest.approx(1000**-0.5, rel=1e-3)
        assert_same(*({**tree['params'], 'classifier': {}} for tree in (loaded.variables, variables)))
    with pytest.raises(ValueError, match='new_classifier=True and num_classes=0'):
        flaxmobile.load_pretrained(NAME, 0, file=published, new_classifier=True)


def test_a_file_of_ours_with_other_classes_is_not_the_published_one(variables: dict[str, Any], tmp_path: Path) -> None:
    model, preprocessing = flaxmobile.create_model('mobilenetv3_small_050'), weights.find(NAME).preprocessing()
    for classes in (vocabulary('imagenet-1k').names, tuple(f'class {number}' for number in range(1000)), None):
        path = tmp_path / 'mine.safetensors'
        loaded = weights.Model(model, variables, preprocessing, classes, name='mobilenetv3_small_050')
        loaded.save(path, overwrite=True)
        if classes and classes[0] != 'class 0':
            assert flaxmobile.load_pretrained(NAME, file=path).labels == classes
            continue
        with pytest.raises(ValueError, match=r'mine\.safetensors: says other classes than the published weights'):
            flaxmobile.load_pretrained(NAME, file=path)


def test_a_file_of_ours_with_another_number_of_classes_is_opened_by_itself(tmp_path: Path) -> None:
    module, path = flaxmobile.create_model('mobilenetv3_small_050', num_classes=3), tmp_path / 'pets.safetensors'
    variables, preprocessing = random_variables(module, (1, 64, 64, 3)), weights.find(NAME).preprocessing()
    weights.Model(module, variables, preprocessing, ('a', 'b', 'c'), name='mobilenetv3_small_050').save(path)
    wanted = rf"pets\.safetensors: holds mobilenetv3_small_050 with 3 classes, .* itself, flaxmobile\.load\('{path}'\)$"
    with pytest.raises(ValueError, match=wanted):
        flaxmobile.load_pretrained('mobilenetv3_small_050', file=path)
    assert flaxmobile.load(path).labels == ('a', 'b', 'c')


def test_without_a_classifier(variables: dict[str, Any], published: Path) -> None:
    loaded = flaxmobile.load_pretrained(NAME, 0, file=published)
    assert (loaded.module.num_classes, loaded.labels, loaded.task) == (0, None, None)
    assert_same(loaded.variables['params'], {k: v for k, v in variables['params'].items() if k != 'classifier'})
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), np.float32)
    assert jax.eval_shape(loaded.module.apply, loaded.variables, images).shape == (2, 1024)


def test_another_image_size(published: Path) -> None:
    loaded = flaxmobile.load_pretrained(NAME, image_size=160, file=published)
    assert (loaded.preprocessing.image_size, loaded.preprocessing.crop_fraction) == (160, 0.875)


@pytest.mark.parametrize(
    ('name', 'file', 'message'),
    [
        ('mobilenetv3_small_50', None, "unknown weights 'mobilenetv3_small_50'. Did you mean: mobilenetv3_small_050"),
        ('mobilenetv3_small_050', 'no/such.pth', 'no/such.pth: there is no such file'),
        (
            'mobilenetv3_small_075',
            'published',
            r'\(they fit mobilenetv3_small_050\).*misshapen \(192\): ',
        ),
        ('mobilenetv2_050', 'published', 'published0/model.safetensors: .*missing .*unexpected '),
    ],
)
def test_what_is_refused(published: Path, name: str, file: str | None, message: str) -> None:
    path = published if file == 'published' else file
    with pytest.raises((ValueError, OSError), match=f'(?s){message}'):
        flaxmobile.load_pretrained(name, file=path)


def test_a_file_made_for_another_convention(published: Path) -> None:
    name = 'tf_mobilenetv3_small_075'
    model = flaxmobile.create_model(name, convention='torchvision_v3')
    path = published.with_name('torchvision.pth')
    loaded = weights.Model(
        model,
        random_variables(model, (1, 64, 64, 3)),
        weights.find(name).preprocessing(),
        name=name,
        overrides={'convention': 'torchvision_v3'},
    )
    loaded.save(path, layout='torchvision')
    with pytest.raises(ValueError, match=r"torchvision\.pth: these are weights of torchvision.*'torchvision_v3'"):
        flaxmobile.load_pretrained(name, file=path)
    taken = flaxmobile.load_pretrained(name, file=path, ignore_convention=True)
    assert_same(taken.variables, loaded.variables)


def test_a_negative_number_of_classes(published: Path) -> None:
    with pytest.raises(ValueError, match='num_classes must be a whole number, 0 or more, not -1'):
        flaxmobile.load_pretrained(NAME, -1, file=published)
