"""Single flipped bits in the text files of a run: each reader says what it said before, or names the file."""

import dataclasses
import json
import random
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flaxmobile.runs.folder import (
    FREE_FIELDS,
    RunDescription,
    check_data,
    check_folder,
    load_run,
    read_description,
    validation_values,
)
from flaxmobile.runs.report import RunFacts, read_results, write_report
from flaxmobile.runs.sources import load
from flaxmobile.runs.start import follow, load_init
from flaxmobile.runs.training import train
from flaxmobile.tasks.classification import Classification
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.metrics import read_metrics

Run = Callable[..., tuple[int, str, str]]
NAMES = ('run.json', 'metrics.jsonl', 'results.json')
READERS: dict[str, Callable[[Path], Any]] = {
    'run.json': read_description,
    'metrics.jsonl': lambda run_dir: (
        read_metrics(run_dir / 'metrics.jsonl', Classification),
        validation_values(run_dir, Classification),
    ),
    'results.json': lambda run_dir: read_results(run_dir, Classification)['test'],
}


@pytest.fixture
def run_dir(finished_run: Path, tmp_path: Path, tiny: TrainConfig) -> Path:
    return shutil.copytree(finished_run, tmp_path / 'run')


def flips(content: bytes, every: int) -> Iterator[bytes]:
    """`content` with one bit flipped: of each so many bits one, drawn by seed, and all of the last line break."""
    rng, end = random.Random(0), 8 * len(content)
    for first in (*range(0, end - 8, every), *range(end - 8, end)):
        bit = first if first >= end - 8 else min(first + rng.randrange(every), end - 1)
        yield content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def unsigned(content: bytes) -> bytes:
    """As a version wrote it that gave its files no digests."""
    lines = [json.loads(line) for line in (content.splitlines() if b'"step"' in content else [content])]
    return b''.join(
        json.dumps({name: value for name, value in line.items() if name != 'sha256'}).encode() + b'\n' for line in lines
    )


def telling(read: Callable[[Path], Any], run_dir: Path, name: str) -> Any:
    """What a reader says, or None where it refuses the file called `name` in one line that names it."""
    try:
        return read(run_dir)
    except ValueError as error:
        message = str(error)
    assert re.match(rf'{re.escape(str(run_dir / name))}(, line \d+)? (is|has) ', message), message
    assert message.isprintable()
    assert len(message) < 2000
    return None


@pytest.mark.parametrize('name', NAMES)
def test_a_flipped_bit_is_refused_or_changes_nothing(name: str, run_dir: Path) -> None:
    path, read = run_dir / name, READERS[name]
    content, expected = path.read_bytes(), read(run_dir)
    refused = 0
    for flipped in flips(content, every=31):
        path.write_bytes(flipped)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            found = telling(read, run_dir, name)
        refused += found is None
        assert found in (None, expected), flipped
    assert refused > 8 * len(content) / 31 / 2  # Half of the bits of run.json are blanks between its fields, or names.


def test_a_flipped_bit_in_run_json_without_a_digest_is_found_by_the_copies(run_dir: Path) -> None:
    """Of a run of an older version, what no answer depends on may change: where TFDS keeps data, lines of metrics."""
    path, free = run_dir / 'run.json', dict.fromkeys(FREE_FIELDS)
    content = unsigned(path.read_bytes())
    path.write_bytes(content)
    expected = read_description(run_dir)
    refused = 0
    for flipped in flips(content, every=61):
        path.write_bytes(flipped)
        found = telling(read_description, run_dir, 'run.json')
        refused += found is None
        if found is not None:
            same = {name: getattr(expected.config, name) for name in free}
            assert dataclasses.replace(found, config=dataclasses.replace(found.config, **same)) == expected
    assert refused > 30


