"""Parts of a data set, written as TFDS writes them: `train`, `train[:90%]`, `test[100:200]`, `train+validation`."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from flaxmobile.messages import unknown

if TYPE_CHECKING:
    from flaxmobile.data.dataset import Dataset

_PART = re.compile(r'(?P<name>[\w.-]+)(?:\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?')


def split_ranges(split: str, lengths: Mapping[str, int]) -> list[tuple[str, range]]:
    """What `split` says, as ranges of whole splits.

    Args:
        split: parts joined by `+`, each a name and perhaps a slice in examples or per cent (rounded to the nearest).
        lengths: the number of examples of each whole split.

    Returns:
        (name, range) of each part.

    Raises:
        ValueError: the split is not known, ill written, out of bounds or empty.
    """
    parts = []
    for text in split.split('+'):
        match = _PART.fullmatch(text.strip())
        if not match:
            raise ValueError(f'split {text!r} cannot be read: write train, train[:90%], train[100:200] or train+test')
        name = match['name']
        if name not in lengths:
            raise ValueError(f'{unknown("split", name, lengths)}; {_shown(lengths)}')
        start, stop = (_boundary(match[end], lengths[name]) for end in ('start', 'stop'))
        parts.append((name, range(start or 0, lengths[name] if stop is None else stop)))
        if not 0 <= parts[-1][1].start <= parts[-1][1].stop <= lengths[name]:
            raise ValueError(f'split {text!r} goes beyond the {lengths[name]} examples of {name}')
    if not any(part for _, part in parts):
        raise ValueError(f'split {split!r} holds no example; {_shown(lengths)}')
    return parts


def _boundary(text: str | None, length: int) -> int | None:
    if text is None:
        return None
    number = round(int(text[:-1]) * length / 100) if text.endswith('%') else int(text)
    return number + length if text.startswith('-') else number


def _shown(lengths: Mapping[str, int]) -> str:
    return ', '.join(f'{name} has {length}' for name, length in lengths.items())


def overlap(one: 'Dataset', other: 'Dataset') -> int:
    """How many examples two parts of one data set share."""
    return sum(
        len(range(max(ours.start, theirs.start), min(ours.stop, theirs.stop)))
        for name, ours in one.parts
        for other_name, theirs in other.parts
        if name == other_name
    )
