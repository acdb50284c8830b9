from collections.abc import Callable
from types import SimpleNamespace

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
from flaxmobile.analysis.trace import LayerTime, Program


def test_median_and_quartiles() -> None:
    assert summarize([5.0, 1.0, 4.0, 2.0, 3.0]) == Times(3.0, 2.0, 4.0, 5)


def test_speed_by_hand() -> None:
    # 8 images in 20 ms are 400 a second; 3 G multiply-adds in 20 ms 150 G a second, of 600 G a quarter.
    found = speed(Times(20.0, 19.0, 22.0, 5), 8, 3_000_000_000, 600e9)
    assert found.images_per_second == pytest.approx(400)
    assert found.multiply_adds_per_second == pytest.approx(150e9)
    assert found.share_of_peak == pytest.approx(0.25)


class Clock:
    """A clock that only work moves, and what was done by it: calls give results that take a while to be ready."""

    def __init__(self) -> None:
        self.now, self.done = 0.0, list[str]()

    def call(self, name: str, starting: float, waiting: float) -> Callable[[], 'Pending']:
        def start() -> Pending:
            self.work(f'{name} starts', starting)
            return Pending(lambda: self.work(f'{name} is ready', waiting))

        return start

    def work(self, what: str, seconds: float) -> None:
        self.done.append(what)
        self.now += seconds


class Pending:
    """A result, as JAX gives them out: with a method that waits for it."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait

    def block_until_ready(self) -> 'Pending':
        self.wait()
        return self


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(latency, 'time', SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_every_call_in_turn_until_its_result_is_there(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, 'WARM_UP', 0)
    times = interleave({'a': clock.call('a', 0.25, 2), 'b': clock.call('b', 0.5, 4)}, 3)
    assert times == {'a': Times(2250, 2250, 2250, 3), 'b': Times(4500, 4500, 4500, 3)}
    assert clock.done == ['a starts', 'a is ready', 'b starts', 'b is ready'] * 4


def test_calls_are_warm_before_they_are_timed(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, 'WARM_UP', 1.0)
    interleave({'a': clock.call('a', 0.125, 0.25), 'b': clock.call('b', 1, 1)}, 1)
    # a takes 0.375 s: after the third call a second is over.
    assert clock.done[::2] == ['a starts'] * 3 + ['b starts'] + ['a starts', 'b starts']


def test_the_product_is_of_the_size_that_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert latency.product_size('cpu') == 1024
    monkeypatch.setattr(latency, 'product_size', lambda platform: 3)
    product, multiply_adds = latency._product('cpu')
    assert product().shape == (3, 3)
    assert product().dtype == np.float32
    assert multiply_adds == 27


def test_a_benchmark_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of 2 ms beside inference and of 1 ms beside the training step, on the same machine."""
    medians = {
        'inference': {'product': 2.0, 'inference': 4.0},
        'training step': {'product': 1.0, 'training step': 10.0},
    }

    def timed(calls: dict[str, object], rounds: int) -> dict[str, Times]:
        [name] = calls.keys() - {'product'}
        return {call: Times(medians[name][call], 0, 0, rounds) for call in calls}

    rows = tuple(Layer(str(cost), 'dense', (1, 1), (1, 1), (1,), 0, cost) for cost in (1_000_000, 4_000_000))
    compiled = SimpleNamespace(as_text=lambda: '')
    lowered = SimpleNamespace(lower=lambda images: SimpleNamespace(compile=lambda: compiled))
    monkeypatch.setattr(latency, 'interleave', timed)
    monkeypatch.setattr(latency, 'count_layers', lambda model, image_size, channels: rows)
    monkeypatch.setattr(latency, 'inference_function', lambda model, variables: lowered)
    step = Program(lambda: None, '')
    result = benchmark(create_model('mobilenetv2_035'), {}, batch_size=8, image_size=32, rounds=5, train_step=step)
    # 1024 x 1024 x 1024 multiply-adds in 1 ms.
    assert result.peak == pytest.approx(1_073_741_824_000)
    assert result.multiply_adds_per_image == 5_000_000
    # 8 images in 4 ms; 8 x 5 M multiply-adds in 4 ms; a training step has 2 x 1 M + 3 x 4 M, in 10 ms.
    inference, training = result.work['inference'], result.work['training step']
    assert inference[1:] == pytest.approx((2000, 40_000_000, 10e9, 10e9 / 1073.741824e9))
    assert training[1:] == pytest.approx((800, 112_000_000, 11.2e9, 11.2e9 / 1073.741824e9))


def test_training_costs_two_gradients_but_one_in_the_first_layer() -> None:
    rows = tuple(Layer(str(cost), 'dense', (1, 1), (1, 1), (1,), 0, cost) for cost in (10, 100, 1000))
    assert [row.multiply_adds for row in in_training(rows)] == [2 * 10, 3 * 100, 3 * 1000]


@pytest.mark.parametrize('wrong', [{'rounds': 0}, {'batch_size': 0}, {'image_size': 0}])
def test_what_cannot_be_timed_is_said(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r'must be 1 or more, not 0'):
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
