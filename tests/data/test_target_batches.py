"""Batches with boxes and masks: fixed sizes, nothing lost, the same from threads and workers."""

import itertools

import numpy as np
import pytest
from boxed_images import HEIGHT, WIDTH, boxed_images, boxes_of
from test_batches import assert_same, take

from flaxmobile.data import Augmentation, BatchFormat, Preprocessing, Sample
from flaxmobile.data.batches import evaluation_element, pad_boxes, training_elements

GREY = Preprocessing(32, 1, (0.5,), (0.5,), 1.0)
CROPS = Augmentation((0.5, 1.0), auto_augment='trivialaugment')
WHOLE = Augmentation((1.0, 1.0), (WIDTH / HEIGHT, WIDTH / HEIGHT), flip=False)


def test_shapes_and_types():
    for batches in (
        boxed_images(20).train_batches(6, GREY, CROPS, seed=0),
        boxed_images(20).evaluation_batches(6, GREY),
    ):
        for batch in take(3, batches):
            assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
                'image': ((6, 32, 32, 1), np.uint8),
                'mask': ((6,), np.bool_),
                'index': ((6,), np.int64),
                'boxes': ((6, 5, 4), np.float32),
                'box_labels': ((6, 5), np.int32),
                'segmentation_mask': ((6, 32, 32), np.uint8),
            }


def test_boxes_belong_to_their_images_and_what_is_left_is_filled_up():
    """The whole image, 24x32 pixels, becomes 32x32."""
    seen = set()
    for batch in take(8, boxed_images(12).train_batches(6, GREY, WHOLE, seed=0)):
        for row, index in enumerate(batch['index']):
            count = index % 4
            seen.add(count)
            np.testing.assert_allclose(batch['boxes'][row, :count], boxes_of(index) * [1, 4 / 3, 1, 4 / 3], atol=1e-5)
            np.testing.assert_array_equal(batch['boxes'][row, count:], 0)
            assert batch['box_labels'][row].tolist() == [*range(1, count + 1), *[-1] * (5 - count)]
            assert set(np.unique(batch['segmentation_mask'][row])) == set(range(count + 1))
            # Of a box's middle pixel, image and mask say the same.
            for label, (left, top, right, bottom) in zip(
                batch['box_labels'][row], batch['boxes'][row, :count], strict=False
            ):
                middle = row, int(top + bottom) // 2, int(left + right) // 2
                assert batch['segmentation_mask'][middle] == label
                assert abs(int(batch['image'][middle][0]) - 80 * label) < 20  # Bicubic overshoots at an edge.
    assert seen == {0, 1, 2, 3}


def test_rows_that_do_not_count_have_no_boxes_and_no_classes():
    """Sample 3 has a mask of another size; the last row is filled up."""
    numbers = boxed_images(7, cut=(3,))
    batches = list(numbers.evaluation_batches(4, GREY))
    index, mask = (np.concatenate([batch[name] for batch in batches]) for name in ('index', 'mask'))
    assert index.tolist() == [0, 1, 2, 3, 4, 5, 6, -1]
    assert np.flatnonzero(~mask).tolist() == [3, 7]
    for batch in batches:
        np.testing.assert_array_equal(batch['box_labels'][~batch['mask']], -1)
        np.testing.assert_array_equal(batch['segmentation_mask'][~batch['mask']], 255)
    assert numbers.unreadable == ['boxed 3']


def test_a_mask_of_another_size_counts_as_an_image_that_cannot_be_read():
    numbers = boxed_images(8, cut=(3,))
    batches = take(8, numbers.train_batches(4, GREY, WHOLE, seed=0))
    assert 3 not in np.concatenate([batch['index'] for batch in batches])
    assert numbers.unreadable == ['boxed 3']
    with pytest.raises(ValueError, match=r'boxed 3: the mask has 23 x 32 pixels, and the image 24 x 32'):
        list(boxed_images(8, cut=(3,), max_unreadable=0.0).evaluation_batches(4, GREY))


def test_no_box_is_left_out_without_a_word():
    wanted = r'boxed 3 has 3 boxes, and a batch has room for 2 of an image: raise most_boxes'
    with pytest.raises(ValueError, match=wanted):
        list(boxed_images(8, most_boxes=2).evaluation_batches(4, GREY))
    for workers in (0, 1):
        batches = boxed_images(4, most_boxes=2).train_batches(4, GREY, WHOLE, seed=0, workers=workers)
        with pytest.raises(ValueError, match=wanted):
            take(2, batches)
        batches.close()


def test_batches_are_those_of_threads_from_workers_and_from_any_step_on():
    threads = boxed_images(20).train_batches(6, GREY, CROPS, seed=3)
    workers = boxed_images(20).train_batches(6, GREY, CROPS, seed=3, start_step=2, workers=2)
    assert_same(take(8, threads)[2:], take(6, workers))
    workers.close()


def test_copies_are_varied_each_with_its_boxes():
    repeated = Augmentation((0.3, 1.0), repeated_augmentation=3)
    sample = boxed_images(8)._examples[7]
    made = training_elements(sample, 7, GREY, repeated, np.random.default_rng(0), BatchFormat(('boxes',)))
    assert len(made) == 3
    assert 'segmentation_mask' not in made[0]
    assert len({element['boxes'].tobytes() for element in made}) == 3
    for element in made:
        # The middle of what is seen of each box has its colour.
        for label, (left, top, right, bottom) in zip(element['box_labels'], element['boxes'], strict=True):
            if label >= 0:
                row, column = int(top + bottom) // 2, int(left + right) // 2
                assert abs(int(element['image'][row, column, 0]) - 80 * label) < 40


def test_boxes_are_padded():
    padded = pad_boxes(np.array([[1, 2, 3, 4]], np.float32), np.array([5], np.int32), 2, 'cow')
    assert padded['boxes'].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0]]
    assert padded['box_labels'].tolist() == [5, -1]
    full = pad_boxes(np.zeros((2, 4), np.float32), np.array([5, 6], np.int32), 2, 'cow')
    assert full['box_labels'].tolist() == [5, 6]


@pytest.mark.parametrize('target', ['label', 'boxes', 'mask'])
def test_a_target_that_is_missing_is_named(target):
    sample = Sample(np.zeros((8, 8, 1), np.uint8), None, 'cow')
    with pytest.raises(ValueError, match=f'cow has no {target}, which every sample of this data set needs'):
        evaluation_element(sample, 0, GREY, BatchFormat((target,)))


def test_classes_of_boxes_and_masks_get_other_numbers_with_those_of_the_set():
    batches = boxed_images(8).renumbered(('three', 'two', 'one', 'ground')).evaluation_batches(8, GREY)
    batch = next(batches)
    assert batch['box_labels'][3, :4].tolist() == [2, 1, 0, -1]
    assert set(np.unique(batch['segmentation_mask'][3])) == {0, 1, 2, 3}
    assert batch['segmentation_mask'][0].min() == 3


def test_an_image_with_pixels_takes_part():
    """What is made on the fly has no file."""

    class Made(list):
        pass

    numbers = boxed_images(4)
    numbers._examples = Made(Sample(np.full((8, 8, 1), index, np.uint8), index) for index in range(4))
    numbers.batch_format = BatchFormat()
    batch = next(numbers.evaluation_batches(4, GREY))
    assert list(itertools.chain(batch['image'][:, 0, 0, 0], batch['label'])) == [0, 1, 2, 3] * 2
    with pytest.raises(TypeError, match='there is no file of it'):
        numbers.encoded(0)
