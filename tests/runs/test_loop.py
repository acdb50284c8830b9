import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from tiny_run import LENGTHS

from flaxmobile.runs import splits
from flaxmobile.runs.folder import load_run, locked
from flaxmobile.runs.report import read_results
from flaxmobile.runs.training import train
from flaxmobile.tasks.classification import Classification
from flaxmobile.training import loop as engine
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.interruption import TrainingStopped, signals
from flaxmobile.training.metrics import Window, read_metrics


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def final_arrays(run_dir: Path) -> list[np.ndarray]:
    """All that the last checkpoint holds, as Orbax alone reads it."""
    import orbax.checkpoint as ocp

    folder = run_dir.absolute() / 'checkpoints' / '24'
    trees = [ocp.StandardCheckpointer().restore(folder / item) for item in ('variables', 'ema', 'optimizer')]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trees)]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, number: signal.Signals) -> None:
    """Send this process a signal once `step` steps were taken."""
    taken, add = [], Window.add

    def adding(self: Window, metrics: Any) -> None:
        add(self, metrics)
        taken.append(None)
        if len(taken) == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Window, 'add', adding)


def untimed_records(run_dir: Path) -> list[dict[str, Any]]:
    """The records of a run without what depends on the clock."""
    return [
        {name: value for name, value in record.items() if name not in ('seconds', 'images_per_second')}
        for record in read_metrics(run_dir / 'metrics.jsonl', Classification)
    ]


def steps_of(records: list[dict[str, Any]], split: str) -> list[int]:
    return [record['step'] for record in records if record['split'] == split]


def test_learns_all_that_can_be_learnt(finished_run: Path) -> None:
    # Every tenth label is false: images 9, 19, 29 of the 30 for validation, and of the 37 for testing.
    results = json.loads((finished_run / 'results.json').read_text())
    assert results['test']['accuracy'] == pytest.approx(34 / 37)
    assert results['test']['count'] == 37
    assert results['validation']['accuracy'] == pytest.approx(27 / 30)
    assert np.array(results['confusion']).sum() == 37
    assert np.trace(results['confusion']) == 34


def test_records_are_where_they_should_be(finished_run: Path) -> None:
    records = read_metrics(finished_run / 'metrics.jsonl', Classification)
    # 96 images in batches of 16 are 6 steps an epoch; metrics every 5 and before each validation.
    assert steps_of(records, 'train') == [5, 6, 10, 12, 15, 18, 20, 24]
    assert steps_of(records, 'validation') == [6, 12, 18, 24]
    for record in records:
        assert record['epoch'] == pytest.approx(record['step'] / 6, abs=1e-3)
        if record['split'] == 'train':
            cosine = 0.02 * (1 + np.cos(np.pi * (record['step'] - 1) / 24)) / 2
            assert record['learning_rate'] == pytest.approx(cosine, rel=1e-5)


