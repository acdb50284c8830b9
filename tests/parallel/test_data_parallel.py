import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.launch_local import start

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).with_name('data_parallel.py')
ROOTS = os.pathsep.join([str(SCRIPT.parents[2]), str(SCRIPT.parents[1])])
ENVIRONMENT = {'JAX_ENABLE_X64': '1', 'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': ROOTS}


@functools.cache
def compare(network: str, processes: int, devices: int) -> list[dict[str, Any]]:
    """What one device and all `devices` of all `processes` have in common, as each of the processes sees it."""
    flags = f'--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0'
    running = start(processes, [sys.executable, str(SCRIPT), network], {**ENVIRONMENT, 'XLA_FLAGS': flags})
    outputs = [process.communicate(timeout=580) for process in running]
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(output.splitlines()[-1]) for output, _ in outputs]


CASES = [
    pytest.param(('tiny', 1, 8), id='8 devices'),
    pytest.param(('tiny', 2, 2), id='2 processes'),
    pytest.param(('tiny', 4, 1), id='4 processes', marks=pytest.mark.thorough),
    pytest.param(('mobilenetv1_025', 1, 8), id='8 devices, whole network', marks=pytest.mark.thorough),
]


@pytest.fixture(params=CASES)
def findings(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    found = compare(*request.param)
    _, processes, devices = request.param
    assert [one['devices'] for one in found] == [processes * devices] * processes
    return found


@pytest.fixture(params=[case for case in CASES if '8 devices' in str(case.id)])
def findings_of_one(request: pytest.FixtureRequest) -> dict[str, Any]:
    return compare(*request.param)[0]


def test_twenty_steps_in_float64(findings: list[dict[str, Any]]):
    for found in findings:
        assert found['moved'] > 1e-3
        assert found['losses'] < 1e-8
        assert found['state'] < 1e-8


def test_first_step_in_float32(findings: list[dict[str, Any]]):
    """All parameters measured together: a bias that was 0 is nothing but its gradient, good to four digits."""
    for found in findings:
        assert found['float32_loss'] < 1e-5
        assert found['float32_params'] < 1e-5


def test_evaluation(findings: list[dict[str, Any]]):
    """Sixteen images of which three are masked."""
    for found in findings:
        assert found['count'] == 13
        assert found['evaluation'] < 1e-8


def test_an_uneven_set_is_evaluated_and_shown_as_by_one_process(findings: list[dict[str, Any]]):
    """Counts, rows in order and pictures of 37 images, of which 6 wrong and 6 right ones are shown."""
    names = ('evaluated', 'confusion', 'rows', 'shown')
    [expected] = compare(findings[0]['network'], 1, 8)
    assert expected['evaluated'] == 37
    assert expected['rows'][0] == list(range(37))
    assert len(set(expected['shown'])) > 6
    for found in findings:
        assert {name: found[name] for name in names} == {name: expected[name] for name in names}


def test_all_devices_did_share_the_work(findings: list[dict[str, Any]]):
    for found in findings:
        assert found['all_reduces_of_one'] == 0 < found['all_reduces_of_all']


def test_no_grouped_convolution_on_a_cpu(findings: list[dict[str, Any]]):
    assert not any(found['grouped_convolutions'] for found in findings)


def test_pmap_and_shard_map(findings_of_one: dict[str, Any]):
    """Loss, gradients and statistics of `pmap` and `shard_map`; without `batch_norm_axis_name` they do differ."""
    assert findings_of_one['pmap'] < 1e-8
    assert findings_of_one['shard_map'] < 1e-8
    assert findings_of_one['pmap_without_the_name'] > 1e-2


def test_uneven_batch(findings_of_one: dict[str, Any]):
    assert '12 images cannot be shared evenly by 8 devices: use a multiple of 8' in findings_of_one['uneven_batch']
