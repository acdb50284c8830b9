"""A run that the code of 94aa131 wrote, and had stopped, is evaluated and ends as that code ended it."""

import dataclasses
import importlib.util
import json
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxmobile.layers import TENSORFLOW, get_convention
from flaxmobile.runs.folder import RunDescription, check_data, check_folder, load_run, read_description
from flaxmobile.runs.training import prepare_folder, train
from flaxmobile.training.checkpoints import descriptions
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.digests import write_digests

Run = Callable[..., tuple[int, str, str]]
HERE = Path(__file__).parent / 'old_run'
_spec = importlib.util.spec_from_file_location('make_old_run', HERE / 'make.py')
assert _spec is not None
assert _spec.loader is not None
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)

EXPECTED = json.loads((HERE / 'expected.json').read_text())
CONFIG: TrainConfig = make.old_config()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the images that the old runs were on."""
    build_model = TrainConfig.build_model
    monkeypatch.setattr(TrainConfig, 'registered', build_model, raising=False)
    monkeypatch.setattr(TrainConfig, 'build_model', make.build_model)
    monkeypatch.chdir(tmp_path)
    make.write_images(Path('images'))
    return tmp_path


@pytest.fixture
def run_dir(folder: Path) -> Path:
    """The old run, as `run` in the working folder, beside the images it was on."""
    return unpacked(HERE, folder)


def unpacked(kept: Path, folder: Path) -> Path:
    with tarfile.open(kept / 'run.tar.xz') as archive:
        archive.extractall(folder, filter='data')
    return Path('run')


def assert_found(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(found['logits'], expected['logits'], atol=1e-5)
    for name in ('test', 'validation'):
        assert found.get(name) == (pytest.approx(expected[name], rel=1e-5) if name in expected else None)
    for name in ('classes', 'best_step', 'confusion'):
        assert found.get(name) == expected.get(name)


def test_an_old_run_has_the_network_it_was_trained_with(run_dir: Path) -> None:
    """The name stood for TensorFlow's padding when the run began."""
    assert json.loads((run_dir / 'run.json').read_text())['config']['convention'] is None
    config = read_description(run_dir).config
    assert get_convention(config.registered(3).convention) == TENSORFLOW  # type: ignore[attr-defined]
    assert dataclasses.replace(config, convention=None) == CONFIG
    assert_found(make.findings(run_dir), EXPECTED['stopped'])


def test_an_old_run_goes_on_to_the_end_that_the_old_code_came_to(run_dir: Path, command: Run) -> None:
    """By the same command, though its class folders are in NFD, which sorts otherwise; then by the words of today."""
    train(CONFIG, run_dir, resume=True)
    assert_found(make.findings(run_dir), EXPECTED['ended'])
    assert_ended(run_dir, 'images')
    status, out, error = command('evaluate', run_dir)
    assert status == 0, error
    assert f'loss {EXPECTED["ended"]["test"]["loss"]:.4f}' in out
    # It knows the contents of the images now, by which they are found elsewhere.
    shutil.move('images', 'moved')
    train(dataclasses.replace(CONFIG, convention='tensorflow', dataset='moved'), run_dir, resume=True)
    assert_ended(run_dir, 'moved')


def assert_ended(run_dir: Path, dataset: str) -> None:
    """The run knows where its images are, and what is in them, and is otherwise what its checkpoints say."""
    description = read_description(run_dir)
    assert description.config == dataclasses.replace(CONFIG, convention='tensorflow', dataset=dataset)
    assert all('contents' in images for images in description.images.values())
    assert json.loads((run_dir / 'run.json').read_text())['classes'] == list(make.CLASSES)
    for copy, content in descriptions(run_dir):
        assert json.loads(content)['classes'] == list(make.CLASSES), copy


def test_a_run_of_the_commit_before_tasks_goes_on_to_the_end_that_it_came_to(folder: Path) -> None:
    """661e08e, whose configuration was flat and whose state named `batch_stats`; it wrote format 2."""
    kept = HERE.parent / 'run_of_661e08e'
    expected, run_dir = json.loads((kept / 'expected.json').read_text()), unpacked(kept, folder)
    assert_found(make.findings(run_dir), expected['stopped'])
    train(CONFIG, run_dir, resume=True)
    assert_found(make.findings(run_dir), expected['ended'])


def test_another_padding_is_another_configuration(run_dir: Path) -> None:
    other = dataclasses.replace(CONFIG, convention='keras_v1')
    with pytest.raises(ValueError, match=r"convention was 'tensorflow' and is 'keras_v1'"):
        check_folder(run_dir, other, resume=True, overwrite=False)


