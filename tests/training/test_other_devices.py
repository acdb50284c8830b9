import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name('other_devices.py')


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices():
    """In float64, to 1e-8; at the step where they change, the two were far from the end."""
    flags = '--xla_force_host_platform_device_count=8'
    environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_ENABLE_X64': '1', 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found['from_8_to_1'] < 1e-8
    assert found['from_1_to_8'] < 1e-8
    assert min(found['left_from_8'], found['left_from_1']) > 1e-2