@pytest.mark.parametrize('name', ['metrics.jsonl', 'results.json'])
def test_a_flipped_bit_without_a_digest_never_crashes(name: str, run_dir: Path) -> None:
    """A digit may be another one, as those files of older versions say nothing against it."""
    path, read = run_dir / name, READERS[name]
    content = unsigned(path.read_bytes())
    for flipped in flips(content, every=61):
        path.write_bytes(flipped)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            telling(read, run_dir, name)


def changed_mean(run_dir: Path, *, digest: bool) -> None:
    """A mean of 0.3 read as 0.7, as one bit does it."""
    path = run_dir / 'run.json'
    content = json.loads(path.read_text())
    content['config']['mean'] = [0.7]
    if not digest:
        del content['sha256']
    path.write_text(json.dumps(content))


@pytest.mark.parametrize('digest', [True, False])
def test_every_reader_of_a_run_refuses_another_mean(
    digest: bool, run_dir: Path, tiny: TrainConfig, command: Run, blob_file: Path
) -> None:
    changed_mean(run_dir, digest=digest)
    resumed = tiny.with_options(mean=(0.7,))
    readers: list[Callable[[], object]] = [
        lambda: read_description(run_dir),
        lambda: load_run(run_dir),
        lambda: load(str(run_dir)),
        lambda: load_init(str(run_dir), tiny.start_plan),
        lambda: follow(tiny, str(run_dir)),
        lambda: follow(tiny, 'gone', run_dir),
        lambda: check_folder(run_dir, resumed, resume=True, overwrite=False),
        lambda: check_data(run_dir, RunDescription(resumed, ('bottom', 'left', 'right', 'top'))),
        lambda: train(resumed, run_dir, resume=True),
        lambda: train(dataclasses.replace(tiny, teacher=str(run_dir)), run_dir.with_name('other')),
        lambda: train(dataclasses.replace(tiny, init=str(run_dir)), run_dir.with_name('other')),
    ]
    for read in readers:
        with pytest.raises(ValueError, match=re.escape(str(run_dir / 'run.json'))):
            read()
    for words in (('evaluate', run_dir), ('predict', run_dir, blob_file), ('convert', run_dir, 'out.safetensors')):
        status, _, error = command(*words)
        assert status == 2
        assert f'{run_dir}/run.json' in error
    assert not run_dir.with_name('other').exists()


def test_the_message_says_what_differs_and_mends_it(run_dir: Path) -> None:
    expected = read_description(run_dir)
    changed_mean(run_dir, digest=False)
    copy = run_dir / 'checkpoints/24/run/metadata'
    with pytest.raises(ValueError, match=r'config\.mean differs from the copy') as raised:
        read_description(run_dir)
    assert 'config.mean is (0.7,), and (0.3,) in the copy' in str(raised.value)
    assert str(raised.value).endswith(f'Put the copy in its place: cp {copy} {run_dir / "run.json"}')
    shutil.copy(copy, run_dir / 'run.json')
    assert read_description(run_dir) == expected
    expected.write(run_dir)
    changed_mean(run_dir, digest=True)
    with pytest.raises(ValueError, match=rf'run\.json is damaged .*its sha256 .*in its place: cp {copy}'):
        read_description(run_dir)


def test_the_run_json_of_another_run_is_refused(run_dir: Path, tiny: TrainConfig) -> None:
    """Whole, with a digest that is right."""
    description = read_description(run_dir)
    other = RunDescription(tiny, ('bottom', 'left', 'top', 'right'), description.images, description.teacher)
    other.write(run_dir)
    with pytest.raises(ValueError, match=r"classes\[2\], classes\[3\] differ .*classes\[2\] is 'top', and 'right' in"):
        load_run(run_dir)
    dataclasses.replace(description, classes=description.classes[:3]).write(run_dir)
    with pytest.raises(ValueError, match=r"classes\[3\] differs .* is None, and 'top' in"):
        load_run(run_dir)


