"""Which part of a training script's checkpoint holds the weights, and which prefix its names share."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping
from typing import Any, NamedTuple

import numpy as np

from flaxmobile.messages import listing, printable

WRAPPERS = ('state_dict', 'model')
"""What scripts keep the weights under; one that has as many tensors as any other part goes before the others."""
AVERAGE = 'ema'
AVERAGES_COUNT = 'n_averaged'
"""The one tensor that torch's `AveragedModel` keeps beside its `module.`"""
MOST_PREFIXES = 8
"""That are taken off: one for each script around another."""


class NoWeightsError(ValueError):
    """There are no tensors by name."""


Part = tuple[str, ...]
"""Where a mapping lies in a checkpoint: `('model',)`, `('ema', 'module')`; `()` is the checkpoint itself."""


class Choice(NamedTuple):
    """The part of a checkpoint that holds the weights.

    Attributes:
        part: where they are.
        weights: the mapping of names to tensors, and what else is in it.
        others: what else holds tensors by name, and is in the note.
        note: which was taken, where a user may have meant another.
    """

    part: Part
    weights: Mapping[Any, Any]
    others: tuple[Part, ...]
    note: str


def choose(
    checkpoint: Mapping[Any, Any],
    is_tensor: Callable[[Any], bool],
    ema: bool = False,
    as_array: Callable[[Any], np.ndarray] = np.asarray,
) -> Choice:
    """The mapping with the most tensors by name: the checkpoint itself or one right inside it.

    Tensors that lie alone beside a state dict are passed over. A moving average has `ema` as a word of its name; it
    may be a mapping in that part (`{'ema': {'decay': ..., 'module': ...}}`).

    Args:
        checkpoint: of weights or of all that a script keeps.
        is_tensor: whether a value is one.
        ema: take the moving average of the weights, instead of the weights themselves.
        as_array: the numbers of a tensor.

    Raises:
        NoWeightsError: there are none.
        ValueError: it is not clear which are meant: several parts have about as many, or there is no moving average.
    """
    counts = _counts(checkpoint, is_tensor)
    averages = {part: count for part, count in counts.items() if part and is_average(part[0])}
    weights = {part: count for part, count in counts.items() if part not in averages}
    if not counts:
        raise NoWeightsError('holds no tensors by name: torch.save(model.state_dict(), ...) writes them')
    if ema and not averages:
        alone = (
            f': it is one state dict of {weights[()]:,} tensors'
            if [*weights] == [()]
            else f'; it holds {_listed(weights)}'
        )
        raise ValueError(f'holds no moving average{alone}')
    taken, left = (averages, weights) if ema or not weights else (weights, averages)
    part = _largest(taken)
    others = [other for other in taken if other != part]
    chosen = _at(checkpoint, part)
    for other in others:
        wrappers = {*part, *other} == {*WRAPPERS} and 2 * taken[other] >= taken[part]
        if wrappers and not _same(chosen, _at(checkpoint, other), is_tensor, as_array):
            raise _several({part: taken[part], other: taken[other]})
    return Choice(part, chosen, (*others, *left), _note(part, others, left, taken is averages))


def is_average(name: Any) -> bool:
    """Whether it names a moving average: `state_dict_ema`, `model_ema`, `ema`."""
    return isinstance(name, str) and AVERAGE in re.split('[^a-z0-9]', name.lower())


def _at(checkpoint: Mapping[Any, Any], part: Part) -> Mapping[Any, Any]:
    for name in part:
        checkpoint = checkpoint[name]
    return checkpoint


