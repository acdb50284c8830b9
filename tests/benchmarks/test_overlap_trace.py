"""The arithmetic of the trace, by hand, and the names that it patches."""

from benchmarks import overlap
from flaxmobile.training import loop as engine


def test_spans_that_touch_are_one():
    assert overlap.merged([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 6)]
    assert overlap.merged([(0, 1), (2, 3), (9, 10)], gap=1) == [(0, 3), (9, 10)]


def test_the_share_that_lies_within():
    assert overlap.share([(0, 4), (6, 8)], [(1, 2), (3, 7)]) == 3 / 6
    assert overlap.share([(0, 1)], [(1, 2)]) == 0


def test_what_is_named_on_the_trace_is_there(tmp_path):
    with overlap.traced(tmp_path):  # Patches the loop's own functions, and fails where one has another name.
        assert engine.shard_batch.__qualname__ != 'shard_batch'
    assert engine.shard_batch.__qualname__ == 'shard_batch'
