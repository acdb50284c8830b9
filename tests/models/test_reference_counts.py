"""Parameters and multiply-adds of every registered name, to the last digit (reference_counts.json says whence)."""

import json
from pathlib import Path

import pytest

import flaxmobile
from flaxmobile.analysis.counts import count

REFERENCE = json.loads((Path(__file__).parent / 'reference_counts.json').read_text())
BY_IMAGE_SIZE = [
    (name, int(size), multiply_adds)
    for name, sizes in REFERENCE['multiply_adds_by_image_size'].items()
    for size, multiply_adds in sizes.items()
]


def slow_where_prefixed(name):
    return pytest.param(name, marks=pytest.mark.slow if name.startswith(('tf_', 'tv_')) else ())


@pytest.mark.parametrize('name', [slow_where_prefixed(name) for name in flaxmobile.list_models()])
def test_counts_equal_the_reference(name):
    assert name in REFERENCE['models'], f'{name} is registered and has no reference count'
    reference = REFERENCE['models'][name]
    counted = count(name)
    assert counted.parameters == reference['parameters']
    assert counted.image_size == reference['image_size']
    assert counted.multiply_adds == reference['multiply_adds']
    assert counted.attention_multiply_adds == reference.get('attention_multiply_adds', 0)


def test_every_reference_is_registered():
    assert set(REFERENCE['models']) == set(flaxmobile.list_models())


@pytest.mark.parametrize(('name', 'image_size', 'multiply_adds'), BY_IMAGE_SIZE)
def test_multiply_adds_at_other_sizes(name, image_size, multiply_adds):
    assert count(name, image_size=image_size).multiply_adds == multiply_adds
