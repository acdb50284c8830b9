import hashlib
import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from flaxmobile.tasks.classification import Classification
from flaxmobile.training.metrics import Display, MetricsLog, Window, duration, is_cut_off, read_metrics


def tensorboard_values(folder: Path) -> list[tuple[int, str, float]]:
    """What TensorBoard would read: records of a length (8 bytes), its checksum (4), an event, and its checksum (4)."""
    found = []
    for path in sorted(folder.glob('events.*')):
        content = path.read_bytes()
        while content:
            length = int.from_bytes(content[:8], 'little')
            event = Event.FromString(content[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            content = content[16 + length :]
    return found


def test_records_come_back(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, Classification)
    training = {'loss': 0.25, 'accuracy': 0.75, 'learning_rate': 0.125}
    validation = {'loss': float('inf'), 'accuracy': 0.5, 'accuracy_top5': 1.0, 'count': 8}
    log.write('train', 10, 0.5, training)
    log.write('validation', 20, 1.0, validation)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [{name: line[name] for name in line if name not in ('seconds', 'sha256')} for line in lines] == [
        {'split': 'train', 'step': 10, 'epoch': 0.5, **training},
        {'split': 'validation', 'step': 20, 'epoch': 1.0, **validation},
    ]
    for line in lines:  # What docs/reliability.md says that it is.
        content = json.dumps({name: line[name] for name in sorted(line) if name != 'sha256'})
        assert line.pop('sha256') == hashlib.sha256(content.encode()).hexdigest()
    assert read_metrics(tmp_path / 'metrics.jsonl', Classification) == lines
    values = [(10, f'train/{name}', value) for name, value in training.items()]
    values += [(20, f'validation/{name}', value) for name, value in validation.items()]
    assert tensorboard_values(tmp_path / 'tensorboard') == values


def test_a_resumed_log_forgets_what_comes_again(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, Classification)
    for step in (10, 20, 30):
        log.write('train', step, step / 20, {'loss': float(step), 'accuracy': 0.5, 'learning_rate': 0.1})
    log.close()
    path = tmp_path / 'metrics.jsonl'
    path.write_text(path.read_text() + '{"split": "train", "st')
    resumed = MetricsLog(tmp_path, Classification, start_step=20)
    resumed.write('train', 30, 1.5, {'loss': 3.0, 'accuracy': 0.5, 'learning_rate': 0.1})
    resumed.close()
    records = read_metrics(path, Classification)
    assert [(record['step'], record['loss']) for record in records] == [(10, 10.0), (20, 20.0), (30, 3.0)]
    seconds = [record['seconds'] for record in records]
    assert seconds == sorted(seconds)


RECORD = (
    '{"split": "train", "step": 6, "epoch": 1.0, "seconds": 2.5, "loss": 0.7, "accuracy": 0.5, "learning_rate": 0.1}\n'
)


@pytest.mark.parametrize(
    ('damaged', 'why'),
    [
        ('nonsense', 'Expecting value'),
        ('{}', 'no epoch, seconds, split, step'),
        ('[6]', 'it is no JSON object'),
        ('[' * 100_000, 'its brackets lie too deep'),
        (RECORD.replace('step', 'stop').strip(), 'no step'),
        (RECORD.replace('train', 'validation').strip(), 'no accuracy_top5, count'),
        (RECORD.replace('train', 'probe').strip(), 'no knn_accuracy, linear_accuracy, penalty, test_images, train_im'),
        (RECORD.replace('train', 'tra\\u001bin').strip(), r"split is 'tra\x1bin', not train, validation, probe"),
        (RECORD.replace('"train"', '["train"]').strip(), "split is ['train'], not train, validation, probe"),
        (RECORD.replace('6', '"6"').strip(), "step is '6', not a whole number, 0 or more"),
        (RECORD.replace('6', 'true').strip(), 'step is True, not a whole number, 0 or more'),
        (RECORD.replace('6', '6.5').strip(), 'step is 6.5, not a whole number, 0 or more'),
        (RECORD.replace('6', f'{2**63}').strip(), f'step is {2**63}, not a whole number, 0 or more'),
        (RECORD.replace('2.5', '-2.5').strip(), 'seconds is -2.5, not a number, 0 or more'),
        (RECORD.replace('2.5', 'NaN').strip(), 'seconds is nan, not a number, 0 or more'),
        (RECORD.replace('0.5', '1.5').strip(), 'accuracy is 1.5, not a number from 0 to 1'),
        (RECORD.replace('0.7', 'null').strip(), 'loss is None, not a number'),
        (RECORD.replace('}', ', "more": "0.7"}').strip(), "more is '0.7', not a number"),
        (RECORD.replace('}', ', "sha256": "0123"}').strip(), 'it is not as it was written: its sha256 is that of some'),
    ],
)
@pytest.mark.parametrize('after', ['', RECORD])
def test_a_damaged_line_is_named(damaged: str, why: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / 'metrics.jsonl'
    path.write_text(f'{RECORD}{damaged}\n{after}')
    with pytest.raises(ValueError, match=re.escape(f'metrics.jsonl, line 2 is damaged ({why}')):
        read_metrics(path, Classification)


@pytest.mark.parametrize('length', range(len(RECORD) - 1))
def test_a_line_that_was_cut_off_does_not_count(length: int, tmp_path: Path) -> None:
    path = tmp_path / 'metrics.jsonl'
    path.write_text(RECORD + RECORD[:length])
    assert read_metrics(path, Classification) == [json.loads(RECORD)]
    assert is_cut_off(path) == (length > 0)


def test_a_whole_record_without_its_line_break_counts(tmp_path: Path) -> None:
    path = tmp_path / 'metrics.jsonl'
    path.write_text(RECORD + RECORD.strip())
    assert read_metrics(path, Classification) == 2 * [json.loads(RECORD)]
    assert not is_cut_off(path)
    assert read_metrics(tmp_path / 'none.jsonl', Classification) == []
    path.write_text(f'{RECORD}{RECORD.strip()}\x0b')  # A bit of the line break flipped.
    with pytest.raises(ValueError, match=r'line 2 is damaged \(Extra data'):
        read_metrics(path, Classification)


def test_a_window_means_what_it_saw() -> None:
    window = Window(batch_size=32)
    for value in (1.0, 2.0, 6.0, 7.0):
        window.add({'loss': jnp.float32(value)})
    means = window.close()
    assert means['loss'] == 4.0
    assert means['images_per_second'] > 0
    window.add({'loss': jnp.float32(-1.0)})
    assert window.close()['loss'] == -1.0


def test_a_window_goes_on_to_the_same_means_where_a_stop_cut_it_short() -> None:
    """Losses whose sum depends on the order, and a step that was skipped on either side of the stop."""
    losses = np.random.default_rng(0).normal(1, 1e6, 9)
    steps = [
        {'loss': jnp.float32(loss), 'skipped_in_a_row': np.int32(number in (2, 7)), 'skipped_updates': np.int32(number)}
        for number, loss in enumerate(losses)
    ]
    whole = Window(batch_size=32)
    for step in steps:
        whole.add(step)
    taken = [float(np.float32(loss)) for number, loss in enumerate(losses) if number not in (2, 7)]
    expected = whole.close()
    assert expected['loss'] == pytest.approx(np.mean(taken), rel=1e-12)
    assert expected['skipped_updates'] == 8
    for stop in range(1, 9):
        first = Window(batch_size=32)
        for step in steps[:stop]:
            first.add(step)
        second = Window(32, json.loads(json.dumps(first.sums())))
        for step in steps[stop:]:
            second.add(step)
        means = second.close()
        assert (means['loss'], means['skipped_updates']) == (expected['loss'], 8)
        second.add(steps[0])
        assert second.close()['loss'] == float(steps[0]['loss'])


@pytest.mark.parametrize(
    ('seconds', 'words'),
    [
        (0.2, '0 s'),
        (59.4, '59 s'),
        (59.6, '1 min 00 s'),
        (185, '3 min 05 s'),
        (3600, '1 h 00 min'),
        (7645, '2 h 07 min'),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    values = {'loss': 0.51234, 'accuracy': 0.875, 'images_per_second': 1234.5}
    with Display(Classification, total_steps=100, epochs=4) as display:
        display.training(25, 1.0, values)
        display.training(50, 2.0, values)
        display.validation(2.0, {'loss': 0.6, 'accuracy': 0.9}, best=True)
        display.training(75, 3.0, values)
        display.validation(3.0, {'loss': 0.6, 'accuracy': 0.9}, best=False)
        display.training(100, 4.0, values)
    first, training, validation, after, _, last = (
        ' '.join(line.split()) for line in capsys.readouterr().out.splitlines()
    )
    assert first == 'step 25/100 epoch 1.0/4 loss 0.5123 accuracy 87.50 % 1,234 images/s'
    assert training == 'step 50/100 epoch 2.0/4 loss 0.5123 accuracy 87.50 % 1,234 images/s 0 s left'
    assert validation == 'validation after 2.0 epochs loss 0.6000 accuracy 90.00 % best so far'
    # The first validation was compiled, too.
    assert after == 'step 75/100 epoch 3.0/4 loss 0.5123 accuracy 87.50 % 1,234 images/s'
    assert last == 'step 100/100 epoch 4.0/4 loss 0.5123 accuracy 87.50 % 1,234 images/s 0 s left'
    with Display(Classification, total_steps=100, epochs=4, silent=True) as display:
        display.training(50, 2.0, values)
    assert capsys.readouterr().out == ''
