"""Counts against hand-worked networks and the papers' tables."""

import pytest

from flaxmobile.analysis import count, count_layers
from flaxmobile.analysis.summary import Cost, ordinary_twin, render, total
from flaxmobile.models import MobileNetV1, create_model


def test_the_first_block_by_hand():
    stem, depthwise, pointwise = count_layers(MobileNetV1(), 224)[:3]
    assert stem == ('stem', 'standard', (3, 3), (2, 2), (112, 112, 32), 3 * 3 * 3 * 32 + 2 * 32, 112**2 * 27 * 32)
    assert depthwise[5:] == (3 * 3 * 32 + 2 * 32, 112**2 * 9 * 32)
    assert pointwise[5:] == (32 * 64 + 2 * 64, 112**2 * 32 * 64)


def test_a_sum_over_layers_leaves_no_parameter_out():
    counts = count('mobilenetv3_small_100')
    assert counts == (2_542_856, 56_510_400, 224, 0)


def test_mobilenetv1_paper_table_4():
    """Conv MobileNet: 4866 million multiply-adds (without the classifier's) and 29.3 million parameters."""
    rows = count_layers(MobileNetV1(), 224)
    twin = ordinary_twin(rows).values()
    assert round((sum(cost.multiply_adds for cost in twin) - 1_024_000) / 1e6) == 4866
    assert round(sum(cost.parameters for cost in twin) / 1e6, 1) == 29.3
    assert [round(total(rows).multiply_adds / 1e6), round(total(rows).parameters / 1e6, 1)] == [569, 4.2]


def test_squeeze_excite_stays_in_the_twin():
    rows = count_layers(create_model('mobilenetv3_small_100'), 224)
    twin = ordinary_twin(rows)
    gate = next(row for row in rows if row.name == 'block_00/squeeze_excite/reduce')
    assert twin[gate.name] == Cost(gate.parameters, gate.multiply_adds)
    assert twin['block_00/depthwise'] == Cost(0, 0)
    assert twin['block_00/project'] == Cost(9 * 16 * 16 + 2 * 16, 56**2 * 9 * 16 * 16)


def test_a_universal_inverted_bottleneck_by_hand():
    """The second block of MobileNetV4-Conv-Medium at 256: 48 to 80 channels, 3x3, expansion by 4, 5x5 and stride 2."""
    rows = count_layers(create_model('mobilenetv4_conv_medium'), 256)
    twin = ordinary_twin(rows)
    start, expand, depthwise, project = (row for row in rows if row.name.startswith('block_01/'))
    assert start[1:] == ('depthwise', (3, 3), (1, 1), (64, 64, 48), 9 * 48 + 2 * 48, 64**2 * 9 * 48)
    assert expand[5:] == (48 * 192 + 2 * 192, 64**2 * 48 * 192)
    assert depthwise[1:] == ('depthwise', (5, 5), (2, 2), (32, 32, 192), 25 * 192 + 2 * 192, 32**2 * 25 * 192)
    assert project[5:] == (192 * 80 + 2 * 80, 32**2 * 192 * 80)
    assert twin[start.name] == twin[depthwise.name] == Cost(0, 0)
    assert twin[expand.name] == Cost(9 * 48 * 192 + 2 * 192, 64**2 * 9 * 48 * 192)
    assert twin[project.name] == Cost(25 * 192 * 80 + 2 * 80, 32**2 * 25 * 192 * 80)


def test_attention_by_hand():
    """MobileNetV4-Hybrid-Medium at 256: 16x16 queries of 4 heads and 8x8 keys, 64 channels each."""
    rows = count_layers(create_model('mobilenetv4_hybrid_medium'), 256)
    attention = next(row for row in rows if row.name == 'block_07/attention')
    assert (attention.kind, attention.parameters, attention.multiply_adds) == ('attention', 0, 2 * 4 * 256 * 64 * 64)
    output = next(row for row in rows if row.name == 'block_07/attention/output/project')
    assert output.parameters == 256 * 160 + 160 + 2 * 160  # with layer scale and the BatchNorm before the attention
    counts = count('mobilenetv4_hybrid_medium')
    assert counts.attention_multiply_adds == 4 * 2 * 4 * 256 * 64 * 64 + 4 * 2 * 4 * 64 * 64 * 64
    assert total(rows).multiply_adds == counts.multiply_adds + counts.attention_multiply_adds
    twin = ordinary_twin(rows)
    assert twin[attention.name] == Cost(0, attention.multiply_adds)
    assert twin['block_07/attention/key/project'] == Cost(9 * 160 * 64, 64 * 9 * 160 * 64)


def test_a_grouped_convolution_by_hand():
    rows = count_layers(create_model('mobilenet_edgetpu_v2_xs'), 224)
    grouped = next(row for row in rows if row.name == 'block_02/expand')
    assert grouped[1:] == ('standard', (3, 3), (1, 1), (56, 56, 128), 9 * 16 * 128 + 2 * 128, 56**2 * 9 * 16 * 128)


def test_overrides_and_sizes():
    assert count('mobilenetv1_100', 128).multiply_adds == 186_400_768
    assert count('mobilenetv1_100', num_classes=10).parameters == 4_231_976 - 990 * 1025


def test_rendered_table_names_the_totals():
    from rich.console import Console

    console = Console(width=200, record=True, file=open('/dev/null', 'w'))  # noqa: SIM115
    console.print(render('mobilenetv1_025', 128))
    text = console.export_text()
    assert '13,570,048' in text
    assert '470,072' in text
    assert 'block_12/pointwise' in text


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match='mobilenetv2_100'):
        count('mobilenet_v2_100')
