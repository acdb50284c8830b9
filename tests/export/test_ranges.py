"""The ranges of int8 tensors, against NumPy over all values at once and cases worked by hand."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from flaxmobile.export.ranges import Observer, affine, find_ranges

OBSERVERS = ('extremes', 'percentile', 'mse')


def images(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Values of a skewed and of a one-sided tensor, image by image."""
    rng = np.random.default_rng(seed)
    return [
        {
            'skewed': rng.gumbel(size=(1, 20, 30)).astype(np.float32),
            'relu': rng.exponential(size=600).astype(np.float32),
        }
        for _ in range(count)
    ]


def again(given: list[dict[str, np.ndarray]]) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
    return lambda: iter(given)


def all_values(given: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    return np.concatenate([tensors[name].ravel() for tensors in given]).astype(np.float64)


def squared_error(values: np.ndarray, low: float, high: float) -> float:
    """Of 256 numbers over a range that holds 0, worked out for itself."""
    step = (max(high, 0) - min(low, 0)) / 255
    zero = np.round(-128 - min(low, 0) / step)
    return float(np.sum((step * (np.clip(np.round(values / step) + zero, -128, 127) - zero) - values) ** 2))


def test_extremes_by_hand() -> None:
    given = [{'a': np.float32([[1, -2], [0, 5]])}, {'a': np.float32([[-3, 0.5], [4, 4]])}, {'a': np.float32([[0, 0]])}]
    assert find_ranges(again(given)) == {'a': (-3.0, 5.0)}
    assert find_ranges(again(given[1:])) == {'a': (-3.0, 4.0)}


def test_extremes_are_those_of_all_values() -> None:
    given = images(20)
    for name, found in find_ranges(again(given), 'extremes').items():
        assert found == (all_values(given, name).min(), all_values(given, name).max())


def test_more_images_never_narrow_the_extremes() -> None:
    given, last = images(60), (np.inf, -np.inf)
    for count in range(1, 61):
        low, high = find_ranges(again(given[:count]))['skewed']
        assert low <= last[0]
        assert high >= last[1]
        last = low, high
    assert find_ranges(again(given[::-1])) == find_ranges(again(given))


@pytest.mark.parametrize('name', ['skewed', 'relu'])
def test_a_percentile_leaves_out_as_many_values_as_it_may(name: str) -> None:
    """Half of 1e-4 at either end, and a step of 2048 further in would be more."""
    given = images(80)
    values = all_values(given, name)
    low, high = find_ranges(again(given), 'percentile')[name]
    allowed, step = 0.5e-4 * values.size, np.ptp(values) / 2048
    assert allowed > 2
    for beyond, further in ((values > high, values > high - step), (values < low, values < low + step)):
        assert beyond.sum() <= allowed < further.sum()
    assert high < values.max()


def test_the_least_squared_error_is_below_that_of_other_ranges() -> None:
    values = np.random.default_rng(0).normal(size=1_000_000)
    values[-1] = 16.0
    given = [{'outlier': values[::2].astype(np.float32)}, {'outlier': values[1::2].astype(np.float32)}]
    low, high = find_ranges(again(given), 'mse')['outlier']
    least = squared_error(values, low, high)
    assert least < 0.6 * squared_error(values, values.min(), values.max())
    tried = [
        squared_error(values, share * values.min(), other * values.max())
        for share in (0.5, 0.75, 1)
        for other in (0.2, 0.3, 0.4, 1)
    ]
    assert least < 1.02 * min(tried)


@pytest.mark.parametrize('observer', OBSERVERS)
def test_a_tensor_of_one_value_keeps_it(observer: Observer) -> None:
    assert find_ranges(again([{'a': np.full(9, 2.5, np.float32)}] * 2), observer) == {'a': (2.5, 2.5)}


@pytest.mark.parametrize(
    ('low', 'high', 'scale', 'zero_point'),
    [
        (-1.0, 3.0, 4 / 255, -64),  # -128 + 63.75
        (0.0, 6.0, 6 / 255, -128),
        (2.0, 5.1, 0.02, -128),  # 0 is always covered
        (-2.55, -1.0, 0.01, 127),
        (0.0, 0.0, 1e-9, -128),
    ],
)
def test_scale_and_zero_point_by_hand(low: float, high: float, scale: float, zero_point: int) -> None:
    assert affine(low, high) == (pytest.approx(scale), zero_point)


@pytest.mark.parametrize(
    ('given', 'observer', 'words'),
    [
        ([], 'extremes', 'there are no images to find ranges on'),
        ([{'a': np.float32([1, np.nan])}], 'extremes', 'a has values that are not finite, so it has no range'),
        ([{'a': np.float32([1, np.inf])}], 'mse', 'a has values that are not finite'),
        ([{'a': np.float32([1, 2])}], 'average', "unknown observer 'average'. There are: extremes, mse, percentile"),
    ],
)
def test_what_has_no_ranges_is_refused(given: list, observer: Observer, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find_ranges(again(given), observer)
