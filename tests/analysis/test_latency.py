import time

import numpy as np
import pytest
from rich.console import Console

from flaxmobile import create_model
from flaxmobile.analysis import Layer, latency
from flaxmobile.analysis.latency import (
    Benchmark,
    Report,
    Speed,
    Times,
    as_dict,
    benchmark,
    in_training,
    interleave,
    speed,
    summarize,
)
from flaxmobile.analysis.trace import LayerTime


def test_median_and_quartiles() -> None:
    assert summarize([5.0, 1.0, 4.0, 2.0, 3.0]) == Times(3.0, 2.0, 4.0, 5)


def test_speed_by_hand() -> None:
    # 8 images in 20 ms are 400 a second; 3 G multiply-adds in 20 ms 150 G a second, of 600 G a quarter.
    found = speed(Times(20.0, 19.0, 22.0, 5), 8, 3_000_000_000, 600e9)
    assert found.images_per_second == pytest.approx(400)
    assert found.multiply_adds_per_second == pytest.approx(150e9)
    assert found.share_of_peak == pytest.approx(0.25)


def test_every_call_in_turn_and_once_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, 'WARM_UP', 0)
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) or np.zeros(1) for name in ('a', 'b')}
    assert [times.rounds for times in interleave(calls, 3).values()] == [3, 3]
    assert ''.join(order) == 'ab' * 4


def test_times_are_milliseconds_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, 'WARM_UP', 0.05)
    times = interleave({'slow': lambda: time.sleep(0.02), 'quick': lambda: None}, 3)
    assert 20 <= times['slow'].median < 200
    assert times['quick'].median < 5


def test_training_costs_two_gradients_but_one_in_the_first_layer() -> None:
    rows = tuple(Layer(str(cost), 'dense', (1, 1), (1, 1), (1,), 0, cost) for cost in (10, 100, 1000))
    assert [row.multiply_adds for row in in_training(rows)] == [2 * 10, 3 * 100, 3 * 1000]


@pytest.mark.parametrize('wrong', [{'rounds': 0}, {'batch_size': 0}, {'image_size': 0}])
def test_what_cannot_be_timed_is_said(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r'is 0.*has to be 1 or more'):
        benchmark(create_model('mobilenetv2_035'), {}, **{'batch_size': 1, 'image_size': 32, 'rounds': 1, **wrong})


def test_the_report_and_the_json() -> None:
    work = {'inference': Speed(Times(20.0, 19.0, 22.0, 5), 400.0, 3_000_000_000, 150e9, 0.25)}
    result = Benchmark(8, 224, 'cpu', 375_000_000, 600e9, work, {'inference': [LayerTime(None, 0.5)]})
    console = Console(width=140)
    with console.capture() as printed:
        console.print(Report('net', result))
    title, _, line, peak, _, layer, *_ = printed.get().splitlines()
    assert title.strip() == 'net, 8 at a time of 224x224 pixels, cpu'
    assert ' '.join(line.split()) == 'inference 20.000 19.000 - 22.000 400.0 3,000,000,000 150.0 25.0 %'
    assert peak.startswith('Peak: 600.0 G multiply-adds/s')
    assert layer.startswith('layer, in inference')
    found = as_dict('net', result)
    assert found['work']['inference']['times'] == {'median': 20.0, 'lower': 19.0, 'upper': 22.0, 'rounds': 5}
    assert (found['model'], found['batch_size'], found['peak'], found['layers']) == (
        'net',
        8,
        600e9,
        {'inference': [{'name': None, 'milliseconds': 0.5}]},
    )
