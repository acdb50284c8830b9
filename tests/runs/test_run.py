import dataclasses
import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import CLASSES, Blobs

import flaxmobile
from flaxmobile.data import Preprocessing, read_image
from flaxmobile.runs import folder
from flaxmobile.runs.folder import (
    RunDescription,
    changed_fields,
    check_folder,
    load_run,
    locked,
    read_description,
)
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.state import TrainState
from flaxmobile.weights import find


def test_a_description_comes_back(tmp_path: Path) -> None:
    config = TrainConfig(model='mobilenetv2_035', dataset='flowers').with_options(
        mean=(0.1, 0.2, 0.3), crop_scale=(0.5, 0.9)
    )
    description = RunDescription(config, ('rose', 'tulip'), {'train': '7 images'})
    description.write(tmp_path)
    assert read_description(tmp_path) == description
    content = json.loads((tmp_path / 'run.json').read_text())
    assert content['format'] == 2
    assert content['classes'] == ['rose', 'tulip']
    assert content['preprocessing']['mean'] == [0.1, 0.2, 0.3]
    assert [path.name for path in tmp_path.iterdir()] == ['run.json']


def unsigned(text: str) -> dict[str, Any]:
    """The object in the text of a run's file, as versions wrote it that gave it no digest."""
    return {name: value for name, value in json.loads(text).items() if name != 'sha256'}


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='is no folder'):
        load_run(tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match='holds no run'):
        load_run(tmp_path)
    path = tmp_path / 'run.json'
    RunDescription(TrainConfig(model='mobilenetv1_025', dataset='b'), ('c', 'd')).write(tmp_path)
    whole = path.read_text()
    with pytest.raises(FileNotFoundError, match='holds no checkpoint yet'):
        load_run(tmp_path)
    path.write_text(json.dumps(unsigned(whole) | {'format': 7}))
    with pytest.raises(ValueError, match=r'has format 7, and .* reads formats 1 to 2'):
        load_run(tmp_path)
    content = unsigned(whole)
    changed = [
        {'config': content['config'] | {'batch_sice': 8}},
        {'config': []},
        {'classes': 'cd'},
        {'classes': ['c', 4]},
        {'images': ['train']},
        {'images': {'tests': '4 images'}},
        {'images': {'test': 4}},
        {'teacher': '4'},
    ]
    for damaged in (
        whole[:50],
        '[]',
        '{}',
        '[' * 100_000,
        whole.replace('"batch_size": 256', '"batch_size": 257'),
        '\0\0',
        *(json.dumps(content | change) for change in changed),
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r'run\.json is damaged'):
            load_run(tmp_path)


def test_a_run_with_no_good_checkpoint_says_so(tiny: TrainConfig, finished_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / 'run')
    for digests in run_dir.glob('checkpoints/*/digests.json'):
        digests.write_text('{}')
    with pytest.raises(ValueError, match=r'run cannot be used: .*is damaged.*there is no good one'):
        load_run(run_dir)


def test_a_run_is_loaded_as_it_was_evaluated(tiny: TrainConfig, finished_run: Path) -> None:
    model = flaxmobile.load_run(finished_run)
    assert model.labels == CLASSES
    images = np.stack([read_image(example.image, 1) for example in map(Blobs('test').__getitem__, range(37))])
    labels = [Blobs('test')[index].label for index in range(37)]
    logits = jax.jit(model.module.apply)(model.variables, model.preprocessing.normalize(images))
    # Every tenth label is false.
    assert np.flatnonzero(np.argmax(np.asarray(logits), -1) != labels).tolist() == [9, 19, 29]


def test_the_model_of_a_run_says_which_weight_it_started_from(
    tiny: TrainConfig, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_run(finished_run).started_from is None
    weight, description = find('mobilenetv2_100.tv_in1k'), read_description(finished_run)
    config = dataclasses.replace(description.config, init=weight.name)
    monkeypatch.setattr(folder, 'read_description', lambda _: dataclasses.replace(description, config=config))
    model = load_run(finished_run)
    assert (model.started_from, model.weight) == (weight, None)


def test_a_network_of_the_zoo_comes_back(tmp_path: Path) -> None:
    config = TrainConfig(
        model='mobilenetv1_025', dataset='none', preprocessing=Preprocessing(image_size=32), stem_stride=1
    )
    model = config.build_model(3)
    shapes = jax.eval_shape(model.init, jax.random.key(1), jnp.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)
    state = TrainState(jnp.int32(5), variables['params'], {'batch_stats': variables['batch_stats']}, {}, None)
    RunDescription(config, ('a', 'b', 'c')).write(tmp_path)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(5, state)
    with pytest.raises(FileNotFoundError, match=r'has no metrics\.jsonl, which says which checkpoint is the best'):
        load_run(tmp_path)
    (tmp_path / 'metrics.jsonl').touch()
    with pytest.warns(UserWarning, match='no validation yet: the last checkpoint, step 5, is used'):
        loaded = load_run(tmp_path)
    assert loaded.module == model
    chex.assert_trees_all_equal(loaded.variables, variables)


@pytest.mark.usefixtures('tiny')
def test_a_record_that_is_cut_off_is_told(finished_run: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / 'run')
    log = run_dir / 'metrics.jsonl'
    log.write_bytes(log.read_bytes()[:-20])
    with pytest.warns(UserWarning, match=r'the last line of .*metrics\.jsonl is cut off'):
        load_run(run_dir)
    log.write_text('{"split": "tra\n' + log.read_text())
    with pytest.raises(ValueError, match=r'metrics\.jsonl, line 1 is damaged .*Mend it and .*, or delete the line: a'):
        load_run(run_dir)


def test_changed_fields() -> None:
    config = TrainConfig(model='a', dataset='b')
    changed = config.with_options(epochs=3.0, mean=(0.0, 0.0, 0.0))
    assert changed_fields(config, changed) == {'epochs': (100.0, 3.0), 'mean': ((0.5, 0.5, 0.5), (0.0, 0.0, 0.0))}


def test_overwrite_spares_a_folder_that_holds_no_run(tmp_path: Path) -> None:
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints' / 'mine.txt').write_text('mine')
    config = TrainConfig(model='mobilenetv1_025', dataset='b')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r'holds no run .* checkpoints'):
            check_folder(tmp_path, config, resume=False, overwrite=overwrite)
    assert (tmp_path / 'checkpoints' / 'mine.txt').read_text() == 'mine'


def test_what_a_killed_process_had_begun_to_write_is_removed(tmp_path: Path) -> None:
    for name in ('.run.json.123', '.report.md.4567', '.notes', 'run.json'):
        (tmp_path / name).write_text('half')
    with locked(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == ['.lock', '.notes', 'run.json']
