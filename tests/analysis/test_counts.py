"""Counts against hand-worked networks and the papers' tables."""

import pytest

from flaxmobile.analysis import count, layers
from flaxmobile.analysis.summary import Cost, ordinary_twin, render, total
from flaxmobile.models import MobileNetV1, create_model


def test_the_first_block_by_hand():
    stem, depthwise, pointwise = layers(MobileNetV1(), 224)[:3]
    assert stem == ('stem', 'standard', (3, 3), (2, 2), (112, 112, 32), 3 * 3 * 3 * 32 + 2 * 32, 112**2 * 27 * 32)
    assert depthwise[5:] == (3 * 3 * 32 + 2 * 32, 112**2 * 9 * 32)
    assert pointwise[5:] == (32 * 64 + 2 * 64, 112**2 * 32 * 64)


def test_a_sum_over_layers_leaves_no_parameter_out():
    counts = count('mobilenetv3_small_100')
    assert counts == (2_542_856, 56_510_400, 224)


def test_mobilenetv1_paper_table_4():
    """Conv MobileNet: 4866 million multiply-adds (without the classifier's) and 29.3 million parameters."""
    rows = layers(MobileNetV1(), 224)
    twin = ordinary_twin(rows).values()
    assert round((sum(cost.multiply_adds for cost in twin) - 1_024_000) / 1e6) == 4866
    assert round(sum(cost.parameters for cost in twin) / 1e6, 1) == 29.3
    assert [round(total(rows).multiply_adds / 1e6), round(total(rows).parameters / 1e6, 1)] == [569, 4.2]


def test_squeeze_excite_stays_in_the_twin():
    rows = layers(create_model('mobilenetv3_small_100'), 224)
    twin = ordinary_twin(rows)
    gate = next(row for row in rows if row.name == 'block_00/squeeze_excite/reduce')
    assert twin[gate.name] == Cost(gate.parameters, gate.multiply_adds)
    assert twin['block_00/depthwise'] == Cost(0, 0)
    assert twin['block_00/project'] == Cost(9 * 16 * 16 + 2 * 16, 56**2 * 9 * 16 * 16)


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
