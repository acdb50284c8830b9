"""Parameters and multiply-adds, to the last digit (reference_counts.json says whence), and maps of every name."""

import json
from pathlib import Path

import pytest

import flaxmobile
from flaxmobile.analysis.counts import count, count_layers

REFERENCE = json.loads((Path(__file__).parent / 'reference_counts.json').read_text())
BY_IMAGE_SIZE = [
    (name, int(size), multiply_adds)
    for name, sizes in REFERENCE['multiply_adds_by_image_size'].items()
    for size, multiply_adds in sizes.items()
]


# One or two of each table; the others are their widths and depths.
OF_THEIR_KIND = (
    'mobilenetv1_100',
    'mobilenetv1_100h',
    'mobilenetv2_100',
    'mobilenetv3_large_100',
    'mobilenetv3_rw',
    'mobilenetv3_small_minimal_100',
    'mobilenetv4_conv_small',
    'mobilenetv4_conv_aa_medium',
    'mobilenetv4_hybrid_medium',
    'mobilenetv5_300m',
    'mobilenet_edgetpu_100',
    'mobilenet_edgetpu_v2_s',
    'mnasnet_small',
    'semnasnet_100',
)
AT_SIZES = (
    ('mobilenetv1_025', 128),
    ('mobilenetv2_140', 160),
    ('mobilenetv3_small_minimal_100', 96),
    ('mobilenetv4_hybrid_medium', 320),
    ('mobilenetv4_conv_aa_medium', 97),
    ('mnasnet_small', 97),
)


def marked(*case, of_its_kind):
    slow = [pytest.mark.slow] * case[0].startswith(('tf_', 'tv_'))
    return pytest.param(*case, marks=slow if slow or of_its_kind else pytest.mark.thorough)


@pytest.mark.parametrize('name', [marked(name, of_its_kind=name in OF_THEIR_KIND) for name in flaxmobile.list_models()])
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
    ends = {row.name.split('/')[0]: row.output_shape for row in count_layers(model, counted.image_size)}
    maps = {shape[0]: shape for part, shape in ends.items() if part == 'stem' or part.startswith('block_')}
    assert [counted.image_size // stride for stride in model.feature_strides] == list(maps)
    assert model.feature_channels == tuple(shape[-1] for shape in maps.values())


def test_every_reference_is_registered():
    assert set(REFERENCE['models']) == set(flaxmobile.list_models())


@pytest.mark.parametrize(
    ('name', 'image_size', 'multiply_adds'),
    [marked(*case, of_its_kind=case[:2] in AT_SIZES) for case in BY_IMAGE_SIZE],
)
def test_multiply_adds_at_other_sizes(name, image_size, multiply_adds):
    assert count(name, image_size=image_size).multiply_adds == multiply_adds
