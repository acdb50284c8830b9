"""How processes find each other, and how the loss of one is told from an error of one's own."""

import warnings

import pytest
from jax.errors import JaxRuntimeError

from flaxmobile.parallel import processes as distributed
from flaxmobile.parallel import runtime
from flaxmobile.parallel.launchers import launched
from flaxmobile.parallel.processes import LOST

SLURM = {
    'SLURM_JOB_ID': '7',
    'SLURM_STEP_NODELIST': 'node[1-2]',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': '1',
    'SLURM_LOCALID': '0',
}
OPEN_MPI = {
    'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1:34911',
    'OMPI_COMM_WORLD_SIZE': '2',
    'OMPI_COMM_WORLD_RANK': '0',
    'OMPI_COMM_WORLD_LOCAL_RANK': '0',
}
OURS = {'JAX_COORDINATOR_ADDRESS': 'localhost:1234', 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': '1'}
OURS_READ = {'num_processes': 2, 'process_id': 1}


@pytest.mark.parametrize(
    ('environment', 'expected'),
    [
        ({}, None),
        (OURS, OURS_READ),
        (OURS | {'JAX_NUM_PROCESSES': '1', 'JAX_PROCESS_ID': '0'}, None),
        (SLURM, {}),
        (SLURM | {'SLURM_NTASKS': '1', 'SLURM_PROCID': '0'}, None),
        (OURS | {'JAX_COORDINATOR_ADDRESS': '[fe80::1%eth0]:65535', 'JAX_LOCAL_DEVICE_IDS': '0, 1'}, OURS_READ),
        (SLURM | OURS, OURS_READ),
        (OPEN_MPI, {}),
        (OPEN_MPI | {'OMPI_COMM_WORLD_SIZE': '1'}, None),
        ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, None),
    ],
)
def test_several_processes_are_told_from_one(
    environment: dict[str, str], expected: dict[str, object] | None, bare: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        bare.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert launched() == expected


@pytest.mark.parametrize(
    ('environment', 'variable', 'value'),
    [
        *(
            pytest.param(OURS, 'JAX_COORDINATOR_ADDRESS', value, id=f'address {value!r}')
            for value in (None, '', 'nonsense', 'host:', ':1234', 'host:0', 'host:65536', 'host:99999999', 'host:12x')
        ),
        *(pytest.param(OURS, 'JAX_COORDINATOR_ADDRESS', value) for value in ('a b:1', 'http://host:1', '::1:1234')),
        *(
            pytest.param(OURS, 'JAX_NUM_PROCESSES', value)
            for value in (None, '', 'two', '-2', '0', '2.0', '٢', '9' * 5000)
        ),
        *(pytest.param(OURS, 'JAX_PROCESS_ID', value) for value in (None, '-1', '2', '1.5', '1e0', '+1', '1_0')),
        *(pytest.param(OURS, 'JAX_LOCAL_DEVICE_IDS', value) for value in ('gpu', '0,', '-1')),
        *(pytest.param(SLURM, name, 'many') for name in ('SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_LOCALID')),
        pytest.param(SLURM, 'SLURM_NTASKS', '0'),
        pytest.param(SLURM, 'SLURM_PROCID', '2'),
        pytest.param(OPEN_MPI, 'OMPI_COMM_WORLD_SIZE', '-2'),
        pytest.param(OPEN_MPI, 'OMPI_COMM_WORLD_RANK', None),
    ],
)
def test_a_wrong_variable_is_named(
    environment: dict[str, str], variable: str, value: str | None, bare: pytest.MonkeyPatch
) -> None:
    for name, given in environment.items():
        bare.setenv(name, given)
    if value is None:
        bare.delenv(variable)
    else:
        bare.setenv(variable, value)
    said = 'is not set' if value is None else f"is '{value}'"
    with pytest.raises(ValueError, match=rf'^{variable} is .*: it has to be ') as error:
        launched()
    assert len(value or '') > 200 or f'{variable} {said}' in str(error.value)
    assert len(str(error.value)) < 500


def test_processes_are_not_counted_without_a_coordinator(bare: pytest.MonkeyPatch) -> None:
    bare.setenv('JAX_NUM_PROCESSES', '2')
    with pytest.raises(ValueError, match='JAX_COORDINATOR_ADDRESS is not set'):
        launched()


class Beating:
    """A coordinator's key-value store as process 0 of three finds it, with one beat more of each life at each look."""

    def __init__(self, *beats: list[int], failing: int = 0) -> None:
        self.beats, self.looks, self.failing = beats, -1, failing

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        assert key == 'flaxmobile/life/'
        self.looks += 1
        if self.looks < self.failing:
            raise JaxRuntimeError('UNAVAILABLE')
        return [(f'{key}{k + 1}', str(beat[min(self.looks, len(beat) - 1)])) for k, beat in enumerate(self.beats)]


@pytest.mark.parametrize(
    ('client', 'lost'),
    [
        (Beating([7, 8, 9], [3, 3, 3, 3, 4, 5]), None),
        (Beating([7, 8, 9], [3]), 'c'),
        (Beating([7, 8, 9], [3, 4]), 'c'),  # Its last beat was under way.
        (Beating([7, 8], [3, 4]), 'b and c'),
        (Beating([7, 8, 9, 10, 11], [3, 4, 5, 6, 7], failing=2), None),
    ],
)
def test_an_error_is_a_process_own_once_all_others_live(
    client: Beating, lost: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distributed, 'BOUND', 0.3)
    monkeypatch.setattr(distributed, '_GRACE', 0)
    monkeypatch.setattr(runtime, 'store', lambda: client)
    monkeypatch.setattr(runtime, 'place', lambda: (0, 3))
    ended: list[int] = []
    monkeypatch.setattr(distributed.os, '_exit', ended.append)
    distributed._await_the_others(ValueError('Gloo\x1b'), ['a', 'b', 'c'], '; go on')
    printed = capsys.readouterr().err
    assert ended == ([] if lost is None else [LOST])
    assert lost is None or f'flaxmobile: {lost} died or hangs: it answers no more; go on [' in printed
    assert '\x1b' not in printed
