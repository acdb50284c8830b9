"""The text files of a run: JSON objects that hold their own SHA-256, and the checks of the figures in them."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from flaxmobile.messages import listing, printable
from flaxmobile.rules import NotNegative, Share, at_least, checker
from flaxmobile.tasks.evaluation import FIGURES
from flaxmobile.tasks.probe import Probe

Record = dict[str, Any]

DIGEST = 'sha256'
PLACE = ('split', 'step', 'epoch', 'seconds')
NEEDED = {'train': ('loss', 'accuracy', 'learning_rate'), 'validation': FIGURES, 'probe': Probe._fields}
"""The fields that a record of each split must have besides `PLACE`."""
_CHECKS = {
    name: checker(annotation)
    for annotation, names in (
        (Share, ('accuracy', 'accuracy_top5', 'linear_accuracy', 'knn_accuracy')),
        (Annotated[int, at_least(0)], ('step', 'count', 'skipped_updates', 'train_images', 'test_images')),
        (NotNegative, ('epoch', 'seconds', 'learning_rate', 'gradient_norm', 'images_per_second', 'penalty')),
    )
    for name in names
}


def signed(content: Mapping[str, Any]) -> Record:
    """`content` with one more field at the end: `sha256`, the SHA-256 of its JSON with sorted keys.

    The values have to be plain: what JSON can hold.
    """
    return {**content, DIGEST: _digest(content)}


def parse(text: str) -> Record:
    """The JSON object in `text`, without its `sha256`. An object that has no `sha256` is accepted too.

    Raises:
        ValueError: the text is no JSON object, or its `sha256` does not match the rest.
    """
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError('its brackets lie too deep in one another') from None
    if not isinstance(content, dict):
        raise ValueError('it is no JSON object')
    if DIGEST in content:
        written = content.pop(DIGEST)
        if written != _digest(content):
            raise ValueError(f'it is not as it was written: its {DIGEST} is that of something else')
    return content


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_record(record: Mapping[str, Any]) -> None:
    """Check that a record of `metrics.jsonl` has the fields of its split, each with a value of its type and range.

    Raises:
        ValueError: a field is missing or wrong.
    """
    split = record.get('split')
    if not (split is None or (isinstance(split, str) and split in NEEDED)):
        raise ValueError(f'split is {printable(repr(split))}, not {", ".join(NEEDED)}')
    _check_names(record, (*PLACE, *NEEDED.get(str(split), ())))
    check_figures({name: value for name, value in record.items() if name != 'split'})


def check_figures(figures: Any, needed: Iterable[str] = ()) -> None:
    """Check that all figures, by name, are numbers in their range, and that those in `needed` are there.

    Raises:
        ValueError: a figure is missing or wrong.
    """
    if not isinstance(figures, Mapping):
        raise ValueError(f'{printable(repr(figures))} are no figures by name')
    _check_names(figures, needed)
    for name, value in figures.items():
        check = _CHECKS.get(name)
        if not _is_number(value) or (check and not check.holds(value)):
            raise ValueError(
                f'{printable(name)} is {printable(repr(value))}, not {check.words if check else "a number"}'
            )


def _check_names(values: Mapping[str, Any], needed: Iterable[str]) -> None:
    if missing := sorted(set(needed) - set(values)):
        raise ValueError(f'no {listing(missing)}')


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, float) or (whole and abs(value) < 2**63)
