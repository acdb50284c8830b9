import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxmobile.data import operations

NEAREST, BILINEAR, BICUBIC = Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC

# What each takes from weakest to strongest, and what changes nothing.
RANGES = {
    'posterize': (0, 8),
    'solarize': (0, 256),
    'solarize_add': (0, 110),
    'color': (0, 2),
    'contrast': (0, 2),
    'brightness': (0, 2),
    'sharpness': (0, 2),
    'rotate': (-180, 180),
    'shear_x': (-1, 1),
    'shear_y': (-1, 1),
    'translate_x': (-40, 40),
    'translate_y': (-40, 40),
}
IDENTITY = {
    'posterize': 8,
    'solarize': 256,
    'solarize_add': 0,
    **dict.fromkeys(('color', 'contrast', 'brightness', 'sharpness'), 1),
    **dict.fromkeys(operations.WARPS, 0),
}


def picture(height: int, width: int, channels: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0])


def grey(*rows: list[int]) -> Image.Image:
    return Image.fromarray(np.array(rows, np.uint8))


def pixels(image: Image.Image) -> list:
    return np.asarray(image).tolist()


def test_the_tables_know_every_operation():
    assert {*operations.PLAIN, *RANGES} == {*operations.PLAIN, *operations.VALUED, *operations.WARPS}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([*operations.PLAIN, *RANGES]),
    st.floats(0, 1),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 3]),
    st.sampled_from([BILINEAR, BICUBIC]),
)
def test_size_and_mode_stay(operation, place, height, width, channels, resampling):
    low, high = RANGES.get(operation, (0, 0))
    before = picture(height, width, channels)
    copy = before.copy()
    after = operations.apply(before, operation, low + place * (high - low), resampling, (9,) * channels)
    assert (after.size, after.mode) == (before.size, before.mode)
    assert before == copy


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(IDENTITY)),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from([1, 3]),
    st.integers(0, 99),
)
def test_what_changes_nothing(operation, height, width, channels, seed):
    before = picture(height, width, channels, seed)
    for resampling in (BILINEAR, BICUBIC):
        after = operations.apply(before, operation, IDENTITY[operation], resampling, (9,) * channels)
        np.testing.assert_array_equal(np.asarray(after), np.asarray(before))


def test_pixels_by_hand():
    assert pixels(operations.invert(grey([0, 1, 255]))) == [[255, 254, 0]]
    assert pixels(operations.posterize(grey([0b10110111, 0b00011111]), 3)) == [[0b10100000, 0]]
    assert pixels(operations.posterize(grey([255, 7]), 0)) == [[0, 0]]
    assert pixels(operations.solarize(grey([99, 100, 255]), 100)) == [[99, 155, 0]]
    assert pixels(operations.solarize_add(grey([0, 100, 127, 128, 200]), 60)) == [[60, 160, 187, 128, 200]]
    assert pixels(operations.brightness(grey([0, 101, 200]), 0.5)) == [[0, 50, 100]]
    assert pixels(operations.brightness(grey([0, 101, 200]), 1.5)) == [[0, 151, 255]]


def test_contrast_moves_from_the_mean_by_hand():
    assert pixels(operations.contrast(grey([0, 200]), 0.5)) == [[50, 150]]
    assert pixels(operations.contrast(grey([50, 150]), 1.5)) == [[25, 175]]
    assert pixels(operations.contrast(grey([0, 200]), 0)) == [[100, 100]]


def test_auto_contrast_stretches_each_channel_by_hand():
    assert pixels(operations.auto_contrast(grey([100, 110, 151]))) == [[0, 50, 255]]
    assert pixels(operations.auto_contrast(grey([7, 7]))) == [[7, 7]]
    both = Image.fromarray(np.array([[[10, 0, 5], [20, 255, 5]]], np.uint8))
    assert pixels(operations.auto_contrast(both)) == [[[0, 0, 5], [255, 255, 5]]]


def test_equalize_by_hand():
    """A step is (510 - 255) // 255 = 1 pixel; each value becomes the steps below it."""
    values = np.repeat(np.array([10, 20], np.uint8), 255).reshape(2, 255)
    assert pixels(operations.equalize(Image.fromarray(values))) == [[0] * 255, [255] * 255]


def test_color_moves_from_grey_by_hand():
    red = Image.fromarray(np.array([[[255, 0, 0]]], np.uint8))
    luma = 76  # 0.299 * 255, ITU-R 601
    assert pixels(operations.color(red, 0)) == [[[luma] * 3]]
    assert pixels(operations.color(red, 0.5)) == [[[165, 38, 38]]]
    for factor in (0, 0.5, 1.9):
        assert pixels(operations.color(grey([5, 200]), factor)) == [[5, 200]]


def test_sharpness_by_hand():
    """The smooth picture has at its centre five thirteenths of the pixel and one of each neighbour."""
    dot = grey([0, 0, 0], [0, 130, 0], [0, 0, 0])
    assert pixels(operations.sharpness(dot, 0))[1][1] == 50
    assert pixels(operations.sharpness(dot, 0.5))[1][1] == 90
    assert pixels(operations.sharpness(dot, 2))[1][1] == 210


def test_rotate_turns_counter_clockwise():
    square = picture(5, 5, 3)
    for turns in range(-2, 3):
        turned = operations.rotate(square, 90 * turns, BILINEAR, (0, 0, 0))
        np.testing.assert_array_equal(np.asarray(turned), np.rot90(np.asarray(square), turns))


def test_translate_and_shear_by_hand():
    image, fill = grey([1, 2, 3, 4], [5, 6, 7, 8]), (9,)
    assert pixels(operations.translate_x(image, 1, NEAREST, fill)) == [[9, 1, 2, 3], [9, 5, 6, 7]]
    assert pixels(operations.translate_x(image, -2, NEAREST, fill)) == [[3, 4, 9, 9], [7, 8, 9, 9]]
    assert pixels(operations.translate_y(image, 1, NEAREST, fill)) == [[9, 9, 9, 9], [1, 2, 3, 4]]
    # The centres of the rows lie half a pixel and one and a half below the top: they move by 1 and by 3.
    assert pixels(operations.shear_x(image, 2, NEAREST, fill)) == [[2, 3, 4, 9], [8, 9, 9, 9]]
    down = grey([1, 5], [2, 6], [3, 7], [4, 8])
    assert pixels(operations.shear_y(down, 2, NEAREST, fill)) == [[2, 8], [3, 9], [4, 9], [9, 9]]


def test_what_comes_from_outside_has_the_fill():
    white = Image.new('RGB', (8, 8), 'white')
    for operation, value in (('translate_x', 3), ('translate_y', -3), ('shear_x', 1), ('shear_y', -1), ('rotate', 45)):
        after = np.asarray(operations.apply(white, operation, value, BILINEAR, (10, 20, 30)))
        assert {tuple(pixel) for pixel in after.reshape(-1, 3)} >= {(10, 20, 30), (255, 255, 255)}
