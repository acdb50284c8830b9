import itertools
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_images import numbered_images

from flaxmobile.data import Augmentation, Preprocessing, UnreadableImages
from flaxmobile.data.dataset import evaluation_share
from flaxmobile.data.sample import labelled

SMALL = Preprocessing(4, 1, (0.5,), (0.5,), 1.0)
WHOLE = Augmentation((1.0, 1.0), (1.0, 1.0), flip=False)


def take(count, batches):
    return list(itertools.islice(batches, count))


def joined(batches, name='index'):
    return np.concatenate([batch[name] for batch in batches])


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_shapes_types_and_that_all_belongs_together():
    for batches in (
        numbered_images(50).train_batches(8, SMALL, WHOLE, seed=3),
        numbered_images(50).evaluation_batches(8, SMALL),
    ):
        batch = next(batches)
        assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
            'image': ((8, 4, 4, 1), np.uint8),
            'label': ((8,), np.int32),
            'mask': ((8,), np.bool_),
            'index': ((8,), np.int64),
        }
        assert batch['mask'].all()
        np.testing.assert_array_equal(batch['label'], batch['index'] % 3)
        np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['index'])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 7))
def test_evaluation_gives_each_example_once_and_every_process_as_many_batches(length, batch_size, processes):
    numbers = numbered_images(length)
    parts = [
        list(numbers.evaluation_batches(batch_size, SMALL, process_index=process, process_count=processes))
        for process in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1
    batches = [batch for part in parts for batch in part]
    assert all(len(batch['index']) == batch_size for batch in batches)
    mask = joined(batches, 'mask')
    np.testing.assert_array_equal(joined(batches)[mask], np.arange(length))
    assert np.all(joined(batches)[~mask] == -1)
    assert not joined(batches, 'image')[~mask].any()


def test_no_more_evaluation_batches_than_needed():
    assert evaluation_share(10, 4, 0, 1) == (range(10), 12)
    assert evaluation_share(10, 4, 1, 3) == (range(4, 8), 4)
    assert evaluation_share(10, 4, 2, 3) == (range(8, 10), 4)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**31))
def test_an_epoch_holds_each_example_once_over_all_processes(length, batch_size, processes, seed):
    numbers = numbered_images(length)
    steps = length  # Of batch_size examples on each process: batch_size * processes whole epochs.
    parts = [
        take(
            steps, numbers.train_batches(batch_size, SMALL, WHOLE, seed=seed, process_index=p, process_count=processes)
        )
        for p in range(processes)
    ]
    assert set(Counter(joined([batch for part in parts for batch in part])).values()) == {batch_size * processes}


def test_processes_share_the_batches_of_one():
    numbers = numbered_images(50)
    whole = take(12, numbers.train_batches(12, SMALL, Augmentation((0.2, 1.0)), seed=5))
    parts = [
        take(12, numbers.train_batches(4, SMALL, Augmentation((0.2, 1.0)), seed=5, process_index=p, process_count=3))
        for p in range(3)
    ]
    assert_same(
        whole, [{k: np.concatenate([part[k] for part in step]) for k in step[0]} for step in zip(*parts, strict=True)]
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 12), st.integers(1, 3))
def test_start_step_goes_on_where_it_stopped(start, processes):
    share = {'process_index': processes - 1, 'process_count': processes}
    numbers, augmentation = numbered_images(17), Augmentation((0.2, 1.0))
    straight = take(start + 3, numbers.train_batches(5, SMALL, augmentation, seed=1, **share))
    resumed = take(3, numbered_images(17).train_batches(5, SMALL, augmentation, seed=1, start_step=start, **share))
    assert_same(straight[start:], resumed)


