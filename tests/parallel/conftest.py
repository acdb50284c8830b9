import os

import pytest
from tiny_run import blob_file, finished_run, tiny  # noqa: F401 - fixtures


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment in which no launcher has left a trace."""
    for name in os.environ:
        if name.startswith(('SLURM_', 'OMPI_', 'TPU_', 'JAX_', 'KUBERNETES_')):
            monkeypatch.delenv(name)
    return monkeypatch
