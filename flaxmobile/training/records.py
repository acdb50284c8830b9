"""The text files of a run: JSON objects that hold their own SHA-256, and the checks of the figures in them."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from flaxmobile.messages import listing, printable
from flaxmobile.rules import Check, NotNegative, Share, at_least, checker
from flaxmobile.tasks.probe import MEASURED as PROBED
from flaxmobile.tasks.probe import Probe
from flaxmobile.tasks.task import LOSS, Task

Record = dict[str, Any]

DIGEST = 'sha256'
PLACE = ('split', 'step', 'epoch', 'seconds')
_ENGINE = {
    'step': 'count',
    'epoch': 'amount',
    'seconds': 'amount',
    'loss': 'number',
    'learning_rate': 'amount',
    'gradient_norm': 'amount',
    'skipped_updates': 'count',
    'images_per_second': 'amount',
}
"""The kinds of the figures that training itself measures, whatever is learnt."""
_RULES = {'share': Share, 'count': Annotated[int, at_least(0)], 'amount': NotNegative}


AnyTask = Task | type[Task]
"""A task or its class, which says as much of records."""


def needed(task: AnyTask) -> dict[str, tuple[str, ...]]:
    """What a record of each split has besides its place."""
    return {
        'train': (LOSS.name, *(measure.name for measure in task.logged), 'learning_rate'),
        'validation': tuple(measure.name for measure in task.measured),
        'probe': Probe._fields,
    }


def _checks(task: AnyTask) -> dict[str, Check]:
    kinds = _ENGINE | {measure.name: measure.kind for measure in (*task.logged, *task.measured, *PROBED)}
    return {name: checker(_RULES[kind]) for name, kind in kinds.items() if kind in _RULES}


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


def check_record(record: Mapping[str, Any], task: AnyTask) -> None:
    """Check that a record of `metrics.jsonl` has the fields of its split, each with a value of its type and range.

    Raises:
        ValueError: a field is missing or wrong.
    """
    split, fields = record.get('split'), needed(task)
    if not (split is None or (isinstance(split, str) and split in fields)):
        raise ValueError(f'split is {printable(repr(split))}, not {", ".join(fields)}')
    _check_names(record, (*PLACE, *fields.get(str(split), ())))
    check_figures({name: value for name, value in record.items() if name != 'split'}, task)


def check_figures(figures: Any, task: AnyTask, needed: Iterable[str] = ()) -> None:
    """Check that all figures, by name, are numbers in their range, and that those in `needed` are there.

    Raises:
        ValueError: a figure is missing or wrong.
    """
    if not isinstance(figures, Mapping):
        raise ValueError(f'{printable(repr(figures))} are no figures by name')
    _check_names(figures, needed)
    checks = _checks(task)
    for name, value in figures.items():
        check = checks.get(name)
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
