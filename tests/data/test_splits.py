import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tensorflow_datasets.core import splits
from tensorflow_datasets.core.naming import ShardedFileTemplate

from flaxmobile.data.splits import split_ranges

LENGTHS = {'train': 103, 'test': 20}


@pytest.mark.parametrize(
    ('split', 'expected'),
    [
        ('train', [('train', range(103))]),
        ('train[:90%]', [('train', range(93))]),  # 92.7
        ('train[90%:]', [('train', range(93, 103))]),
        ('train[-5:]', [('train', range(98, 103))]),
        ('test[2:4] + train[100:]', [('test', range(2, 4)), ('train', range(100, 103))]),
    ],
)
def test_by_hand(split, expected):
    assert split_ranges(split, LENGTHS) == expected


boundary = st.one_of(st.just(''), st.integers(-100, 100).map('{}%'.format), st.integers(-103, 103).map(str))


def place(text):
    value = float(text.removesuffix('%')) * (1.03 if '%' in text else 1)
    return value + 103 if text.startswith('-') else value


@settings(max_examples=200, deadline=None)
@given(boundary, boundary)
def test_slices_equal_those_of_tfds(start, stop):
    # TFDS knows neither [:] nor a mixture of examples and per cent, and reads on to the end where the stop comes first.
    assume((start or stop) and (not start or not stop or ('%' in start) == ('%' in stop)))
    assume(not start or not stop or place(start) <= place(stop))
    template = ShardedFileTemplate(
        data_dir='/nowhere', dataset_name='set', split='train', filetype_suffix='array_record'
    )
    info = splits.SplitInfo(name='train', shard_lengths=[103], num_bytes=0, filename_template=template)
    text = f'train[{start}:{stop}]'
    try:
        [file] = splits.SplitDict([info])[text].file_instructions
        expected = range(file.skip, file.skip + file.take)
    except ValueError:
        expected = range(0)
    try:
        [(_, found)] = split_ranges(text, LENGTHS)
    except ValueError:
        found = range(0)
    assert found == expected, text


@pytest.mark.parametrize(
    ('split', 'message'),
    [
        ('trian', r"unknown split 'trian'.*train has 103, test has 20"),
        ('train[:x]', 'cannot be read'),
        ('train[', 'cannot be read'),
        ('', 'cannot be read'),
        ('train[:104]', 'beyond the 103 examples'),
        ('train[:0%]', 'holds no example'),
    ],
)
def test_what_is_wrong_is_said(split, message):
    with pytest.raises(ValueError, match=message):
        split_ranges(split, LENGTHS)