def _counts(checkpoint: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> dict[Part, int]:
    """How many named tensors the parts have, those that have any. A part that is there often is counted once."""
    known: dict[int, int] = {}

    def count(part: Mapping[Any, Any]) -> int:
        if id(part) not in known:
            known[id(part)] = sum(isinstance(name, str) and is_tensor(value) for name, value in part.items())
        return known[id(part)]

    found: dict[Part, int] = {}
    for name, part in _mappings(checkpoint):
        within: dict[Part, int] = {}
        if is_average(name):
            within = {(name, inner): count(value) for inner, value in _mappings(part)}
        found |= within if max(within.values(), default=0) > count(part) else {(name,): count(part)}
    own = count(checkpoint)
    alone = any(found.values()) and own == 1
    return {part: number for part, number in (found | {(): 0 if alone else own}).items() if number}


def _mappings(values: Mapping[Any, Any]) -> list[tuple[str, Mapping[Any, Any]]]:
    return [(name, part) for name, part in values.items() if isinstance(name, str) and isinstance(part, Mapping)]


def _largest(counts: Mapping[Part, int]) -> Part:
    most = max(counts.values())
    if known := [(name,) for name in WRAPPERS if counts.get((name,)) == most]:
        return known[0]
    near = {part: count for part, count in counts.items() if 2 * count >= most}
    if len(near) > 1:
        raise _several(near)
    return next(iter(near))


def _several(counts: Mapping[Part, int]) -> ValueError:
    return ValueError(f'holds several state dicts ({_listed(counts)}): save the one that is meant by itself')


def _same(
    one: Mapping[Any, Any],
    other: Mapping[Any, Any],
    is_tensor: Callable[[Any], bool],
    as_array: Callable[[Any], np.ndarray],
) -> bool:
    """Whether both hold the same tensors, bit by bit."""
    names = [[name for name, value in part.items() if is_tensor(value)] for part in (one, other)]
    return set(names[0]) == set(names[1]) and all(
        one[name] is other[name] or _same_bits(as_array(one[name]), as_array(other[name])) for name in names[0]
    )


def _same_bits(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _listed(counts: Mapping[Part, int]) -> str:
    return listing([f'{_title(part)} of {count:,} tensors' for part, count in counts.items()])


def _title(part: Part) -> str:
    return '.'.join(part) or 'the outermost names'


def _note(part: Part, others: Collection[Part], left: Collection[Part], average: bool) -> str:
    """Which was taken, of what else there is: `others` of its own kind, and `left`, averages of weights or weights."""
    taken = listing([_title(part)])
    if average:
        passed = [_title(each) for each in (*others, *left)]
        reason = '' if left else ', as there are no other weights'
        return f'took {taken}, the moving average' + reason + (f', not {listing(passed)}' if passed else '')
    passed = [listing([_title(each) for each in others])] if others else []
    if left:
        averages = listing([_title(each) for each in left])
        passed.append(f'the moving average {averages} (ema=True, or init_ema=True of a run)')
    return f'took {taken}, not {", nor ".join(passed)}' if passed else ''


def unwrapped(
    state_dict: Mapping[str, Any],
    modules: Container[str],
    ema: bool = False,
    as_array: Callable[[Any], np.ndarray] = np.asarray,
) -> tuple[Mapping[str, Any], str]:
    """The names and tensors of a state dict that a script holds in memory, and what was taken off it, in words.

    Args:
        state_dict: name to an array of torch, NumPy or JAX, alone or in a checkpoint.
        modules: the outermost modules of networks, which are no prefix.
        ema: of a checkpoint, take the moving average.
        as_array: NumPy's of such an array.

    Raises:
        ValueError: it is no mapping of names, or it is not clear which part is meant.
    """
    note = ''
    if isinstance(state_dict, Mapping) and (ema or any(isinstance(part, Mapping) for part in state_dict.values())):
        _, state_dict, _, note = choose(state_dict, _is_array, ema, as_array)
    if not isinstance(state_dict, Mapping):
        raise ValueError(f'a state dict is a mapping of names to arrays, was given {type(state_dict).__name__}')
    for name in state_dict:
        if not isinstance(name, str):
            raise ValueError(f'a state dict is a mapping of names to arrays, and its key {printable(name)} is no name')
    tensors, prefix = _without_prefix(state_dict, modules)
    taken_off = f"took the prefix '{printable(prefix)}' off all names" if prefix else ''
    return tensors, '; '.join(filter(None, [note, taken_off]))


def _is_array(value: Any) -> bool:
    """NumPy's numbers have a shape too."""
    return hasattr(value, 'shape') and hasattr(value, 'dtype') and not isinstance(value, np.generic)


def shared_prefix(names: Collection[str], modules: Container[str]) -> str:
    """In words, the prefix that over half of the names share and others do not, as beside a loss; '' without one."""
    heads = Counter(name.partition('.')[0] for name in names if '.' in name)
    head, count = heads.most_common(1)[0] if heads else ('', 0)
    if head in modules or not len(names) / 2 < count < len(names):
        return ''
    others = listing([name for name in names if not name.startswith(f'{head}.')], 3)
    return (
        f"{count:,} of {len(names):,} names begin with '{printable(head)}.', which is taken off where all do: "
        f'leave out {others}'
    )


def _without_prefix(tensors: Mapping[str, Any], modules: Container[str]) -> tuple[Mapping[str, Any], str]:
    """The tensors without a prefix that all their names share, and that prefix: `module.`, `model.`, `module.model.`.

    The count that torch's `AveragedModel` keeps beside its `module.` goes with it.
    """
    prefix = ''
    for _ in range(MOST_PREFIXES):
        names = [name for name in tensors if name != AVERAGES_COUNT]
        heads = {name.partition('.')[0] if '.' in name else None for name in names}
        head = heads.pop() if len(heads) == 1 else None
        if head is None or head in modules:
            break
        tensors = {name.removeprefix(f'{head}.'): tensors[name] for name in names}
        prefix += f'{head}.'
    return tensors, prefix
