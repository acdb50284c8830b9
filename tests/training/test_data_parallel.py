import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name('data_parallel.py')


@pytest.fixture(scope='module', params=['tiny', pytest.param('mobilenetv1_025', marks=pytest.mark.slow)])
def findings(request: pytest.FixtureRequest) -> dict[str, float]:
    """What eight devices and one have in common, for a network of two blocks; the slow tests take a whole one."""
    flags = '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'
    environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_ENABLE_X64': '1', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), request.param], env=environment, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_twenty_steps_in_float64(findings: dict[str, float]):
    assert findings['moved'] > 1e-3
    assert findings['losses'] < 1e-8
    assert findings['state'] < 1e-8


def test_first_step_in_float32(findings: dict[str, float]):
    """All parameters measured together: a bias that was 0 is nothing but its gradient, good to four digits."""
    assert findings['float32_loss'] < 1e-5
    assert findings['float32_params'] < 1e-5


def test_evaluation(findings: dict[str, float]):
    """Sixteen images of which three are masked."""
    assert findings['count'] == 13
    assert findings['evaluation'] < 1e-8


def test_eight_devices_did_share_the_work(findings: dict[str, float]):
    assert findings['all_reduces_of_one'] == 0 < findings['all_reduces_of_eight']


def test_no_grouped_convolution_on_a_cpu(findings: dict[str, float]):
    assert findings['grouped_convolutions'] == 0


def test_pmap_and_shard_map(findings: dict[str, float]):
    """Loss, gradients and statistics of `pmap` and `shard_map`; without `batch_norm_axis_name` they do differ."""
    assert findings['pmap'] < 1e-8
    assert findings['shard_map'] < 1e-8
    assert findings['pmap_without_the_name'] > 1e-2


def test_uneven_batch(findings: dict[str, str]):
    assert '12 images cannot be shared evenly by 8 devices: use a multiple of 8' in findings['uneven_batch']
