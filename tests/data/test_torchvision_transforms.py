from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxmobile.data import Preprocessing, prepare_for_evaluation
from flaxmobile.data.augmentation import random_crop

pytestmark = pytest.mark.parity
side = st.integers(8, 90)


@settings(max_examples=60, deadline=None)
@given(side, side, st.sampled_from([(28, 0.875), (32, 0.95), (24, 1.0)]), st.sampled_from(['bicubic', 'bilinear']))
def test_evaluation_equals_torchvision(height, width, crop, interpolation):
    transforms = pytest.importorskip('torchvision.transforms')
    size, crop_fraction = crop
    image = np.random.default_rng(height * 100 + width).integers(0, 256, (height, width, 3), np.uint8)
    resize = transforms.Resize(int(size / crop_fraction), transforms.InterpolationMode(interpolation))
    expected = np.asarray(transforms.CenterCrop(size)(resize(Image.fromarray(image))))
    preprocessing = Preprocessing(size, crop_fraction=crop_fraction, interpolation=interpolation)
    np.testing.assert_array_equal(prepare_for_evaluation(image, preprocessing), expected)


@settings(max_examples=100, deadline=None)
@given(side, side, st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (0.2, 0.5)]))
def test_the_crop_that_is_taken_when_no_draw_fits_equals_torchvision(height, width, ratio):
    transforms = pytest.importorskip('torchvision.transforms')
    never = SimpleNamespace(crop_scale=(9.0, 9.0), crop_ratio=ratio)
    expected = transforms.RandomResizedCrop.get_params(Image.new('L', (width, height)), (9.0, 9.0), ratio)
    assert random_crop(height, width, never, np.random.default_rng(0)) == tuple(expected)


def test_random_crops_are_distributed_as_torchvision_draws_them():
    torch = pytest.importorskip('torch')
    transforms = pytest.importorskip('torchvision.transforms')
    torch.manual_seed(0)
    augmentation, rng = SimpleNamespace(crop_scale=(0.3, 1.0), crop_ratio=(0.5, 2.0)), np.random.default_rng(0)
    image = Image.new('L', (150, 100))
    ours = np.array([random_crop(100, 150, augmentation, rng) for _ in range(4000)])
    theirs = np.array([transforms.RandomResizedCrop.get_params(image, (0.3, 1.0), (0.5, 2.0)) for _ in range(4000)])
    for column in range(4):
        places = np.sort(np.concatenate([ours[:, column], theirs[:, column]]))
        ranks = [np.searchsorted(np.sort(crops[:, column]), places, 'right') / 4000 for crops in (ours, theirs)]
        assert np.abs(ranks[0] - ranks[1]).max() < 0.0436  # Kolmogorov-Smirnov at 0.1 %: 1.95 * sqrt(2 / 4000).
