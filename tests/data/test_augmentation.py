"""What is drawn, against the distributions it is said to have: each test is at 0.1 % and at a fixed seed."""

import math
from collections import Counter
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from flaxmobile.data import Augmentation, Preprocessing, augmentation, operations, prepare_for_training
from flaxmobile.data.augmentation import Step

WHOLE = {'crop_scale': (1.0, 1.0), 'crop_ratio': (1.0, 1.0), 'flip': False}
GREY = Preprocessing(16, 1, (0.5,), (0.25,))
POLICIES = ('randaugment', 'autoaugment', 'trivialaugment')
ENHANCEMENTS = ('color', 'contrast', 'brightness', 'sharpness')


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_frequencies(found: list, expected: dict) -> None:
    counts, total = Counter(found), len(found)
    assert set(counts) <= {name for name, chance in expected.items() if chance}
    names = [name for name, chance in expected.items() if chance]
    observed = [counts[name] for name in names]
    assert stats.chisquare(observed, [total * expected[name] for name in names]).pvalue > 1e-3


def assert_uniform(found: list[float], low: float, high: float) -> None:
    assert stats.kstest(found, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def drawn(count: int, layers: int = 1, size: int = 100, **fields) -> list[list[Step]]:
    chances, randaugment = rng(), Augmentation(randaugment_layers=layers, **fields)
    return [augmentation.draw_rand_augment(randaugment, size, chances) for _ in range(count)]


def test_rand_augment_draws_fifteen_operations_evenly_and_makes_half_of_them():
    found = [steps[0].operation if steps else None for steps in drawn(8000)]
    assert len(augmentation.RAND_AUGMENT) == 15
    assert_frequencies(found, {None: 1 / 2, **dict.fromkeys(augmentation.RAND_AUGMENT, 1 / 30)})


def test_layers_of_rand_augment_are_drawn_apart():
    found = [len(steps) for steps in drawn(4000, layers=3)]
    assert_frequencies(found, dict(enumerate(np.array([1, 3, 3, 1]) / 8)))
    pairs = [steps[0].operation == steps[1].operation for steps in drawn(8000, layers=2) if len(steps) == 2]
    assert_frequencies(pairs, {True: 1 / 15, False: 14 / 15})


# timm 1.0.31's `LEVEL_TO_ARG`, worked out for the magnitudes 0, 5 and 10, a hundred pixels a side.
VALUES = {
    (False, 0): {'posterize': {0}, 'solarize': {0}, 'solarize_add': {0}, 'enhance': {0.1}, 'rotate': {0}, 'shear': {0}},
    (False, 5): {'posterize': {2}, 'solarize': {128}, 'solarize_add': {55}, 'enhance': {1.0}, 'rotate': {15}},
    (False, 10): {'posterize': {4}, 'solarize': {256}, 'solarize_add': {110}, 'enhance': {1.9}, 'rotate': {30}},
    (True, 0): {'posterize': {4}, 'solarize': {256}, 'enhance': {1.0}, 'translate': {0}},
    (True, 5): {'posterize': {2}, 'solarize': {128}, 'enhance': {0.55, 1.45}, 'translate': {22.5}, 'shear': {0.15}},
    (True, 10): {'posterize': {0}, 'solarize': {0}, 'enhance': {0.1, 1.9}, 'translate': {45}, 'shear': {0.3}},
}


@pytest.mark.parametrize(('increasing', 'magnitude'), list(VALUES))
def test_values_of_rand_augment_are_timms(increasing, magnitude):
    found = {}
    for steps in drawn(3000, randaugment_magnitude=magnitude, randaugment_increasing=increasing):
        for operation, value in steps:
            kind = 'enhance' if operation in ENHANCEMENTS else operation
            kind = kind.split('_')[0] if operation in operations.WARPS else kind
            found.setdefault(kind, Counter())[round(value, 9)] += 1
    for kind, values in VALUES[increasing, magnitude].items():
        signed = kind in ('rotate', 'shear', 'translate')
        assert set(found[kind]) == (values | {-value for value in values} if signed else values)
        if len(found[kind]) == 2:  # Both signs come alike.
            assert stats.binomtest(min(found[kind].values()), found[kind].total()).pvalue > 1e-3


def rotations(**fields) -> np.ndarray:
    steps = [step for steps in drawn(40_000, **fields) for step in steps if step.operation == 'rotate']
    return np.abs([step.value for step in steps]) / 3


def test_the_magnitude_is_normal_and_kept_within_bounds():
    found = rotations(randaugment_magnitude=9, randaugment_magnitude_std=0.5)
    assert found.max() == 10
    chance = stats.norm(9, 0.5).sf(10)
    assert stats.binomtest(int((found == 10).sum()), len(found), chance).pvalue > 1e-3
    within = stats.truncnorm(-np.inf, 2, loc=9, scale=0.5)
    assert stats.kstest(found[found < 10], within.cdf).pvalue > 1e-3


@pytest.mark.parametrize('deviation', [101, math.inf])
def test_an_infinite_deviation_draws_the_magnitude_evenly(deviation):
    assert_uniform(rotations(randaugment_magnitude=7, randaugment_magnitude_std=deviation), 0, 7)


def test_auto_augment_draws_rows_evenly_and_operations_by_their_chance():
    expected: Counter = Counter()
    for row in augmentation.AUTO_AUGMENT:
        for made in product((True, False), repeat=2):
            chance = math.prod(p if does else 1 - p for does, (_, p, _) in zip(made, row, strict=True))
            expected[tuple(op for does, (op, _, _) in zip(made, row, strict=True) if does)] += chance / 25
    chances = rng()
    found = [tuple(step.operation for step in augmentation.draw_auto_augment(chances)) for _ in range(10_000)]
    assert_frequencies(found, expected)


def test_trivial_augment_draws_fourteen_operations_and_31_magnitudes_evenly():
    chances = rng()
    found = [augmentation.draw_trivial_augment(chances) for _ in range(20_000)]
    assert all(len(steps) <= 1 for steps in found)
    names = dict.fromkeys((None, *(set(augmentation.TRIVIAL_AUGMENT) - {'identity'})), 1 / 14)
    assert_frequencies([steps[0].operation if steps else None for steps in found], names)
    angles = [round(step.value / 4.5) for steps in found for step in steps if step.operation == 'rotate']
    # The angle 0 has no sign, so that it comes as often as both of another.
    assert_frequencies(angles, {angle: 1 / 31 if angle == 0 else 1 / 62 for angle in range(-30, 31)})
    shifts = {step.value for steps in found for step in steps if step.operation == 'translate_x'}
    assert {type(shift) for shift in shifts} == {int}
    assert (min(shifts), max(shifts)) == (-32, 32)
    bits = {step.value for steps in found for step in steps if step.operation == 'posterize'}
    assert bits == {2, 3, 4, 5, 6, 7, 8}


def test_color_jitter_draws_factors_evenly_in_any_order():
    chances = rng()
    found = [augmentation.draw_color_jitter(0.4, chances) for _ in range(3000)]
    orders = [tuple(step.operation for step in steps) for steps in found]
    assert_frequencies(orders, dict.fromkeys(permutations(('brightness', 'contrast', 'color')), 1 / 6))
    for name in ('brightness', 'contrast', 'color'):
        assert_uniform([step.value for steps in found for step in steps if step.operation == name], 0.6, 1.4)


def test_what_is_erased_has_the_area_ratio_and_place_that_were_asked_for():
    chances = rng()
    found = [augmentation.draw_rectangle(800, 1000, chances) for _ in range(5000)]
    assert None not in found
    top, left, height, width = np.array(found).T
    area, ratio = height * width / 800_000, np.log(height / width)
    assert np.all((top >= 0) & (left >= 0) & (top + height <= 800) & (left + width <= 1000))
    assert area.max() < 1 / 3 + 1e-3
    # Up to here every ratio fits: 0.23 * 800000 / 0.3 = 783 ** 2 is the tallest.
    small = area < 0.23
    assert_uniform(area[small], 0.02, 0.23)
    assert_uniform(ratio[small], math.log(0.3), -math.log(0.3))
    for place, room in ((top, 800 - height), (left, 1000 - width)):
        # Spread over the pixel that was drawn, places are even.
        assert_uniform((place + chances.random(5000)) / (room + 1), 0, 1)


def test_erasing_fills_normal_noise_and_leaves_the_rest():
    preprocessing = Preprocessing(64, mean=(0.5, 0.4, 0.6), std=(0.1, 0.08, 0.12))
    white = Image.new('RGB', (64, 64), 'white')
    erasures = [augmentation.draw_erasure(64, 64, preprocessing, rng(seed)) for seed in range(40)]
    pixels = [np.asarray(erasure.image(white)) for erasure in erasures]
    assert np.all(np.asarray(white) == 255)
    noise = np.concatenate([image[~np.all(image == 255, axis=-1)] for image in pixels]) / 255
    noise = (noise - preprocessing.mean) / preprocessing.std
    assert len(noise) > 10_000
    assert np.abs(noise.mean(axis=0)).max() < 0.04
    assert np.abs(noise.std(axis=0) - 1).max() < 0.03
    # Per pixel and channel: neighbours tell nothing of each other.
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.03
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.03


def test_erasing_comes_as_often_as_asked_for():
    erasing, image, chances = Augmentation(**WHOLE, random_erasing=0.3), np.full((16, 16, 1), 255, np.uint8), rng()
    erased = sum(np.any(prepare_for_training(image, GREY, erasing, chances) != 255) for _ in range(2000))
    assert stats.binomtest(int(erased), 2000, 0.3).pvalue > 1e-3


def test_a_random_interpolation_is_either_by_half():
    chances = rng()
    found = [augmentation.choose_resampling('random', chances) for _ in range(2000)]
    assert_frequencies(found, {Image.Resampling.BICUBIC: 1 / 2, Image.Resampling.BILINEAR: 1 / 2})
    assert augmentation.choose_resampling('bicubic', chances) is Image.Resampling.BICUBIC


def test_the_interpolation_of_training_may_be_another(picture):
    square = picture[:40]
    made = {}
    for interpolation in ('bicubic', 'bilinear', None):
        other = Augmentation((1, 1), (1, 1), flip=False, train_interpolation=interpolation)
        made[interpolation] = prepare_for_training(square, Preprocessing(24, interpolation='bilinear'), other, rng())
    for name, filter_ in (('bicubic', Image.Resampling.BICUBIC), ('bilinear', Image.Resampling.BILINEAR)):
        np.testing.assert_array_equal(made[name], np.asarray(Image.fromarray(square).resize((24, 24), filter_)))
    np.testing.assert_array_equal(made[None], made['bilinear'])
    assert np.any(made['bicubic'] != made['bilinear'])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([None, *POLICIES]),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.sampled_from([None, 'random']),
    st.sampled_from([None, 1, 20]),
    st.integers(0, 2**31),
)
def test_any_image_becomes_one_of_the_size_and_the_same_seed_the_same(
    policy, height, width, channels, interpolation, size, seed
):
    everything = Augmentation(
        auto_augment=policy,
        randaugment_magnitude_std=0.5,
        randaugment_increasing=True,
        color_jitter=0.4,
        random_erasing=0.5,
        train_interpolation=interpolation,
        train_image_size=size,
    )
    preprocessing = Preprocessing(16, channels, (0.5,) * channels, (0.25,) * channels)
    image = rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    once, again = (prepare_for_training(image, preprocessing, everything, rng(seed)) for _ in range(2))
    assert (once.shape, once.dtype) == ((size or 16, size or 16, channels), np.uint8)
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize(('policy', 'fill'), [('randaugment', 102), ('autoaugment', 0), ('trivialaugment', 0)])
def test_what_comes_from_outside_has_the_colour_of_the_policys_origin(monkeypatch, policy, fill):
    for name in ('draw_rand_augment', 'draw_auto_augment', 'draw_trivial_augment'):
        monkeypatch.setattr(augmentation, name, lambda *_: [Step('translate_x', 5)])
    preprocessing = Preprocessing(16, mean=(0.4, 0.4, 0.4))  # 0.4 * 255 = 102
    white = np.full((16, 16, 3), 255, np.uint8)
    image = prepare_for_training(white, preprocessing, Augmentation(**WHOLE, auto_augment=policy), rng())
    assert np.all(image[:, :5] == fill)
    assert np.all(image[:, 5:] == 255)


