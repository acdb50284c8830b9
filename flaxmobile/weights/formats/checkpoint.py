"""Which part of a training script's checkpoint holds the weights, and which prefix its names share."""

import re
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import numpy as np

from flaxmobile.messages import listing, printable

WRAPPERS = ('state_dict', 'model')
"""What scripts keep the weights under; where both have as many tensors as any other part, the first goes before."""
AVERAGE = 'ema'
AVERAGES_COUNT = 'n_averaged'
"""The one tensor that torch's `AveragedModel` keeps beside its `module.`"""
MOST_PREFIXES = 8
"""That are taken off: one for each script around another."""


class NoWeightsError(ValueError):
    """There are no tensors by name."""


class Choice(NamedTuple):
    """The part of a checkpoint that holds the weights.

    Attributes:
        name: what the checkpoint has it under; None: it is the checkpoint itself.
        weights: the mapping of names to tensors, and what else is in it.
        others: where one of weights and moving average was taken, what holds the other, by the same names.
        note: which was taken, where a user may have meant the other.
    """

    name: str | None
    weights: Mapping[Any, Any]
    others: tuple[str | None, ...]
    note: str


def choose(checkpoint: Mapping[Any, Any], is_tensor: Callable[[Any], bool], ema: bool = False) -> Choice:
    """The mapping with the most tensors by name: the checkpoint itself or one right inside it.

    Tensors that lie alone beside a state dict are passed over. A moving average has `ema` as a word of its name.

    Args:
        checkpoint: of weights or of all that a script keeps.
        is_tensor: whether a value is one.
        ema: take the moving average of the weights, instead of the weights themselves.

    Raises:
        NoWeightsError: there are none.
        ValueError: it is not clear which are meant: several parts have about as many, or there is no moving average.
    """
    counts = _counts(checkpoint, is_tensor)
    averages = {name: count for name, count in counts.items() if is_average(name)}
    weights = {name: count for name, count in counts.items() if name not in averages}
    if not counts:
        raise NoWeightsError('holds no tensors by name: torch.save(model.state_dict(), ...) writes them')
    if ema and not averages:
        raise ValueError(f'holds no moving average; it holds {_listed(weights)}')
    taken, left = (averages, weights) if ema or not weights else (weights, averages)
    name = _largest(taken)
    chosen = checkpoint if name is None else checkpoint[name]
    return Choice(name, chosen, tuple(left), _note(name, left, taken is averages))


def is_average(name: Any) -> bool:
    """Whether it names a moving average: `state_dict_ema`, `model_ema`, `ema`."""
    return isinstance(name, str) and AVERAGE in re.split('[^a-z0-9]', name.lower())


def _counts(checkpoint: Mapping[Any, Any], is_tensor: Callable[[Any], bool]) -> dict[str | None, int]:
    """How many named tensors the parts have, those that have any. A part that is there often is counted once."""
    known: dict[int, int] = {}

    def count(part: Mapping[Any, Any]) -> int:
        if id(part) not in known:
            known[id(part)] = sum(isinstance(name, str) and is_tensor(value) for name, value in part.items())
        return known[id(part)]

    found: dict[str | None, int] = {
        name: count(part) for name, part in checkpoint.items() if isinstance(name, str) and isinstance(part, Mapping)
    }
    own = count(checkpoint)
    alone = any(found.values()) and own == 1
    return {name: number for name, number in (found | {None: 0 if alone else own}).items() if number}


def _largest(counts: Mapping[str | None, int]) -> str | None:
    most = max(counts.values())
    if known := [name for name in WRAPPERS if counts.get(name) == most]:
        return known[0]
    near = {name: count for name, count in counts.items() if 2 * count >= most}
    if len(near) > 1:
        raise ValueError(f'holds several state dicts ({_listed(near)}): save the one that is meant by itself')
    return next(iter(near))


def _listed(counts: Mapping[str | None, int]) -> str:
    return listing([f'{_title(name)} of {count:,} tensors' for name, count in counts.items()])


def _title(name: str | None) -> str:
    return 'the file itself' if name is None else name


def _note(name: str | None, left: Mapping[str | None, int], average: bool) -> str:
    others = listing([_title(other) for other in left])
    taken = listing([_title(name)])
    if average:
        return f'took {taken}, the moving average, ' + (f'not {others}' if left else 'as there are no other weights')
    return f'took {taken}, not the moving average {others} (--ema, ema=True)' if left else ''


def unwrapped(
    state_dict: Mapping[str, Any], modules: Container[str], ema: bool = False
) -> tuple[Mapping[str, Any], str]:
    """The names and tensors of a state dict that a script holds in memory, and what was taken off it, in words.

    Args:
        state_dict: name to an array of torch, NumPy or JAX, alone or in a checkpoint.
        modules: the outermost modules of networks, which are no prefix.
        ema: of a checkpoint, take the moving average.

    Raises:
        ValueError: it is no mapping of names, or it is not clear which part is meant.
    """
    note = ''
    if isinstance(state_dict, Mapping) and (ema or any(isinstance(part, Mapping) for part in state_dict.values())):
        _, state_dict, _, note = choose(state_dict, _is_array, ema)
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise ValueError(f'a state dict is a mapping of names to arrays, was given {type(state_dict).__name__}')
    tensors, prefix = _without_prefix(state_dict, modules)
    taken_off = f"took the prefix '{printable(prefix)}' off all names" if prefix else ''
    return tensors, '; '.join(filter(None, [note, taken_off]))


def _is_array(value: Any) -> bool:
    """NumPy's numbers have a shape too."""
    return hasattr(value, 'shape') and hasattr(value, 'dtype') and not isinstance(value, np.generic)


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
