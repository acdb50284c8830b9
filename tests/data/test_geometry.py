"""Moves of boxes and masks, by hand and against each other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxmobile.data import Augmentation, Preprocessing, Sample, geometry, operations
from flaxmobile.data.augmentation import draw_changes, draw_crop
from flaxmobile.data.geometry import Crop, Flip, Warp, is_left, move_boxes, move_mask
from flaxmobile.data.preparation import evaluation_sample, training_sample

BICUBIC = Image.Resampling.BICUBIC


def warp(operation: str, value: float) -> Warp:
    return Warp(operation, value, BICUBIC, (0, 0, 0))


BY_HAND = [  # A move, a box in an image of 10x10 pixels, and what becomes of it.
    (Crop(2, 1, 4, 6), (0, 0, 4, 4), (0, 0, 3, 2)),
    # Shifted (-1, -2, 3, 2); half as wide and twice as high (-0.5, -4, 1.5, 4); then what is within 3x8 pixels.
    (Crop(2, 1, 4, 6, (8, 3)), (0, 0, 4, 4), (0, 0, 1.5, 4)),
    # The columns from 2.5 to 7.5 become four: (5 - 2.5) * 4 / 5 = 2.
    (Crop(0, 0, 10, 10, (4, 4), BICUBIC, (2.5, 0, 7.5, 10)), (5, 5, 10, 10), (2, 2, 4, 4)),
    (Flip(), (1, 2, 4, 6), (6, 2, 9, 6)),
    (warp('translate_x', 3), (1, 2, 4, 6), (4, 2, 7, 6)),
    (warp('translate_x', 7.5), (1, 2, 4, 6), (8.5, 2, 10, 6)),
    (warp('translate_y', -3), (1, 2, 4, 6), (1, 0, 4, 3)),
    # A row moves to the left by half its distance from the top: by 1 at the top of the box and by 3 at its bottom.
    (warp('shear_x', 0.5), (4, 2, 8, 6), (1, 2, 7, 6)),
    (warp('shear_y', -0.5), (2, 1, 6, 4), (2, 2, 6, 7)),
    # Counter-clockwise, (x, y) goes to (y, 10 - x).
    (warp('rotate', 90), (1, 2, 4, 6), (2, 6, 6, 9)),
    (warp('rotate', -90), (1, 2, 4, 6), (4, 1, 8, 4)),
    (warp('rotate', 180), (1, 2, 4, 6), (6, 4, 9, 8)),
    (warp('rotate', 45), (4, 4, 6, 6), (5 - 2**0.5, 5 - 2**0.5, 5 + 2**0.5, 5 + 2**0.5)),
    (warp('translate_x', 20), (1, 2, 4, 6), (10, 2, 10, 6)),
]


@pytest.mark.parametrize(('move', 'box', 'expected'), BY_HAND)
def test_boxes_by_hand(move, box, expected):
    moved = move_boxes(np.array([box], np.float32), [move], 10, 10)
    assert moved.dtype == np.float32
    np.testing.assert_allclose(moved, [expected], atol=1e-5)
    assert move_boxes(np.zeros((0, 4), np.float32), [move], 10, 10).shape == (0, 4)


def test_every_warp_is_worked_out_by_hand():
    assert {move.operation for move, *_ in BY_HAND if isinstance(move, Warp)} == set(operations.WARPS)


def test_moves_follow_one_another_and_what_has_left_the_image_does_not_come_back():
    out_and_back = [warp('translate_x', 7), warp('translate_x', -7)]
    np.testing.assert_allclose(move_boxes(np.array([[1, 2, 6, 4]]), out_and_back, 10, 10), [[1, 2, 3, 4]])
    # The crop has 4 columns, which the flip counts from.
    np.testing.assert_allclose(
        move_boxes(np.array([[2, 0, 3, 4]]), [Crop(0, 2, 10, 4), Flip()], 10, 10), [[3, 0, 4, 4]]
    )


def test_masks_by_hand():
    mask = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.uint8)

    def moved(*moves):
        return move_mask(mask, moves).tolist()

    assert moved(Flip()) == [[3, 2, 1, 0], [7, 6, 5, 4]]
    assert moved(Crop(1, 1, 1, 2)) == [[5, 6]]
    assert moved(Crop(0, 1, 1, 2, (2, 4))) == [[1, 1, 2, 2], [1, 1, 2, 2]]
    # Of four columns made two, the centres lie at 1 and 3, where the second and the fourth begin.
    assert moved(Crop(0, 0, 1, 4, (1, 2))) == [[1, 3]]
    assert moved(warp('translate_x', 1)) == [[255, 0, 1, 2], [255, 4, 5, 6]]
    assert moved(warp('translate_y', -1)) == [[4, 5, 6, 7], [255, 255, 255, 255]]
    # The centres of the rows lie half a pixel and one and a half below the top: they move by 1 and by 3.
    assert moved(warp('shear_x', 2)) == [[1, 2, 3, 255], [7, 255, 255, 255]]
    assert moved(warp('rotate', 180)) == [[7, 6, 5, 4], [3, 2, 1, 0]]
    assert moved(Flip(), warp('translate_x', 2)) == [[255, 255, 3, 2], [255, 255, 7, 6]]


def test_a_box_needs_an_area_and_the_least_pixels():
    boxes = np.array(
        [[0, 0, 1, 1], [0, 0, 0.9, 5], [0, 0, 5, 0.9], [3, 3, 3, 9], [3, 3, 9, 3], [1, 1, 3, 3]], np.float32
    )
    assert is_left(boxes, 1).tolist() == [True, False, False, False, False, True]
    assert is_left(boxes, 0).tolist() == [True, True, True, False, False, True]


def rectangle(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    mask, (left, top, right, bottom) = np.zeros((height, width), np.uint8), box
    mask[top:bottom, left:right] = 1
    return mask


def hull(mask: np.ndarray) -> np.ndarray | None:
    rows, columns = np.nonzero(mask == 1)
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@st.composite
def rectangles(draw):
    height, width = draw(st.integers(20, 60)), draw(st.integers(20, 60))
    left, top = draw(st.integers(0, width - 10)), draw(st.integers(0, height - 10))
    right, bottom = draw(st.integers(left + 8, width)), draw(st.integers(top + 8, height))
    return height, width, (left, top, right, bottom)


@settings(max_examples=200, deadline=None)
@given(rectangles(), st.sampled_from(sorted(operations.WARPS)), st.floats(-1, 1))
def test_a_box_is_the_hull_of_the_warped_rectangle(drawn, operation, share):
    """Where no corner leaves the image, to a pixel."""
    height, width, box = drawn
    greatest = {'rotate': 180, 'shear_x': 0.6, 'shear_y': 0.6}.get(operation, 12)
    move, far = warp(operation, share * greatest), 200
    # A wide margin first, so that nothing is cut off.
    mask = np.pad(rectangle(height, width, box), far)
    frame = mask.shape
    moved = move_boxes(np.array([box]) + far, [move], *frame)[0]
    assert np.all((moved > 0) & (moved < [frame[1], frame[0], frame[1], frame[0]]))
    np.testing.assert_allclose(hull(move_mask(mask, [move])), moved, atol=1)


@settings(max_examples=200, deadline=None)
@given(rectangles(), st.sampled_from([None, 'randaugment', 'trivialaugment', 'autoaugment']), st.integers(0, 10**6))
def test_a_training_box_holds_its_rectangle(drawn, policy, seed):
    """To a pixel for each change; without a policy, where nothing is turned, it is its hull."""
    height, width, box = drawn
    sample = Sample(
        np.zeros((height, width, 3), np.uint8),
        None,
        '',
        np.array([box]),
        np.array([3]),
        rectangle(height, width, box),
    )
    augmentation = Augmentation((0.3, 1.0), auto_augment=policy, randaugment_layers=3)
    made = training_sample(sample, Preprocessing(48), augmentation, np.random.default_rng(seed))
    assert (made.image.shape, made.mask.shape) == ((48, 48, 3), (48, 48))
    assert made.box_labels.tolist() == [3] * len(made.boxes)
    found = hull(made.mask)
    if not len(made.boxes):
        assert found is None or (found[2:] - found[:2]).min() <= 2
    elif policy is None:
        np.testing.assert_allclose(found, made.boxes[0], atol=1)
    elif found is not None:
        assert np.all(found[:2] >= made.boxes[0, :2] - 1.5)
        assert np.all(found[2:] <= made.boxes[0, 2:] + 1.5)


@pytest.mark.parametrize('policy', [None, 'randaugment', 'trivialaugment', 'autoaugment'])
def test_a_target_changes_nothing_of_the_image(policy, picture):
    """Nor does it change what is drawn: the same seed gives the same pixels, with boxes and mask or without."""
    everything = Augmentation(auto_augment=policy, color_jitter=0.4, random_erasing=0.5, train_interpolation='random')
    mask = np.zeros(picture.shape[:2], np.uint8)
    for seed in range(10):
        made = [
            training_sample(sample, Preprocessing(32), everything, np.random.default_rng(seed)).image
            for sample in (
                Sample(picture, 1),
                Sample(picture, None, '', np.array([[3, 4, 20, 30]]), np.array([1]), mask),
            )
        ]
        np.testing.assert_array_equal(*made)


def test_a_draw_is_a_function_of_generator_and_size_alone():
    everything = Augmentation(auto_augment='randaugment', color_jitter=0.4, train_interpolation='random')

    def drawn(seed):
        rng = np.random.default_rng(seed)
        crop = draw_crop(40, 60, Preprocessing(32), everything, rng)
        return crop, draw_changes(32, Preprocessing(32), everything, rng)

    assert all(drawn(seed) == drawn(seed) for seed in range(20))
    assert len({repr(drawn(seed)) for seed in range(20)}) == 20


def test_colours_alone_leave_boxes_and_mask():
    mask = np.random.default_rng(0).integers(0, 3, (20, 20), np.uint8)
    sample = Sample(np.full((20, 20, 3), 90, np.uint8), None, '', np.array([[2, 3, 9, 10]]), np.array([0]), mask)
    colours = Augmentation((1, 1), (1, 1), flip=False, color_jitter=0.9, random_erasing=1.0)
    made = training_sample(sample, Preprocessing(20), colours, np.random.default_rng(0))
    assert np.any(made.image != 90)
    np.testing.assert_array_equal(made.mask, mask)
    np.testing.assert_array_equal(made.boxes, [[2, 3, 9, 10]])


def test_evaluation_resizes_boxes_and_mask_and_cuts_the_centre():
    """20x40 pixels become 32x64, of which the columns from 18 and the rows from 2 are shown."""
    boxes = np.array([[10, 5, 20, 15], [0, 0, 5, 5], [20, 10, 20.3, 11]])
    sample = Sample(
        np.zeros((20, 40, 3), np.uint8), None, '', boxes, np.array([7, 8, 9]), rectangle(20, 40, (10, 5, 20, 15))
    )
    made = evaluation_sample(sample, Preprocessing(28, crop_fraction=0.875))
    # 10 * 1.6 - 18 < 0; the second box ends at 8, left of the middle; the third is small and stays.
    np.testing.assert_allclose(made.boxes, [[0, 6, 14, 22], [14, 14, 14.48, 15.6]], atol=1e-5)
    assert made.box_labels.tolist() == [7, 9]
    np.testing.assert_array_equal(hull(made.mask), [0, 6, 14, 22])


def test_evaluation_of_a_long_image_moves_boxes_and_mask_as_of_any_other(monkeypatch):
    box = (140, 1, 160, 3)
    sample = Sample(np.zeros((4, 300, 3), np.uint8), None, '', np.array([box]), np.array([0]), rectangle(4, 300, box))
    whole = evaluation_sample(sample, Preprocessing(32))
    monkeypatch.setattr(geometry, '_LARGEST_RESIZED', 0)
    middle = evaluation_sample(sample, Preprocessing(32))
    np.testing.assert_allclose(middle.boxes, whole.boxes, atol=1e-4)
    np.testing.assert_array_equal(middle.mask, whole.mask)
