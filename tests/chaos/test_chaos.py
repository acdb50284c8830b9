import re
from pathlib import Path

import chaos
import pytest


@pytest.fixture
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the processes are not those of this one."""
    for name in ('PYTHONPATH', 'JAX_PLATFORMS', 'XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR'):
        monkeypatch.setenv(name, '')


@pytest.mark.slow
@pytest.mark.usefixtures('undisturbed')
def test_killed_runs_end_as_if_never_killed(tmp_path: Path) -> None:
    runs = chaos.chaos(kills=4, seed=1, folder=tmp_path)
    assert sum(map(len, runs)) == 4


@pytest.mark.slow
@pytest.mark.usefixtures('undisturbed')
def test_a_file_that_cannot_be_written_stops_the_run_and_costs_no_checkpoint(tmp_path: Path) -> None:
    context = chaos.server(tmp_path / 'cache')
    process = chaos.start(context, tmp_path / 'run', limited_from=9)
    process.join(300)
    assert process.exitcode == 1
    error = (tmp_path / 'run.error').read_text()
    assert re.search(r'step (8|10) was not written \(File too large\); the last good one is step (6|8)', error)
    chaos.finish(context, tmp_path / 'expected')
    chaos.finish(context, tmp_path / 'run')
    assert list(chaos.differences(tmp_path / 'run', tmp_path / 'expected')) == []
