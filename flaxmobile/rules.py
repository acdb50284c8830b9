"""Rules that stand beside the fields of dataclasses: the type and the range of a value, in the field's annotation.

    width_multiplier: Annotated[float, above(0)] = 1.0

`check_fields(self)` in `__post_init__` holds every field to its annotation.
"""

import collections.abc
import dataclasses
import math
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from numbers import Integral, Real
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import numpy as np

from flaxmobile.messages import printable, unknown


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value has to be beyond its type.

    Attributes:
        words: goes behind the type's own words, as in 'a whole number' + ', 1 or more'.
        holds: whether a value of the right type is allowed.
        infinite: whether a number may be infinite.
    """

    words: str
    holds: Callable[[Any], bool]
    infinite: bool = False


def at_least(least: float) -> Rule:
    """`least` or more."""
    return Rule(f', {least} or more', lambda value: bool(value >= least))


def above(bound: float, most: float = math.inf) -> Rule:
    """More than `bound`, at most `most`."""
    words = f' above {bound}' + ('' if most == math.inf else f', at most {most}')
    return Rule(words, lambda value: bool(bound < value <= most))


def between(least: float, most: float) -> Rule:
    """From `least` to `most`, both allowed."""
    return Rule(f' from {least:,} to {most:,}', lambda value: bool(least <= value <= most))


def below(bound: float) -> Rule:
    """From 0 to less than `bound`."""
    return Rule(f' from 0 to below {bound}', lambda value: bool(0 <= value < bound))


def among(*values: int) -> Rule:
    """One of those numbers."""
    *first, last = map(str, values)
    return Rule(f', {", ".join(first)} or {last}', lambda value: value in values)


class OneOf(NamedTuple):
    """A text that is one of those names."""

    names: Sequence[str]


Share = Annotated[float, between(0, 1)]
Rate = Annotated[float, below(1)]
Count = Annotated[int, at_least(1)]
Positive = Annotated[float, above(0)]
NotNegative = Annotated[float, at_least(0)]


class Check(NamedTuple):
    """What a value has to be, in words, and whether it is; `names` are those that a text may be."""

    words: str
    holds: Callable[[Any], bool]
    names: Sequence[str] = ()


def check_fields(owner: Any, title: str = '') -> None:
    """Hold the fields of a dataclass's instance to the rules beside them.

    Args:
        owner: the instance.
        title: what the message calls it; the name of its class where there is none.

    Raises:
        ValueError: a field's value is of another type or out of its range; the message names both and what is allowed.
    """
    title = title or type(owner).__name__
    for name, check in checks(type(owner)).items():
        value = getattr(owner, name)
        if check.holds(value):
            continue
        if check.names and isinstance(value, str):
            raise ValueError(f'{title}: {unknown(name, value, check.names)}')
        raise ValueError(f'{title}: {name} must be {check.words}, not {printable(repr(value))}')


def plain_values(owner: Any) -> None:
    """Make the fields of a dataclass what JSON can hold and a tuple field takes; `owner` may be frozen.

    NumPy's and JAX's scalars become Python's own numbers; where a field is a tuple, a list or a one-dimensional array
    becomes one.
    """
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if get_origin(field.type) is tuple and (isinstance(value, list | tuple) or _dimensions(value) == 1):
            object.__setattr__(owner, field.name, tuple(map(_plain, value)))
        elif _dimensions(value) == 0:
            object.__setattr__(owner, field.name, _plain(value))


def _dimensions(value: Any) -> int | None:
    """Of an array or a NumPy scalar; None for all else."""
    return getattr(value, 'ndim', None)


def _plain(value: Any) -> Any:
    return value.item() if _dimensions(value) == 0 else value


def checks(owner: type) -> dict[str, Check]:
    """What each field of a dataclass has to be, by its name.

    Flax's own fields are left out, and in classes of users those whose annotation says no rule.
    """
    if '_checks' not in vars(owner):
        setattr(owner, '_checks', dict(_checks_of(owner)))  # noqa: B010 - mypy knows of no such attribute.
    found: dict[str, Check] = vars(owner)['_checks']
    return found


def _checks_of(owner: Any) -> Iterator[tuple[str, Check]]:
    for field in dataclasses.fields(owner):
        if field.name not in ('parent', 'name') and field.init:
            with suppress(TypeError):
                yield field.name, checker(field.type)


def checker(annotation: Any) -> Check:
    """What a value of that annotation has to be.

    Raises:
        TypeError: there is no rule for such an annotation.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _ruled(arguments[0], [rule for rule in arguments[1:] if isinstance(rule, Rule | OneOf)])
    if origin in (Union, types.UnionType):
        return _any_of([checker(argument) for argument in arguments])
    if origin is Literal:
        return _name(arguments)
    if origin is tuple:
        return _sequence(arguments)
    if origin is collections.abc.Callable:
        return Check('a function', callable)
    if isinstance(annotation, type) and annotation is not Any:
        return _TYPES.get(annotation) or Check(f'a {annotation.__name__}', lambda value: isinstance(value, annotation))
    raise TypeError(f'there is no rule for {annotation}')


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


_TYPES: dict[Any, Check] = {
    bool: Check('True or False', lambda value: isinstance(value, bool | np.bool_)),
    int: Check('a whole number', lambda value: isinstance(value, Integral) and not isinstance(value, bool)),
    float: Check('a number', lambda value: _is_number(value) and math.isfinite(value)),
    str: Check('a text', lambda value: isinstance(value, str)),
    type(None): Check('None', lambda value: value is None),
}


def _ruled(annotation: Any, rules: Sequence[Rule | OneOf]) -> Check:
    if not rules:
        return checker(annotation)
    (rule,) = rules
    if isinstance(rule, OneOf):
        return _name(rule.names)
    if annotation is Any:
        return Check(rule.words.strip(), rule.holds)
    own = checker(annotation)
    holds = _is_number if rule.infinite else own.holds
    return Check(own.words + rule.words, lambda value: holds(value) and rule.holds(value))


def _name(names: Sequence[str]) -> Check:
    return Check(f'one of {", ".join(names)}', lambda value: isinstance(value, str) and value in names, tuple(names))


def _any_of(parts: Sequence[Check]) -> Check:
    words, names = ', or '.join(part.words for part in parts), [name for part in parts for name in part.names]
    return Check(words, lambda value: any(part.holds(value) for part in parts), tuple(names))


def _sequence(arguments: Sequence[Any]) -> Check:
    if arguments[1:] == (...,):
        each = checker(arguments[0])
        words = f'a tuple, each of it {each.words}'
        return Check(words, lambda value: isinstance(value, tuple) and all(map(each.holds, value)))
    parts = [checker(argument) for argument in arguments]

    def holds(value: Any) -> bool:
        return (
            isinstance(value, tuple)
            and len(value) == len(parts)
            and all(part.holds(item) for part, item in zip(parts, value, strict=True))
        )

    return Check(f'a tuple of {len(parts)}: {", ".join(part.words for part in parts)}', holds)
