"""What a file of our own format says of itself, held to what its tensors can be before anything is built of it."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from flaxmobile.data import Preprocessing
from flaxmobile.messages import printable, unknown
from flaxmobile.models.network import MobileNet
from flaxmobile.models.registry import create_model

KEYS = ('flaxmobile', 'model', 'preprocessing', 'classes')
LONGEST = 600
# The deepest published network has 37.
MOST_BLOCKS = 1000


class Description(NamedTuple):
    """A registered network with what is overridden of it, its preprocessing and classes."""

    name: str
    overrides: dict[str, Any]
    model: MobileNet
    preprocessing: Preprocessing
    classes: tuple[str, ...]


def understand(metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Description:
    """What a file with that metadata and those tensors says of itself.

    Raises:
        ValueError: a part is missing, unknown, of another type or out of its range, or more than the tensors can be.
    """
    try:
        return _understood(metadata, tensors)
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError, RecursionError) as error:
        if isinstance(error, ValueError):
            raise ValueError(printable(error, LONGEST)) from error
        raise ValueError(f'what it says of itself is not understood ({printable(repr(error))})') from error


def _understood(metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Description:
    _same_keys('entry', metadata, KEYS, optional=('flaxmobile',))
    overrides = dict(_object(metadata, 'model'))
    name = overrides.pop('name', None)
    if not isinstance(name, str):
        raise ValueError(f'model.name is {printable(repr(name))}, and has to be the name of a registered network')
    model = create_model(name, **overrides)
    _check_size(model, overrides, tensors)
    fields = [field.name for field in dataclasses.fields(Preprocessing)]
    said = _object(metadata, 'preprocessing')
    _same_keys('field of Preprocessing', said, fields)
    preprocessing = Preprocessing(**said)
    classes = check_classes(metadata['classes'], model.num_classes)
    return Description(name, overrides, model, preprocessing, classes)


def _object(metadata: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = metadata[key]
    if not isinstance(value, dict):
        raise ValueError(f'{key} is {printable(repr(value))}, and has to be an object of fields')
    return value


def _same_keys(kind: str, given: Mapping[str, Any], wanted: Iterable[str], optional: Iterable[str] = ()) -> None:
    wanted = tuple(wanted)
    for key in given:
        if key not in wanted:
            raise ValueError(unknown(kind, key, wanted))
    missing = [key for key in wanted if key not in given and key not in optional]
    if missing:
        raise ValueError(f'it does not say its {missing[0]} (no {kind} of that name)')


def check_classes(classes: Any, count: int) -> tuple[str, ...]:
    """The names of the classes of a model with `count` logits.

    Raises:
        ValueError: they are no list of texts, no two alike, one for each logit.
    """
    if not isinstance(classes, list | tuple):
        raise ValueError(f'classes is {printable(repr(classes))}, and has to be a list of names')
    for name in classes:
        if not isinstance(name, str):
            raise ValueError(f'classes holds {printable(repr(name))}, and has to hold names')
    if len(classes) != count:
        raise ValueError(f'names {len(classes)} classes for {printable(count, 20)} logits')
    seen = set[str]()
    for name in classes:
        if name in seen:
            raise ValueError(f"classes names '{printable(name)}' twice")
        seen.add(name)
    return tuple(classes)


def _check_size(model: MobileNet, overrides: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse a network that is far larger than the tensors, before it is traced: deep ones take for ever."""
    title, numbers = type(model).__name__, sum(array.size for array in tensors.values())
    for key, value in overrides.items():
        if isinstance(value, int | float) and not abs(value) <= max(numbers, 1):
            raise ValueError(f'{title}: {key} is {printable(value, 40)}, and the file holds {numbers:,} numbers')
    held = len({name.split('/')[1] for name in tensors if name.startswith('params/block_')})
    depth = getattr(model, 'depth_multiplier', 1.0)
    if held > MOST_BLOCKS or depth > max(held, 1):
        raise ValueError(f'{title}: depth_multiplier is {printable(depth, 40)}, and the file holds {held:,} blocks')
