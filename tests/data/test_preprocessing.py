import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxmobile.data import Augmentation, Preprocessing


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_normalize_equals_float64_numpy(seed):
    images = np.random.default_rng(seed).integers(0, 256, (2, 3, 5, 3), np.uint8)
    preprocessing = Preprocessing()
    expected = (images.astype(np.float64) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    normalized = preprocessing.normalize(images)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, expected, rtol=0, atol=1e-6)


def test_normalize_by_hand_and_under_jit():
    preprocessing = Preprocessing(channels=1, mean=(0.5,), std=(0.5,))
    images = np.array([0, 255, 51], np.uint8).reshape(1, 3, 1)
    np.testing.assert_allclose(jax.jit(preprocessing.normalize)(images).ravel(), [-1, 1, -0.6], atol=1e-6)


@pytest.mark.parametrize('images', [np.zeros((2, 2, 3)), np.zeros((2, 2, 1), np.uint8), np.zeros(3, np.uint8)])
def test_normalize_refuses_what_is_no_image(images):
    with pytest.raises(ValueError, match=r'uint8 \[\.\.\., height, width, 3\] is expected'):
        Preprocessing().normalize(images)


def test_json_gives_back_an_equal_preprocessing():
    preprocessing = Preprocessing(image_size=28, channels=1, mean=(0.5,), std=(0.25,))
    assert Preprocessing(**json.loads(json.dumps(dataclasses.asdict(preprocessing)))) == preprocessing


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('image_size', 0),
        ('channels', 2),
        ('mean', (0.5,)),
        ('mean', (0.5, 0.5, float('nan'))),
        ('std', (0.2, 0.0, 0.2)),
        ('crop_fraction', 0.0),
        ('crop_fraction', 1.1),
        ('interpolation', 'nearest'),
    ],
)
def test_preprocessing_out_of_range(field, value):
    with pytest.raises(ValueError, match=field):
        Preprocessing(**{field: value})


@pytest.mark.parametrize(
    ('field', 'value'),
    [('crop_scale', (0.5, 0.1)), ('crop_scale', (0.0, 1.0)), ('crop_scale', (0.5, 1.5)), ('crop_ratio', (2.0, 1.0))],
)
def test_augmentation_out_of_range(field, value):
    with pytest.raises(ValueError, match=field):
        Augmentation(**{field: value})
