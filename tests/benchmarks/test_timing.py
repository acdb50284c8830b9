"""Medians, turns and ratios, by hand."""

import math

import numpy as np
import pytest

from benchmarks.report import row, with_ratios
from benchmarks.runner import compare
from benchmarks.timing import interleave, limit_threads
from flaxmobile.analysis.latency import Times, summarize


def test_quartiles():
    assert summarize([4, 1, 3, 2, 5]) == Times(median=3, lower=2, upper=4, rounds=5)
    assert summarize([1, 2]) == Times(median=1.5, lower=1.25, upper=1.75, rounds=2)


class Clocks:
    """Contenders that take a known number of seconds a call, and what was asked of them."""

    def __init__(self, seconds):
        self.asked = []
        self.runs = {name: self.run(name, each) for name, each in seconds.items()}

    def run(self, name, each):
        def run(calls):
            self.asked.append((name, calls))
            return each * calls

        return run


def test_every_contender_once_a_round_in_changing_order():
    clocks = Clocks({'a': 0.25, 'b': 0.5, 'c': 1.0})
    times = interleave(clocks.runs, 4)
    order = ''.join(name for name, _ in clocks.asked)
    rounds = [order[6 + 3 * number :][:3] for number in range(4)]
    assert order[:6] == 'aabbcc'
    assert all(sorted(each) == ['a', 'b', 'c'] for each in rounds)
    assert len(set(rounds)) > 1
    assert times == {name: Times(ms, ms, ms, 4) for name, ms in (('a', 250), ('b', 500), ('c', 1000))}


def test_the_quick_are_called_many_times_and_the_slow_in_five_rounds_over_all():
    clocks = Clocks({'quick': 1 / 64, 'slow': 5.5})
    times = interleave(clocks.runs, 21)
    measured = clocks.asked[4:]
    assert measured.count(('quick', 16)) == 21
    assert times['quick'] == Times(15.625, 15.625, 15.625, 21)
    assert times['slow'] == Times(5500, 5500, 5500, 5)
    quick_before = [measured[:index].count(('quick', 16)) for index, asked in enumerate(measured) if asked[0] == 'slow']
    assert [abs(before - wanted) <= 1 for before, wanted in zip(quick_before, (0, 5, 10, 15, 20), strict=True)]
    assert interleave({}, 3) == {}
    assert interleave(Clocks({'slow': 5.5}).runs, 3)['slow'].rounds == 3


def test_ratios_are_ours_over_theirs_in_the_same_case():
    def case(batch, contender, median):
        return row('inference', 'net', batch, contender, Times(median, 0, 0, 20))

    rows = [case(1, 'ours', 3), case(1, 'peer', 12), case(8, 'peer', 5), case(8, 'ours', 10), case(32, 'peer', 1)]
    rows.append(row('inference', 'net', 1, 'absent', 'not installed: peer'))
    assert [each.get('ratio') for each in with_ratios(rows)] == [1, 0.25, 2, 1, None, None]


def test_outcomes_that_differ_are_refused():
    wanted = np.array([1.0, -4.0])
    compare(wanted + 3e-4, wanted, 1e-4)
    for outcome in (wanted + 5e-4, wanted * math.nan, wanted[:1]):
        with pytest.raises(RuntimeError, match='its outcome is'):
            compare(outcome, wanted, 1e-4)


def test_more_threads_than_cores():
    with pytest.raises(ValueError, match='100000 threads asked for: this machine has'):
        limit_threads(100_000)
