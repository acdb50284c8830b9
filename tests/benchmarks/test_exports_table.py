"""The table of exported networks, and what counts as a fault there."""

import dataclasses
import re
from pathlib import Path

import pytest

from benchmarks.export_rules import Layers, faults
from benchmarks.export_table import DOCUMENT, HEADER, MARK, made_table
from flaxmobile import list_models
from flaxmobile.export import Check

LAYERS = Layers(size=1000, depthwise=2, blurs=0, attentions=0, rms=False)
OPERATIONS = {'CONV_2D': 3, 'DEPTHWISE_CONV_2D': 2, 'HARD_SWISH': 1}
RIGHT = Check(Path('model.tflite'), 1009, OPERATIONS, 'ai-edge-litert 2', 4.9e-5, 1)


def test_every_registered_network_has_a_row_and_no_other() -> None:
    """A network that is new has none before `make export-check`."""
    assert re.findall(r'^\| `(\w+)`', DOCUMENT.read_text().split(MARK)[1], re.MULTILINE) == list_models()


def test_a_right_file_has_no_fault() -> None:
    assert faults(RIGHT, LAYERS) == []


@pytest.mark.parametrize(
    ('changes', 'fault'),
    [
        ({'error': 5.1e-5}, 'error 5.1e-05, 5e-05 allowed'),
        ({'error': None}, 'error inf'),
        ({'error': float('nan')}, 'error nan'),
        ({'size': 1011}, '1.011 times the size of the parameters'),
        ({'size': 989}, '0.989 times'),
        ({'operations': {**OPERATIONS, 'DEPTHWISE_CONV_2D': 1}}, '1 depthwise convolutions for 2 layers'),
        ({'operations': {**OPERATIONS, 'TRANSPOSE': 4}}, 'has 4 TRANSPOSE'),
        ({'operations': {**OPERATIONS, 'BATCH_MATMUL': 1}}, 'has 1 BATCH_MATMUL'),
        ({'partitions': 3, 'left_out': {'CUMSUM': 2}}, 'XNNPACK: 3 pieces, without 2 CUMSUM'),
        ({'left_out': {'CUMSUM': 2}}, 'XNNPACK: 1 pieces, without 2 CUMSUM'),
    ],
)
def test_each_fault_is_named(changes: dict, fault: str) -> None:
    (found,) = faults(dataclasses.replace(RIGHT, **changes), LAYERS)
    assert found.startswith(fault)


def test_attention_may_have_its_own_operations() -> None:
    operations = {**OPERATIONS, 'BATCH_MATMUL': 2, 'SOFTMAX': 1}
    check = dataclasses.replace(RIGHT, operations=operations)
    assert faults(check, dataclasses.replace(LAYERS, attentions=1)) == []


def test_a_row_says_what_is_wrong() -> None:
    formats = {
        suffix: {
            'error': 1e-6,
            'size': 1010,
            'operations': {kind: 2, 'Abs': 3},
            'faults': ['odd'] * (suffix == '.onnx'),
        }
        for suffix, kind in (('.tflite', 'CONV_2D'), ('.onnx', 'Conv'), ('.jax', ''))
    }
    name, *others = list_models()
    first, _, row, *rows = made_table(
        {name: {'image_size': 224, 'width': 0.25, 'size': 1000, 'formats': formats}}
    ).splitlines()
    assert first.split(' | ')[0] == f'| {HEADER[0]}'
    assert row == (
        f'| `{name}` at 0.25 of its width | 224 | 1.0e-06 | 1.0100 | 5 | 3 Abs | 1.0e-06 | 1.0100 | 5 | 3 Abs '
        '| 1.0e-06 | 1.0100 | .onnx: odd |'
    )
    assert len(rows) == len(others)
    assert all(each.endswith(' | not run |') for each in rows)
