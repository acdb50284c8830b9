"""Parameters and multiply-adds, to the last digit (reference_counts.json says whence), and maps of every name."""

import json
from pathlib import Path

import pytest

import flaxmobile
from flaxmobile.analysis.counts import count, layers

REFERENCE = json.loads((Path(__file__).parent / 'reference_counts.json').read_text())
BY_IMAGE_SIZE = [
    (name, int(size), multiply_adds)
    for name, sizes in REFERENCE['multiply_adds_by_image_size'].items()
    for size, multiply_adds in sizes.items()
]


def slow_where_prefixed(name):
    return pytest.param(name, marks=pytest.mark.slow if name.startswith(('tf_', 'tv_')) else ())


@pytest.mark.parametrize('name', [slow_where_prefixed(name) for name in flaxmobile.list_models()])
def test_counts_equal_the_reference_and_features_are_those_of_the_trace(name):
    assert name in REFERENCE['models'], f'{name} is registered and has no reference count'
    reference = REFERENCE['models'][name]
    counted = count(name)
    assert counted.parameters == reference['parameters']
    assert counted.image_size == reference['image_size']
    assert counted.multiply_adds == reference['multiply_adds']
    assert counted.attention_multiply_adds == reference.get('attention_multiply_adds', 0)
    # The same trace has the maps: height, width and channels of what each block ends with, the last at each height.
    model = flaxmobile.create_model(name)
    ends = {row.name.split('/')[0]: row.output_shape for row in layers(model, counted.image_size)}
    maps = {shape[0]: shape for part, shape in ends.items() if part == 'stem' or part.startswith('block_')}
    assert [counted.image_size // stride for stride in model.feature_strides] == list(maps)
    assert model.feature_channels == tuple(shape[-1] for shape in maps.values())


def test_every_reference_is_registered():
    assert set(REFERENCE['models']) == set(flaxmobile.list_models())


@pytest.mark.parametrize(('name', 'image_size', 'multiply_adds'), BY_IMAGE_SIZE)
def test_multiply_adds_at_other_sizes(name, image_size, multiply_adds):
    assert count(name, image_size=image_size).multiply_adds == multiply_adds