def test_the_flip_comes_before_the_policy_and_jitter_after_it(monkeypatch, picture):
    done = []
    monkeypatch.setattr(augmentation, 'draw_auto_augment', lambda _: [Step('translate_x', 5), Step('invert', 0)])
    monkeypatch.setattr(augmentation, 'draw_color_jitter', lambda *_: [Step('brightness', 0.5)])
    monkeypatch.setattr(operations, 'apply', lambda picture, *step: done.append((picture, *step[:2])) or picture)
    both, square = Augmentation((1, 1), (1, 1), auto_augment='autoaugment', color_jitter=0.4), picture[:40]
    for seed in range(10):
        prepare_for_training(square, Preprocessing(40), both, rng(seed))
    assert [step for _, *step in done] == 10 * [['translate_x', 5], ['invert', 0], ['brightness', 0.5]]
    met = {np.asarray(image).tobytes() for image, *_ in done}
    assert met == {square.tobytes(), square[:, ::-1].tobytes()}


@pytest.mark.parametrize(
    ('field', 'value', 'wanted'),
    [
        ('auto_augment', 'randaugmet', "unknown auto_augment 'randaugmet'. Did you mean: randaugment"),
        ('train_interpolation', 'nearest', "unknown train_interpolation 'nearest'"),
        ('randaugment_magnitude', 11, 'randaugment_magnitude must be a number from 0 to 10, not 11'),
        ('randaugment_magnitude_std', -1, 'randaugment_magnitude_std must be a number, 0 or more, not -1'),
        ('randaugment_magnitude_std', math.nan, 'randaugment_magnitude_std must be a number, 0 or more, not nan'),
        ('color_jitter', '0.4', "color_jitter must be a number from 0 to 1, not '0.4'"),
        ('color_jitter', 1.5, 'color_jitter must be a number from 0 to 1, not 1.5'),
        ('random_erasing', -0.1, 'random_erasing must be a number from 0 to 1, not -0.1'),
        ('randaugment_layers', 0, 'randaugment_layers must be a whole number, 1 or more, not 0'),
        ('repeated_augmentation', 1.5, 'repeated_augmentation must be a whole number, 1 or more, not 1.5'),
        ('train_image_size', 0, 'train_image_size must be a whole number from 1 to 16,384, or None, not 0'),
    ],
)
def test_values_that_are_not_allowed(field, value, wanted):
    with pytest.raises(ValueError, match=wanted.replace('.', r'\.')):
        Augmentation(**{field: value})
