import math
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from flaxmobile import weights
from flaxmobile.models.registry import REGISTRY
from flaxmobile.weights.catalogue import CATALOGUE, DEFAULT_TAGS
from flaxmobile.weights.class_names import VOCABULARIES, label_positions, synsets, vocabulary


@pytest.mark.parametrize('name', CATALOGUE)
def test_an_entry_is_whole(name: str) -> None:
    weight = CATALOGUE[name]
    assert weight.model in REGISTRY
    assert name.startswith(f'{weight.model}.')
    assert weight.address.startswith('https://')
    assert weight.file_name.endswith(('.safetensors', '.pth', '.h5'))
    assert weight.vocabulary in VOCABULARIES or weight.num_classes == 0
    assert weight.license in ('Apache-2.0', 'BSD-3-Clause') or weight.terms
    assert weight.test_size >= weight.image_size
    assert (weight.top1 == {}) == (weight.num_classes != 1000)
    assert all(40 < accuracy < 90 for accuracy in weight.top1.values())
    assert set(weight.top1) <= {weight.image_size, weight.test_size}
    assert re.fullmatch('[0-9a-f]{8,64}', weight.sha256 or '0' * 8)
    assert re.fullmatch('[0-9a-f]{32}', weight.md5 or '0' * 32)


def test_a_larger_image_is_better() -> None:
    by_size = [list(weight.top1.values()) for weight in CATALOGUE.values() if len(weight.top1) == 2]
    assert len(by_size) > 20
    assert all(smaller < larger for smaller, larger in by_size)


def test_addresses_are_of_one_weight_each() -> None:
    assert max(Counter(weight.address for weight in CATALOGUE.values()).values()) == 1


# Numbers from the papers' tables: MobileNetV2 4, V3 3, V4 6.
@pytest.mark.parametrize(
    ('name', 'size', 'paper'),
    [
        ('mobilenetv2_100', 224, 72.0),
        ('tf_mobilenetv2_140', 224, 74.7),
        ('mobilenetv3_large_100', 224, 75.2),
        ('tf_mobilenetv3_large_075', 224, 73.3),
        ('mobilenetv3_small_100', 224, 67.4),
        ('tv_mobilenetv3_large_100', 224, 75.2),
        ('mobilenetv4_conv_small', 224, 73.8),
        ('mobilenetv4_conv_medium', 256, 79.9),
        ('mobilenetv4_hybrid_medium', 256, 80.7),
        ('mobilenetv4_conv_large', 384, 82.9),
        ('mobilenetv4_hybrid_large', 384, 83.4),
    ],
)
def test_a_bare_name_compares_with_the_paper(name: str, size: int, paper: float) -> None:
    assert weights.find(name).top1[size] == pytest.approx(paper, abs=1)


def test_a_bare_name_was_trained_on_imagenet_1k_alone() -> None:
    counts = Counter(weight.model for weight in CATALOGUE.values())
    assert {model for model, count in counts.items() if count > 1} <= DEFAULT_TAGS.keys() <= counts.keys()
    for model in counts:
        tag = weights.find(model).name.split('.')[1]
        assert 'in12k' not in tag
        assert 'in21k' not in tag


@pytest.mark.parametrize(
    ('given', 'wanted'),
    [
        ('mobilnetv2_100', 'Did you mean: mobilenetv2_100, '),
        ('mobilenetv2_100.ra_in1', 'Did you mean: mobilenetv2_100.ra_in1k'),
        ('mobilenetv2_035', 'mobilenetv2_035 has no published weights.*tf_mobilenetv2_035'),
        ('', 'There are: mnasnet_100'),
    ],
)
def test_an_unknown_name_lists_the_nearest(given: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        weights.find(given)


def test_the_list() -> None:
    assert len(weights.list_weights()) == len(CATALOGUE) == 102
    assert [weight.name for weight in weights.list_weights('*hybrid_large*')] == [
        'mobilenetv4_hybrid_large.e600_r384_in1k',
        'mobilenetv4_hybrid_large.ix_e600_r384_in1k',
    ]
    assert {weight.model for weight in weights.list_weights('mobilenetv2_100')} == {'mobilenetv2_100'}
    assert weights.list_weights('resnet*') == []


@pytest.mark.parametrize(
    ('name', 'image_size', 'size', 'shorter'),
    [
        ('mobilenetv2_100.ra_in1k', None, 224, 256),
        ('mobilenetv2_100.tv_in1k', None, 224, 256),
        ('mobilenetv2_100.tv2_in1k', None, 224, 232),
        ('mobilenetv1_100.ra4_e3600_r224_in1k', None, 224, 256),
        ('mobilenetv1_100.ra4_e3600_r224_in1k', 256, 256, 269),
        ('mobilenetv1_100.ra4_e3600_r224_in1k', 320, 320, 336),
        ('mobilenetv1_100.ra4_e3600_r224_in1k', 192, 192, 219),
        ('mobilenetv4_conv_large.e600_r384_in1k', 448, 448, 448),
        ('tf_mobilenetv2_035.keras_r96_in1k', None, 96, 109),
    ],
)
def test_the_crop_follows_the_size(name: str, image_size: int | None, size: int, shorter: int) -> None:
    preprocessing = weights.find(name).preprocessing(image_size)
    assert preprocessing.image_size == size
    assert math.floor(size / preprocessing.crop_fraction) == shorter


@pytest.mark.parametrize(('name', 'count'), VOCABULARIES.items())
def test_vocabularies(name: str, count: int) -> None:
    names, ids = vocabulary(name)
    assert len(names) == len(set(names)) == len(set(ids)) == count
    assert all(re.fullmatch(r'n\d{8}', synset) for synset in ids)
    assert all(name and name == name.strip() for name in names)
    by_synset = dict(zip(ids, names, strict=True))
    # WordNet's ids of four classes that each has.
    assert by_synset['n01443537'] == 'goldfish'
    assert by_synset['n02123045'].startswith('tabby')
    assert by_synset['n07930864'].startswith('cup')
    assert by_synset['n04037443'].startswith('race')
    assert synsets(names) == ids


def test_the_labels_of_tfds_are_known() -> None:
    folder = Path(find_spec('tensorflow_datasets').origin).parent  # type: ignore[union-attr, arg-type]
    labels = (folder / 'datasets' / 'imagenet2012' / 'labels.txt').read_text().split()
    assert tuple(labels) == vocabulary('imagenet-1k').synsets
    resized = (folder / 'image_classification' / 'imagenet_resized_labels.txt').read_text().split()
    assert set(resized) == set(labels)
    np.testing.assert_array_equal(label_positions(labels, vocabulary('imagenet-1k').names), np.arange(1000))


def test_unknown_vocabulary_and_classes() -> None:
    with pytest.raises(ValueError, match=r"unknown vocabulary 'imagenet'.*imagenet-1k"):
        vocabulary('imagenet')
    assert synsets(('cat', 'dog')) == ()
    assert synsets(vocabulary('imagenet-1k').names[::-1]) == ()
