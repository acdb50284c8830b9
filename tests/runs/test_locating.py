"""Which published weight a run started from, by way of the runs that it started from."""

import dataclasses
from pathlib import Path

from flaxmobile.runs.description import RunDescription
from flaxmobile.runs.locating import started_from
from flaxmobile.training.config import TrainConfig
from flaxmobile.weights import find
from tests.tiny_run import CLASSES

NAME = 'mobilenetv2_100.tv_in1k'


def run_of(config: TrainConfig, path: Path, init: str) -> str:
    RunDescription(dataclasses.replace(config, init=init), CLASSES).write(path)
    return str(path)


def test_the_weight_is_found_through_other_runs(tiny: TrainConfig, tmp_path: Path) -> None:
    first, second = tmp_path / 'first', tmp_path / 'second'
    first.mkdir()
    second.mkdir()
    assert started_from(NAME) == find(NAME)
    assert started_from(run_of(tiny, second, run_of(tiny, first, NAME))) == find(NAME)
    run_of(tiny, first, str(second))
    assert started_from(str(second)) is None  # Each started from the other.


def test_what_is_not_known_is_none(tmp_path: Path) -> None:
    (tmp_path / 'weights.safetensors').touch()
    (tmp_path / 'run').mkdir()
    for name in ('weights.safetensors', 'run', 'gone/run'):
        assert started_from(str(tmp_path / name)) is None
    assert started_from('no_such_weights') is None
    assert started_from(None) is None