def test_a_run_of_today_has_the_network_of_today(tmp_path: Path) -> None:
    RunDescription(CONFIG, ('a', 'b')).write(tmp_path)
    assert read_description(tmp_path).config == CONFIG
    assert json.loads((tmp_path / 'run.json').read_text())['format'] == 2
    check_folder(tmp_path, CONFIG, resume=True, overwrite=False)
    with pytest.raises(ValueError, match=r"convention was None and is 'tensorflow'"):
        check_folder(tmp_path, dataclasses.replace(CONFIG, convention='tensorflow'), resume=True, overwrite=False)


def test_an_old_run_whose_description_has_the_names_in_nfc_is_the_same_run(run_dir: Path) -> None:
    """Of a name the form may differ from that in the checkpoints; of an older run.json it did."""
    path = run_dir / 'run.json'
    composed = [unicodedata.normalize('NFC', name) for name in make.CLASSES]
    path.write_text(json.dumps(json.loads(path.read_text()) | {'classes': composed}))
    assert read_description(run_dir).classes == tuple(composed)
    assert_found(make.findings(run_dir) | {'classes': list(make.CLASSES)}, EXPECTED['stopped'])


def test_an_old_run_on_a_folder_that_moved_says_what_to_do(run_dir: Path) -> None:
    shutil.move('images', 'moved')
    moved = dataclasses.replace(CONFIG, dataset='moved')
    with pytest.raises(ValueError, match=r'version that did not record the contents .*resume it once at the old path'):
        train(moved, run_dir, resume=True)


def rewrite(run_dir: Path, **changes: Any) -> None:
    """Give the run a configuration that the old code took, as if it had written it."""
    for path in (run_dir / 'run.json', *run_dir.glob('checkpoints/*/run/metadata')):
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {'config': content['config'] | changes}))
    for folder in run_dir.glob('checkpoints/*'):
        write_digests(folder)


@pytest.mark.parametrize(
    ('owner', 'changes'), [('config', {'workers': 2000}), ('Preprocessing', {'crop_fraction': 0.01})]
)
def test_a_value_that_is_no_longer_allowed_is_no_damage(run_dir: Path, owner: str, changes: dict[str, Any]) -> None:
    ((name, value),) = changes.items()
    rewrite(run_dir, **changes)
    reason = rf'{owner}: {name} must be .*, not {value}'
    words = rf'^run/run\.json is as .*, by flaxmobile 0\.1\.0, .*: {reason}\. Use the version'
    for read in (read_description, load_run, lambda path: check_folder(path, CONFIG, resume=True, overwrite=False)):
        with pytest.raises(ValueError, match=words) as raised:
            read(run_dir)
        assert 'damaged' not in str(raised.value)
        assert 'cp ' not in str(raised.value)


def test_damage_of_run_json_is_told_before_what_the_copies_say(run_dir: Path) -> None:
    rewrite(run_dir, crop_fraction=0.01)
    (run_dir / 'run.json').write_text('{')
    with pytest.raises(ValueError, match=r'^run/run\.json is damaged .*; run/checkpoints/9/run/metadata is as it was'):
        read_description(run_dir)


def test_a_copy_with_a_value_that_is_no_longer_allowed_is_no_damage(run_dir: Path) -> None:
    """The user has put an allowed one into run.json."""
    whole = (run_dir / 'run.json').read_bytes()
    rewrite(run_dir, crop_fraction=0.01)
    (run_dir / 'run.json').write_bytes(whole)
    words = r'^run/checkpoints/9/run/metadata is as it was written, .*: Preprocessing: crop_fraction must be'
    with pytest.raises(ValueError, match=words):
        read_description(run_dir)


def test_names_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    RunDescription(CONFIG, ('fish', 'owl')).write(tmp_path)
    with pytest.raises(ValueError, match=r"gone: 'fish'; new: '\\ufb01sh'"):
        check_data(tmp_path, RunDescription(CONFIG, ('\ufb01sh', 'owl')))


def test_what_cannot_be_written_removes_nothing(run_dir: Path) -> None:
    before = {path: path.read_bytes() for path in run_dir.rglob('*') if path.is_file()}
    unfit = RunDescription(CONFIG, make.CLASSES, {'train': b'words'})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match='not JSON serializable'):
        prepare_folder(run_dir, unfit, resume=False, overwrite=True)
    assert {path: path.read_bytes() for path in run_dir.rglob('*') if path.is_file()} == before
