"""What JAX's runtime has no public name for: only `parallel/runtime.py` takes it from `jax._src`."""

import re
from pathlib import Path

import jax
import pytest
from jax._src.clusters import cloud_tpu_cluster

from flaxmobile.parallel import runtime
from flaxmobile.parallel.launchers import launched

ROOT = Path(__file__).parents[2]


def test_one_file_alone_goes_by_private_names() -> None:
    private = re.compile(r'\bjax\._src\b')
    sources = [path for folder in ('flaxmobile', 'configs', 'scripts') for path in (ROOT / folder).rglob('*.py')]
    assert len(sources) > 100
    assert [path.name for path in sources if private.search(path.read_text())] == ['runtime.py']


def test_a_process_alone_has_no_store() -> None:
    assert not jax.distributed.is_initialized()
    assert (runtime.store(), runtime.place(), runtime.coordinator()) == (None, (0, 1), None)


@pytest.mark.parametrize(('hosts', 'expected'), [('one,two', {}), ('one', None)])
def test_a_tpu_slice_of_one_host_is_one_process(
    hosts: str, expected: dict[str, object] | None, bare: pytest.MonkeyPatch
) -> None:
    bare.setattr(cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
    bare.setenv('TPU_WORKER_HOSTNAMES', hosts)
    for name in ('MEGASCALE_NUM_SLICES', 'TPU_SKIP_MDS_QUERY'):  # As GKE sets them for a slice alone.
        bare.setenv(name, '')
    assert launched() == expected


def test_a_tpu_that_nobody_knows_of_is_alone(bare: pytest.MonkeyPatch) -> None:
    bare.setattr(cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
    bare.setenv('TPU_WORKER_HOSTNAMES', 'localhost')

    def unreachable(key: str) -> None:
        raise ConnectionError('metadata.google.internal')

    bare.setattr(cloud_tpu_cluster, 'get_metadata', unreachable)
    with pytest.warns(UserWarning, match=r'goes on alone: metadata\.google'):
        assert launched() is None