def test_order_and_augmentation_follow_the_seed_and_change_with_it_and_the_epoch():
    first, again, other = (
        joined(take(20, numbered_images(100).train_batches(10, SMALL, WHOLE, seed=seed))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    for order in (other[:100], first[100:], np.arange(100)):
        # Of two random orders one example in a hundred agrees.
        assert np.mean(order == first[:100]) < 0.1


def test_batches_are_read_ahead():
    numbers = numbered_images(10**6)
    batches = numbers.train_batches(4, SMALL, WHOLE, seed=0)
    next(batches)
    deadline = time.monotonic() + 5
    while numbers._examples.reads < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert numbers._examples.reads >= 8


def test_small_sets_are_decoded_once():
    numbers = numbered_images(20)
    take(20, numbers.train_batches(5, SMALL, WHOLE, seed=0))
    read = numbers._examples.reads
    list(numbers.evaluation_batches(5, SMALL))
    assert numbers._examples.reads == read


def test_unreadable_in_evaluation_is_masked_and_named():
    numbers = numbered_images(300, broken=(7, 8))
    batches = list(numbers.evaluation_batches(50, SMALL))
    mask = joined(batches, 'mask')
    np.testing.assert_array_equal(np.flatnonzero(~mask), [7, 8])
    np.testing.assert_array_equal(joined(batches), np.arange(300))
    assert sorted(numbers.unreadable) == ['number 7', 'number 8']


def test_the_next_readable_image_stands_in_for_an_unreadable_one_in_training():
    broken, whole = (7, 8, 299), numbered_images(300)
    numbers = numbered_images(300, broken=broken)
    batches = take(60, numbers.train_batches(10, SMALL, WHOLE, seed=0))
    assert joined(batches, 'mask').all()
    expected = joined(take(60, whole.train_batches(10, SMALL, WHOLE, seed=0)))
    stand_in = {7: 9, 8: 9, 299: 0}
    np.testing.assert_array_equal(joined(batches), [stand_in.get(index, index) for index in expected])
    assert sorted(numbers.unreadable) == ['number 299', 'number 7', 'number 8']


@pytest.mark.parametrize(
    ('length', 'broken', 'allowed'),
    [(10, 1, 0.01), (10, 0, 0.0), (300, 3, 0.01), (10, 9, 0.9)],
)
def test_a_set_share_may_be_unreadable_and_no_more(length, broken, allowed):
    list(numbered_images(length, range(broken), allowed).evaluation_batches(4, SMALL))
    with pytest.raises(UnreadableImages, match=rf'{broken + 1} of {length} images cannot be read.*number 0'):
        list(numbered_images(length, range(broken + 1), allowed).evaluation_batches(4, SMALL))


def test_training_ends_when_nothing_can_be_read():
    with pytest.raises(UnreadableImages, match='none of the 4'):
        next(numbered_images(4, range(4), max_unreadable=1.0).train_batches(2, SMALL, WHOLE, seed=0))


@pytest.mark.parametrize('share', [{'process_index': 2, 'process_count': 2}, {'process_index': -1}])
def test_what_cannot_be_is_refused(share):
    with pytest.raises(ValueError, match='process_index'):
        numbered_images(4).evaluation_batches(2, SMALL, **share)
    with pytest.raises(ValueError, match='batch_size is 0'):
        numbered_images(4).train_batches(0, SMALL, WHOLE, seed=0)


def test_an_example_without_a_label_is_refused():
    with pytest.raises(ValueError, match='imagenet2012 test #7 has no label'):
        labelled(b'', -1, 'imagenet2012 test #7')


REPEATED = Augmentation((0.2, 1.0), flip=False, color_jitter=0.5, repeated_augmentation=3)


def test_repeated_augmentation_brings_each_image_so_many_times_in_a_batch():
    bright = numbered_images(200)
    batches = take(10, bright.train_batches(12, SMALL, REPEATED, seed=0))
    for batch in batches:
        assert batch['image'].shape == (12, 4, 4, 1)
        assert len(set(batch['index'].tolist())) == 4
        np.testing.assert_array_equal(batch['index'], np.repeat(batch['index'][::3], 3))
        np.testing.assert_array_equal(batch['label'], batch['index'] % 3)
    # Of one grey value a copy differs by its brightness alone; 40 images have no three copies alike by chance.
    copies = joined(batches, 'image').reshape(40, 3, -1)
    assert np.mean(np.any(copies[:, 0] != copies[:, 1], axis=-1)) > 0.5
    once = joined(take(10, bright.train_batches(4, SMALL, WHOLE, seed=0)))
    np.testing.assert_array_equal(joined(batches)[::3], once)


def test_copies_are_the_same_however_many_processes_share_them_and_from_any_step_on():
    numbers = numbered_images(50)
    whole = take(8, numbers.train_batches(12, SMALL, REPEATED, seed=5))
    parts = [
        take(8, numbers.train_batches(6, SMALL, REPEATED, seed=5, process_index=p, process_count=2)) for p in range(2)
    ]
    both = zip(*parts, strict=True)
    assert_same(whole, [{k: np.concatenate([part[k] for part in step]) for k in step[0]} for step in both])
    assert_same(whole[3:], take(5, numbers.train_batches(12, SMALL, REPEATED, seed=5, start_step=3)))


def test_copies_that_do_not_fit_in_a_batch_are_refused():
    with pytest.raises(ValueError, match=r'batch_size is 8 on each .* multiple of repeated_augmentation \(3\)'):
        numbered_images(50).train_batches(8, SMALL, REPEATED, seed=0)
