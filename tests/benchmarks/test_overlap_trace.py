"""The arithmetic of the trace, by hand, and the traced run itself."""

import sys

import pytest

from benchmarks import overlap


def test_spans_that_touch_are_one():
    assert overlap.merged([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 6)]
    assert overlap.merged([(0, 1), (2, 3), (9, 10)], gap=1) == [(0, 3), (9, 10)]


def test_the_share_that_lies_within():
    assert overlap.share([(0, 4), (6, 8)], [(1, 2), (3, 7)]) == 3 / 6
    assert overlap.share([(0, 1)], [(1, 2)]) == 0


@pytest.mark.parity  # The photographs are scikit-image's.
def test_a_run_is_traced(tmp_path, monkeypatch, capsys):
    words = ['overlap', '--model', 'mobilenetv3_small_050', '--batch', '8', '--output', str(tmp_path / 'overlap.png')]
    monkeypatch.setattr(sys, 'argv', words)
    monkeypatch.setattr(overlap, 'limit_threads', lambda threads: None)
    overlap.main()
    assert '7 steps of mobilenetv3_small_050, 8 images each' in capsys.readouterr().out
    assert (tmp_path / 'overlap.png').stat().st_size > 1000