@pytest.mark.parametrize('workers', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tiny: TrainConfig, tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    run_dir, tiny = tmp_path / 'run', dataclasses.replace(tiny, workers=workers)
    for step in (8, 9):  # In the second epoch of four, of six steps each, and again within the same window of metrics.
        with monkeypatch.context() as patched:
            stop_after(patched, 8 if step == 8 else 1, signal.SIGTERM)
            with pytest.raises(TrainingStopped, match=f'step {step}') as stopped:
                train(tiny, run_dir, resume=step > 8)
        assert stopped.value.number == signal.SIGTERM
    assert not (run_dir / 'report.md').exists()
    train(tiny, run_dir, resume=True)
    for ours, theirs in zip(final_arrays(run_dir), final_arrays(finished_run), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()
    results, expected = (read_results(folder, Classification) for folder in (run_dir, finished_run))
    assert results | {'seconds': 0} == expected | {'seconds': 0}
    assert untimed_records(run_dir) == untimed_records(finished_run)


@pytest.mark.slow
@pytest.mark.parametrize(('evaluation', 'step'), [(2, 12), (4, 24)])
def test_a_signal_during_an_evaluation_ends_it_at_once(
    tiny: TrainConfig, tmp_path: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch, evaluation: int, step: int
) -> None:
    """The checkpoint was written before, and the run that goes on evaluates it first."""
    calls, run_dir = [], tmp_path / 'run'

    def interrupted(*given: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == evaluation:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*given, **options)

    evaluate = engine.evaluate
    with monkeypatch.context() as patched:
        patched.setattr(engine, 'evaluate', interrupted)
        with pytest.raises(TrainingStopped, match=rf'SIGTERM at step {step}, which is saved'):
            train(tiny, run_dir)
    assert (
        steps_of(read_metrics(run_dir / 'metrics.jsonl', Classification), 'validation')
        == [6, 12, 18, 24][: evaluation - 1]
    )
    train(tiny, run_dir, resume=True)
    assert_ended_alike(run_dir, finished_run)
    ours, theirs = (read_metrics(folder / 'metrics.jsonl', Classification) for folder in (run_dir, finished_run))
    for split in ('train', 'validation'):
        assert steps_of(ours, split) == steps_of(theirs, split)
    results, expected = (json.loads((folder / 'results.json').read_text()) for folder in (run_dir, finished_run))
    assert (results['test'], results['best_step']) == (expected['test'], expected['best_step'])


@pytest.mark.slow
def test_the_best_checkpoint_outlives_worse_ones_and_a_stop(
    tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every evaluation is made worse than the one before."""
    evaluate, run_dir, validations = engine.evaluate, tmp_path / 'run', []

    def falling(*given: Any, **options: Any) -> Any:
        result = evaluate(*given, **options)
        if result.count != LENGTHS['validation']:
            return result
        validations.append(None)
        return dataclasses.replace(result, accuracy=1 - 0.1 * len(validations))

    monkeypatch.setattr(engine, 'evaluate', falling)
    with monkeypatch.context() as patched:
        stop_after(patched, 14, signal.SIGTERM)
        with pytest.raises(TrainingStopped):
            train(tiny, run_dir)
    (run_dir / 'metrics.jsonl').rename(tmp_path / 'elsewhere')
    with pytest.raises(FileNotFoundError, match=r'has no metrics\.jsonl'):
        train(tiny, run_dir, resume=True)
    (tmp_path / 'elsewhere').rename(run_dir / 'metrics.jsonl')
    train(tiny, run_dir, resume=True)
    assert [
        record['accuracy'] for record in read_metrics(run_dir / 'metrics.jsonl', Classification) if 'count' in record
    ] == (pytest.approx([0.9, 0.8, 0.7, 0.6]))
    assert json.loads((run_dir / 'results.json').read_text())['best_step'] == 6
    assert sorted(path.name for path in (run_dir / 'checkpoints').iterdir() if path.is_dir()) == ['18', '24', '6']
    with closing(Checkpoints(run_dir, read_only=True)) as checkpoints:
        variables = load_run(run_dir).variables
        best = checkpoints.restore_variables(6, variables)
        last = checkpoints.restore_variables(24, variables)
    chex.assert_trees_all_equal(variables, best)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(variables, last)


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_acts_at_once(number: signal.Signals) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        with signals() as received:
            os.kill(os.getpid(), number)
            assert received == [number]
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
        assert signal.getsignal(number) == interrupt
    finally:
        signal.signal(number, before)


def test_a_run_is_not_overwritten_unasked(tiny: TrainConfig, finished_run: Path) -> None:
    before = contents(finished_run)
    with pytest.raises(FileExistsError, match=r'resume=True .* overwrite=True'):
        train(tiny, finished_run)
    with pytest.raises(ValueError, match='one of them'):
        train(tiny, finished_run, resume=True, overwrite=True)
    with pytest.raises(ValueError, match=r'learning_rate was 0\.02 and is 0\.5'):
        train(dataclasses.replace(tiny, learning_rate=0.5), finished_run, resume=True)
    assert contents(finished_run) == before


def test_a_bad_data_set_leaves_the_old_run(tiny: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'run.json').write_text('an old run')
    (tmp_path / 'notes.txt').write_text('of the user')

    def missing(*_: Any, **__: Any) -> None:
        raise ValueError('no such data set')

    with monkeypatch.context() as patched:
        patched.setattr(splits, 'load_dataset', missing)
        with pytest.raises(ValueError, match='no such data set'):
            train(tiny, tmp_path, overwrite=True)
    assert contents(tmp_path) == {'run.json': b'an old run', 'notes.txt': b'of the user'}


def test_nothing_to_resume(tiny: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='is no folder'):
        train(tiny, tmp_path / 'none', resume=True)
    assert not (tmp_path / 'none').exists()


def flip_a_bit(folder: Path) -> None:
    path = max((path for path in folder.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def assert_ended_alike(run_dir: Path, finished_run: Path) -> None:
    for ours, theirs in zip(final_arrays(run_dir), final_arrays(finished_run), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes()


def test_a_damaged_checkpoint_is_passed_over(
    tiny: TrainConfig, tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = shutil.copytree(finished_run, tmp_path / 'run')
    (run_dir / 'results.json').unlink()
    flip_a_bit(run_dir / 'checkpoints/24/optimizer')
    with pytest.warns(UserWarning, match=r'checkpoints/24 is damaged: optimizer.*; the last good one is step 18'):
        load_run(run_dir)
    train(tiny, run_dir, resume=True)
    printed = capsys.readouterr().out
    assert 'checkpoints/24 is damaged: optimizer/' in printed
    assert 'from step 18 to 24' in printed
    assert_ended_alike(run_dir, finished_run)
    assert (
        json.loads((run_dir / 'results.json').read_text())['test']
        == (json.loads((finished_run / 'results.json').read_text())['test'])
    )
    for folder in (run_dir / 'checkpoints').iterdir():
        if folder.name.isdecimal():
            flip_a_bit(folder)
    (run_dir / 'results.json').unlink()
    before = contents(run_dir)
    with pytest.raises(ValueError, match=r'24 is damaged.*there is no good one\. overwrite=True'):
        train(tiny, run_dir, resume=True)
    assert contents(run_dir) == before


@pytest.mark.slow
def test_a_run_that_died_before_its_first_checkpoint(tiny: TrainConfig, tmp_path: Path, finished_run: Path) -> None:
    (tmp_path / 'run').mkdir()
    with pytest.raises(FileNotFoundError, match=r'holds no run'):
        train(tiny, tmp_path / 'run', resume=True)
    shutil.copy(finished_run / 'run.json', tmp_path / 'run')
    first = (finished_run / 'metrics.jsonl').read_text().splitlines(keepends=True)[0]
    assert json.loads(first)['step'] == 5
    (tmp_path / 'run/metrics.jsonl').write_text(f'{first}{{"split": "tra')
    with pytest.raises(FileExistsError, match='resume=True'):
        train(tiny, tmp_path / 'run')
    train(tiny, tmp_path / 'run', resume=True)
    assert_ended_alike(tmp_path / 'run', finished_run)
    assert steps_of(read_metrics(tmp_path / 'run/metrics.jsonl', Classification), 'train').count(5) == 1


@pytest.mark.slow
def test_more_checkpoints_change_nothing(tiny: TrainConfig, tmp_path: Path, finished_run: Path) -> None:
    saved, save = [], Checkpoints.save

    def saving(self: Checkpoints, step: int, *rest: Any) -> None:
        saved.append(step)
        save(self, step, *rest)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, 'save', saving)
        train(dataclasses.replace(tiny, checkpoint_every=2 / 3), tmp_path / 'run')
    assert saved == [4, 6, 8, 12, 16, 18, 20, 24]
    assert_ended_alike(tmp_path / 'run', finished_run)


def test_a_run_in_a_folder_of_any_name_gets_its_report(tiny: TrainConfig, finished_run: Path, tmp_path: Path) -> None:
    """It had been stopped before the report was written."""
    run_dir = shutil.copytree(finished_run, tmp_path / '$0_to_$5 [1]*' / os.fsdecode(b'a\\b \xff\x1b[1m\n'))
    (run_dir / 'report.md').unlink()
    train(tiny, run_dir, resume=True)
    assert (run_dir / 'report.md').read_text().startswith('# tiny on blobs')
    chex.assert_trees_all_equal(load_run(run_dir).variables, load_run(finished_run).variables)


def test_a_second_run_on_one_folder_is_refused(tiny: TrainConfig, tmp_path: Path) -> None:
    """The first one is another process, which is then killed."""
    program = (
        'import sys, time, pathlib; from flaxmobile.runs.folder import locked\n'
        'with locked(pathlib.Path(sys.argv[1])): print("in", flush=True); time.sleep(60)'
    )
    first = subprocess.Popen([sys.executable, '-c', program, tmp_path / 'run'], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == 'in\n'
        before = contents(tmp_path)
        for options in ({}, {'resume': True}, {'overwrite': True}):
            with pytest.raises(BlockingIOError, match=r'another run is writing to .*run: wait for it'):
                train(tiny, tmp_path / 'run', **options)
        assert contents(tmp_path) == before
    finally:
        first.kill()
        first.wait()
    with locked(tmp_path / 'run'):
        pass
