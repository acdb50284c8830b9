"""Boxes and masks against torchvision's `transforms.v2`, move by move and as a whole."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import SanitizeBoundingBoxes
from torchvision.transforms.v2 import functional as F

from flaxmobile.data import Augmentation, Preprocessing, Sample, operations
from flaxmobile.data.augmentation import draw_changes, draw_crop
from flaxmobile.data.geometry import Crop, Flip, Move, Warp, is_left, move_boxes, move_mask
from flaxmobile.data.preparation import training_sample

pytestmark = pytest.mark.parity

HEIGHT, WIDTH = 37, 29
NEAREST, EXACT = InterpolationMode.NEAREST, InterpolationMode.NEAREST_EXACT
BICUBIC = Image.Resampling.BICUBIC


def make_boxes(seed: int, count: int = 6, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(-3, 1.1, (count, 2, 2)) + 2, axis=1) / 3 * [width, height]
    return corners.reshape(count, 4).clip(0, [width, height] * 2).astype(np.float32)


def theirs(boxes: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format='XYXY', canvas_size=(height, width))


def make_mask(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 20, (4, 4), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def affine(image, translate=(0, 0), shear=(0.0, 0.0), center=None):
    return F.affine(image, 0.0, list(translate), 1.0, list(shear), NEAREST, 255, center)


def warped(image, operation: str, value: float):
    """The same by torchvision, which takes the angle of a shear in degrees; `value` is what ours takes."""
    angle = math.degrees(math.atan(value))
    match operation:
        case 'rotate':
            return F.rotate(image, value, NEAREST, fill=255)
        case 'shear_x':
            return affine(image, shear=(angle, 0.0), center=[0, 0])
        case 'shear_y':
            return affine(image, shear=(0.0, angle), center=[0, 0])
        case 'translate_x':
            return affine(image, translate=(value, 0))
    return affine(image, translate=(0, value))


VALUES = {
    'rotate': st.floats(-180, 180),
    **dict.fromkeys(('shear_x', 'shear_y'), st.floats(-0.99, 0.99)),
    **dict.fromkeys(('translate_x', 'translate_y'), st.integers(-30, 30)),
}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.data())
@pytest.mark.parametrize('operation', sorted(operations.WARPS))
def test_warped_boxes_and_masks_equal_torchvisions(operation, seed, data):
    value = data.draw(VALUES[operation])
    move, boxes, mask = Warp(operation, value, BICUBIC, (0,)), make_boxes(seed), make_mask(seed)
    expected = warped(theirs(boxes), operation, value).numpy()
    np.testing.assert_allclose(move_boxes(boxes, [move], HEIGHT, WIDTH), expected, atol=1e-4)
    ours = move_mask(mask, [move])
    np.testing.assert_array_equal(ours, np.asarray(warped(Image.fromarray(mask), operation, value)))
    # Of tensors torchvision rounds by other rules where a pixel's centre falls between two.
    of_tensor = warped(tv_tensors.Mask(torch.from_numpy(mask[None].copy())), operation, value)[0].numpy()
    assert np.mean(ours == of_tensor) > 0.97


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_crops_of_boxes_and_masks_equal_torchvisions(seed, data):
    rows, columns = data.draw(st.integers(1, HEIGHT)), data.draw(st.integers(1, WIDTH))
    top, left = data.draw(st.integers(0, HEIGHT - rows)), data.draw(st.integers(0, WIDTH - columns))
    size = data.draw(st.none() | st.tuples(st.integers(1, 50), st.integers(1, 50)))
    move, boxes, mask = Crop(top, left, rows, columns, size), make_boxes(seed), make_mask(seed)

    def cropped(image, interpolation):
        part = F.crop(image, top, left, rows, columns)
        return part if size is None else F.resize(part, list(size), interpolation)

    np.testing.assert_allclose(
        move_boxes(boxes, [move], HEIGHT, WIDTH), cropped(theirs(boxes), EXACT).numpy(), rtol=1e-5, atol=1e-4
    )
    ours = move_mask(mask, [move])
    np.testing.assert_array_equal(ours, np.asarray(cropped(Image.fromarray(mask), NEAREST)))
    of_tensor = cropped(tv_tensors.Mask(torch.from_numpy(mask[None].copy())), EXACT)[0].numpy()
    sure = np.ix_(*(between_no_pixels(*lengths) for lengths in zip((rows, columns), ours.shape, strict=True)))
    np.testing.assert_array_equal(ours[sure], of_tensor[sure])


def between_no_pixels(length: int, resized: int) -> np.ndarray:
    """Which places of a resized side do not have their centre just where two pixels meet: there either is nearest."""
    return (2 * np.arange(resized) + 1) * length % (2 * resized) != 0


def test_a_flip_equals_torchvisions():
    boxes, mask = make_boxes(0), make_mask(0)
    np.testing.assert_allclose(Flip().boxes(boxes, HEIGHT, WIDTH), F.horizontal_flip(theirs(boxes)).numpy(), atol=1e-5)
    of_tensor = F.horizontal_flip(tv_tensors.Mask(torch.from_numpy(mask[None].copy())))[0].numpy()
    np.testing.assert_array_equal(move_mask(mask, [Flip()]), of_tensor)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6))
def test_the_same_boxes_are_dropped_as_by_torchvision(seed):
    rng = np.random.default_rng(seed)
    start = rng.uniform(0, 20, (20, 2))
    boxes = np.concatenate([start, start + rng.uniform(0, 2, (20, 2))], axis=1).astype(np.float32)
    labels = torch.arange(20)
    left = SanitizeBoundingBoxes()({'boxes': theirs(boxes), 'labels': labels})['labels'].numpy()
    np.testing.assert_array_equal(np.flatnonzero(is_left(boxes, 1.0)), left)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([None, 'randaugment', 'trivialaugment', 'autoaugment']))
def test_a_training_sample_equals_torchvisions(seed, policy):
    """All that is drawn for a sample, done by torchvision to its boxes, in the same order."""
    augmentation, preprocessing = Augmentation((0.3, 1.0), auto_augment=policy), Preprocessing(48)
    sample = Sample(np.zeros((HEIGHT, WIDTH, 3), np.uint8), None, '', make_boxes(seed), np.arange(6), make_mask(seed))
    made = training_sample(sample, preprocessing, augmentation, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    crop = draw_crop(HEIGHT, WIDTH, preprocessing, augmentation, rng)
    boxes = F.resized_crop(theirs(sample.boxes), crop.top, crop.left, crop.height, crop.width, [48, 48])
    for change in draw_changes(48, preprocessing, augmentation, rng):
        if isinstance(change, Flip):
            boxes = F.horizontal_flip(boxes)
        elif isinstance(change, Warp):
            boxes = warped(boxes, change.operation, change.value)
        else:
            assert not isinstance(change, Move)
    # torchvision's resizing rounds 48 to 48.000004, and drops what so lies outside, if it is not cut off.
    boxes = F.clamp_bounding_boxes(boxes)
    expected = SanitizeBoundingBoxes()({'boxes': boxes, 'labels': torch.arange(6)})
    assert made.box_labels.tolist() == expected['labels'].tolist()
    np.testing.assert_allclose(made.boxes, expected['boxes'].numpy(), atol=1e-3)
