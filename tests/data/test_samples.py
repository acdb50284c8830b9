import numpy as np
import pytest

from flaxmobile.data import Sample

PIXELS = np.zeros((4, 6, 3), np.uint8)
BOX, LABEL = [[0, 0, 2, 3]], [1]


def test_boxes_and_labels_have_one_type_whatever_they_come_as():
    sample = Sample(PIXELS, boxes=np.array(BOX), box_labels=np.array(LABEL, np.int64))
    assert (sample.boxes.dtype, sample.box_labels.dtype) == (np.float32, np.int32)
    empty = Sample(PIXELS, boxes=np.zeros((0, 4)), box_labels=np.zeros(0))
    assert (empty.boxes.shape, empty.box_labels.dtype) == ((0, 4), np.int32)


@pytest.mark.parametrize(
    ('target', 'wanted'),
    [
        ({'boxes': np.array(BOX)}, 'cow: boxes and box_labels go together'),
        ({'box_labels': np.array(LABEL)}, 'boxes and box_labels go together'),
        ({'boxes': np.zeros((2, 4)), 'box_labels': np.array(LABEL)}, r'shape \[2, 4\] and box_labels \[1\]'),
        ({'boxes': np.zeros(4), 'box_labels': np.array(LABEL)}, r'shape \[4\]'),
        ({'boxes': np.zeros(0), 'box_labels': np.zeros(0)}, r'shape \[0\]'),
        ({'boxes': np.array([[0, 0, np.nan, 1]]), 'box_labels': np.array(LABEL)}, 'not finite'),
        ({'boxes': np.array([[5, 0, 2, 3]]), 'box_labels': np.array(LABEL)}, 'ends before it begins'),
        ({'boxes': np.array(BOX), 'box_labels': np.array([1.0])}, 'whole numbers'),
        ({'boxes': np.array(BOX), 'box_labels': np.array([-1])}, 'whole numbers, 0 or more'),
        ({'mask': np.zeros((4, 6), np.int32)}, r'the mask is int32 \[4, 6\]'),
        ({'mask': np.zeros((4, 6, 1), np.uint8)}, r'the mask is uint8 \[4, 6, 1\]'),
    ],
)
def test_targets_that_cannot_be(target, wanted):
    with pytest.raises(ValueError, match=wanted):
        Sample(PIXELS, None, 'cow', **target)


def test_classes_get_other_numbers_and_255_stays():
    mask = np.array([[0, 1], [2, 255]], np.uint8)
    sample = Sample(PIXELS, 2, '', np.array([*BOX, *BOX]), np.array([0, 2]), mask).renumbered([1, 2, 0])
    assert sample.label == 0
    assert sample.box_labels.tolist() == [1, 0]
    assert sample.mask.tolist() == [[1, 2], [0, 255]]
    assert sample.mask.dtype == np.uint8


@pytest.mark.parametrize(
    'target',
    [
        {'label': 3},
        {'boxes': np.array(BOX), 'box_labels': np.array([3])},
        {'mask': np.full((4, 6), 3, np.uint8)},
    ],
)
def test_a_class_without_a_number_is_refused(target):
    with pytest.raises(ValueError, match=r'cow: it has the class 3, and there are 3 classes, counted from 0'):
        Sample(PIXELS, name='cow', **target).renumbered(range(3))
