import json
import re
from pathlib import Path

import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from flaxmobile.training.metrics import Display, MetricsLog, Window, duration, read_metrics


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
    log = MetricsLog(tmp_path)
    log.write('train', 10, 0.5, {'loss': 0.25, 'accuracy': 0.75})
    log.write('validation', 20, 1.0, {'accuracy': 0.5})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [{name: line[name] for name in line if name != 'seconds'} for line in lines] == [
        {'split': 'train', 'step': 10, 'epoch': 0.5, 'loss': 0.25, 'accuracy': 0.75},
        {'split': 'validation', 'step': 20, 'epoch': 1.0, 'accuracy': 0.5},
    ]
    assert read_metrics(tmp_path / 'metrics.jsonl') == lines
    values = tensorboard_values(tmp_path / 'tensorboard')
    assert values == [(10, 'train/loss', 0.25), (10, 'train/accuracy', 0.75), (20, 'validation/accuracy', 0.5)]


def test_a_resumed_log_forgets_what_comes_again(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    for step in (10, 20, 30):
        log.write('train', step, step / 20, {'loss': float(step)})
    log.close()
    path = tmp_path / 'metrics.jsonl'
    path.write_text(path.read_text() + '{"split": "train", "st')
    resumed = MetricsLog(tmp_path, start_step=20)
    resumed.write('train', 30, 1.5, {'loss': 3.0})
    resumed.close()
    records = read_metrics(path)
    assert [(record['step'], record['loss']) for record in records] == [(10, 10.0), (20, 20.0), (30, 3.0)]
    seconds = [record['seconds'] for record in records]
    assert seconds == sorted(seconds)


RECORD = '{"split": "train", "step": 6, "epoch": 1.0, "seconds": 2.5}\n'


@pytest.mark.parametrize(
    ('damaged', 'why'),
    [
        ('nonsense', 'Expecting value'),
        ('{}', 'no epoch, seconds, split, step'),
        ('[6]', 'no epoch, seconds, split, step'),
        (RECORD.replace('step', 'stop').strip(), 'no step'),
        (RECORD.replace('train', 'validation').strip(), 'no accuracy'),
    ],
)
@pytest.mark.parametrize('after', ['', RECORD])
def test_a_damaged_line_is_named(damaged: str, why: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / 'metrics.jsonl'
    path.write_text(f'{RECORD}{damaged}\n{after}')
    with pytest.raises(ValueError, match=re.escape(f'metrics.jsonl, line 2 is damaged ({why}')):
        read_metrics(path)


@pytest.mark.parametrize('cut_off', ['', '{"split": "tr', RECORD.strip()])
def test_a_line_without_its_end_does_not_count(cut_off: str, tmp_path: Path) -> None:
    path = tmp_path / 'metrics.jsonl'
    path.write_text(RECORD + cut_off)
    assert read_metrics(path) == [json.loads(RECORD)]
    assert read_metrics(tmp_path / 'none.jsonl') == []


def test_a_window_means_what_it_saw() -> None:
    window = Window(batch_size=32)
    for value in (1.0, 2.0, 6.0, 7.0):
        window.add({'loss': jnp.float32(value)})
    means = window.close()
    assert means['loss'] == 4.0
    assert means['images_per_second'] > 0
    window.add({'loss': jnp.float32(-1.0)})
    assert window.close()['loss'] == -1.0


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
    with Display(total_steps=100, epochs=4) as display:
        display.training(25, 1.0, values)
        display.training(50, 2.0, values)
        display.validation(2.0, {'loss': 0.6, 'accuracy': 0.9}, best=True)
    first, training, validation = (' '.join(line.split()) for line in capsys.readouterr().out.splitlines())
    assert first == 'step 25/100 epoch 1.0/4 loss 0.5123 accuracy 87.50 % 1,234 images/s'
    assert training == 'step 50/100 epoch 2.0/4 loss 0.5123 accuracy 87.50 % 1,234 images/s 0 s left'
    assert validation == 'validation after 2.0 epochs loss 0.6000 accuracy 90.00 % best so far'
    with Display(total_steps=100, epochs=4, silent=True) as display:
        display.training(50, 2.0, values)
    assert capsys.readouterr().out == ''