def test_a_copy_that_is_damaged_itself_says_nothing(run_dir: Path) -> None:
    """The checkpoints before still do; where none is left, no checkpoint can be used either."""
    last = run_dir / 'checkpoints/24/run/metadata'
    last.write_text(last.read_text().replace('0.3', '0.7'))
    assert read_description(run_dir).config.preprocessing.mean == (0.3,)
    changed_mean(run_dir, digest=False)
    with pytest.raises(ValueError, match=r'differs from the copy in .*checkpoints/18/run/metadata'):
        read_description(run_dir)


def test_what_may_change_when_a_run_goes_on_may_differ(run_dir: Path, tiny: TrainConfig) -> None:
    description = read_description(run_dir)
    changed = dataclasses.replace(tiny, workers=2, log_every=7, keep_checkpoints=9, dataset='moved')
    dataclasses.replace(description, config=changed).write(run_dir)
    assert read_description(run_dir).config == changed
    # What a version that knows images by more writes, of a run that an earlier one began.
    known = {part: f'{words}, contents 0123456789abcdef' for part, words in description.images.items()}
    dataclasses.replace(description, images=known).write(run_dir)
    assert read_description(run_dir).images == known
    dataclasses.replace(description, images=dict.fromkeys(known, '9 images')).write(run_dir)
    with pytest.raises(ValueError, match=r'images\.train, images\.validation, images\.test differ from the copy'):
        read_description(run_dir)


def test_a_damaged_log_is_named_before_the_training_and_after(run_dir: Path, tiny: TrainConfig) -> None:
    path = run_dir / 'metrics.jsonl'
    whole, lines = path.read_text(), path.read_text().splitlines(keepends=True)
    number = next(number for number, line in enumerate(lines) if '"validation"' in line)
    damaged = lines[number].replace('"loss"', '"lnss"')
    path.write_text(''.join([*lines[:number], damaged, *lines[number + 1 :]]))
    (run_dir / 'results.json').unlink()
    before = {file: file.read_bytes() for file in run_dir.rglob('*') if file.is_file()}
    for read in (
        lambda: train(tiny, run_dir, resume=True),
        lambda: load_run(run_dir),
        lambda: write_report(run_dir, read_description(run_dir), Classification, 24, None, RunFacts('')),
    ):
        with pytest.raises(ValueError, match=rf'metrics\.jsonl, line {number + 1} is damaged'):
            read()
    assert {file: file.read_bytes() for file in run_dir.rglob('*') if file.is_file()} == before
    path.write_text(whole.replace('"step": 24', '"step": 25'))
    with pytest.raises(ValueError, match=r'metrics\.jsonl, line \d+ is damaged'):
        write_report(run_dir, read_description(run_dir), Classification, 24, None, RunFacts(''))
    path.write_text(''.join(line for line in lines if '"step": 24' not in line))
    with pytest.raises(ValueError, match=r'metrics\.jsonl has no validation of step 24, which was the best'):
        write_report(run_dir, read_description(run_dir), Classification, 24, None, RunFacts(''))


def test_damaged_results_are_not_told(run_dir: Path, command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_dir.parent / 'mine.py'
    config.write_text(
        "from flaxmobile.training.config import TrainConfig\nconfig = TrainConfig(model='a', dataset='b')"
    )
    monkeypatch.setattr('flaxmobile.runs.training.train', lambda *_, **__: None)
    path = run_dir / 'results.json'
    whole = path.read_text()
    for damaged in (
        whole.replace('"accuracy": 0.9', '"accuracy": 0.8', 1),
        '{"test": {}}',
        '{"test": 3}',
        '{}',
        '{"test": {"accuracy": 1.5}}',
        whole[:99],
    ):
        path.write_text(damaged)
        status, out, error = command('train', config, '--run-dir', run_dir, '--resume')
        assert (status, out) == (2, '')
        assert f'{path} is damaged' in error
        assert 'delete it, and --resume writes it again' in error
