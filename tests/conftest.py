"""Eight virtual CPU devices for the tests of `pmap`, `shard_map` and meshes; set before JAX starts."""

import gc
import os
from collections.abc import Callable

import pytest

# Traces make many objects, and hardly any that only the collector can free: it took seven of a hundred seconds.
gc.set_threshold(50_000, 20, 20)

DEVICES = '--xla_force_host_platform_device_count'

if DEVICES not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {DEVICES}=8'.strip()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: a zip's hold the time it was made, and every process has to give a test the same name."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: its exit status, what it printed, and what it printed as an error."""
    from flaxmobile.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run
