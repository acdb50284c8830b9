"""Explicit maps between another library's names and ours: checked by name, exactly invertible."""

import fnmatch
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from flaxmobile.messages import LISTED, listing
from flaxmobile.models.network import variable_shapes
from flaxmobile.weights import origins

STEM = 'params/stem/conv/kernel'
FLOATS = ('bfloat16', 'float16', 'float32', 'float64')

Shapes = Mapping[str, jax.ShapeDtypeStruct]


class Place(NamedTuple):
    """Where a foreign tensor belongs: `ours = theirs.transpose(axes).reshape(shape)`.

    Attributes:
        path: of our variable, `params/stem/conv/kernel`.
        shape: of our variable.
        foreign_shape: of the foreign tensor.
        axes: the order of the foreign tensor's axes in ours.
    """

    path: str
    shape: tuple[int, ...]
    foreign_shape: tuple[int, ...]
    axes: tuple[int, ...]

    def ours(self, array: np.ndarray) -> np.ndarray:
        """The foreign tensor as our variable."""
        return array.transpose(self.axes).reshape(self.shape)

    def theirs(self, array: np.ndarray) -> np.ndarray:
        """Our variable as the foreign tensor."""
        transposed = [self.foreign_shape[axis] for axis in self.axes]
        return array.reshape(transposed).transpose(np.argsort(self.axes))


Assignment = dict[str, Place]
"""Foreign tensor name to its place."""


class Layout(NamedTuple):
    """How a library names the variables of a network.

    Attributes:
        assign: its names for variables of those paths and shapes.
        origin: whose weights have such names.
        conventions: how that origin's network may pad and normalise, the usual first; none where it is not known.
    """

    assign: Callable[[Shapes], Assignment]
    origin: str = ''
    conventions: origins.Conventions = ()


class Fault(NamedTuple):
    """Why a tensor of that name does not fit, a kind of fault and the particulars."""

    kind: str
    name: str
    words: str


class TensorMismatchError(ValueError):
    """Tensors that do not fit a network. The message names some of each kind of fault, `faults` has them all."""

    def __init__(self, message: str, faults: Sequence[Fault]) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


def read(
    tensors: Mapping[str, Any],
    layouts: Mapping[str, Layout],
    model: nn.Module,
    *,
    excuse: Iterable[str] = (),
    initial: Mapping[str, Any] | None = None,
    ignore_convention: bool = False,
) -> dict[str, Any]:
    """The variables of `model` with the values of foreign tensors, by the layout whose names fit best.

    Each becomes a JAX array of its own type or the model's for that variable, whichever is wider. The stem takes as
    many channels as `initial` has, or without it as the foreign stem.

    Args:
        tensors: name to NumPy array, JAX array or torch tensor.
        layouts: name of each layout that may fit, for the message, and what it makes of the model's shapes.
        model: the network.
        excuse: shell patterns of foreign names. Excused tensors that the model has no place for are left out; where
            the model has a place and an excused tensor is missing or does not fit, `initial` gives the value.
        initial: variables of the model.
        ignore_convention: take tensors that were made for another padding or BatchNorm than the model's.

    Raises:
        TensorMismatchError: tensors are missing, unexpected, misshapen or not floating point. It is a ValueError.
        ValueError: they were made for another convention; `initial` is needed and not given, or not the model's.
    """
    arrays = {name: as_array(value) for name, value in tensors.items()}
    shapes = flat_shapes(model)
    given = None if initial is None else checked(initial, model, shapes)
    title, assignment = nearest(arrays, layouts, shapes)
    stem = given[STEM].shape if given else stem_shape(arrays, assignment)
    shapes = with_channels(shapes, stem)
    assignment = layouts[title].assign(shapes)
    found = faults(arrays, assignment)
    patterns = (excuse,) if isinstance(excuse, str) else tuple(excuse)
    unexcused = [fault for fault in found if not matches(fault.name, patterns)]
    if unexcused:
        from flaxmobile.weights.recognition import hint

        raise TensorMismatchError(
            message(unexcused, model, title, layouts, hint(arrays, model, layouts[title].origin)), unexcused
        )
    tell_of_values(arrays)
    if not ignore_convention and (why := origins.contradiction(*layouts[title][1:], model)):
        raise ValueError(why)
    unfit = assignment.keys() & {fault.name for fault in found}
    if unfit and given is None:
        raise ValueError(
            f'excused, and {type(model).__name__} has a place for them: {listing(sorted(unfit))}. '
            'Give the variables to take there: initial=model.init(...)'
        )
    flat = {
        place.path: given[place.path] if given and name in unfit else cast(place.ours(arrays[name]), shapes[place.path])
        for name, place in assignment.items()
    }
    return unflatten_dict(flat, sep='/')


def tell_of_values(arrays: Mapping[str, np.ndarray]) -> None:
    """Warn of arrays that hold NaN or infinity: a network answers nothing of sense with them."""
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        warnings.warn(f'{len(broken)} tensors hold values that are not finite: {listing(broken)}', stacklevel=2)


def write(variables: Mapping[str, Any], layout: Layout, model: nn.Module) -> dict[str, np.ndarray]:
    """The variables of `model` as arrays under the names of `layout`, in its order.

    Warns where that library's network pads or normalises otherwise, and so answers something else with them.

    Raises:
        TensorMismatchError: the variables are not the model's: missing, unexpected or misshapen. It is a ValueError.
    """
    shapes = flat_shapes(model)
    flat = checked(variables, model, shapes)
    assignment = layout.assign(with_channels(shapes, flat[STEM].shape))
    if why := origins.caution(*layout[1:], model):
        warnings.warn(why, stacklevel=3)
    return {name: np.array(place.theirs(np.asarray(flat[place.path])), order='C') for name, place in assignment.items()}


def flat_shapes(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Path to shape and type of each variable of `model`, for images of three channels."""
    flat: dict[str, jax.ShapeDtypeStruct] = flatten_dict(variable_shapes(model), sep='/')
    return flat


def with_channels(shapes: Shapes, stem: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Those shapes for images of as many channels as a stem kernel of that shape takes."""
    own = shapes[STEM]
    channels = stem[2] if len(stem) == 4 else 0
    shape = (*own.shape[:2], channels or own.shape[2], own.shape[3])
    return {**shapes, STEM: jax.ShapeDtypeStruct(shape, own.dtype)}


def stem_shape(arrays: Mapping[str, np.ndarray], assignment: Assignment) -> tuple[int, ...]:
    """Shape of our stem kernel from the foreign stem's, `()` where there is none."""
    for name, place in assignment.items():
        if place.path == STEM and name in arrays and arrays[name].ndim == len(place.axes):
            return arrays[name].transpose(place.axes).shape
    return ()


def as_array(value: Any) -> np.ndarray:
    """A NumPy array of a NumPy array, JAX array or torch tensor."""
    if hasattr(value, 'detach'):
        value = value.detach().cpu()
        if str(value.dtype) == 'torch.bfloat16':
            return np.asarray(value.float()).astype(jnp.bfloat16)
    return np.asarray(value)


def cast(array: np.ndarray, own: jax.ShapeDtypeStruct) -> jax.Array:
    """A JAX copy in the wider of its type and the variable's own."""
    return jnp.array(array, jax.dtypes.canonicalize_dtype(jnp.promote_types(array.dtype, own.dtype)))


def faults(arrays: Mapping[str, np.ndarray], assignment: Assignment) -> list[Fault]:
    """All that keeps the arrays from their places."""
    found = [Fault('missing', name, '') for name in assignment if name not in arrays]
    found += [Fault('unexpected', name, '') for name in arrays if name not in assignment]
    for name, place in assignment.items():
        if name in arrays and arrays[name].shape != place.foreign_shape:
            words = f' is {arrays[name].shape} instead of {place.foreign_shape}'
            found.append(Fault('misshapen', name, words))
        if name in arrays and arrays[name].dtype.name not in FLOATS:
            found.append(Fault('not floating point', name, f' is {arrays[name].dtype.name}'))
    return found


def nearest(arrays: Mapping[str, np.ndarray], layouts: Mapping[str, Layout], shapes: Shapes) -> tuple[str, Assignment]:
    """The layout with the most names in common with the arrays, and its assignment."""
    assignments = {title: layout.assign(shapes) for title, layout in layouts.items()}
    title = max(assignments, key=lambda title: len(assignments[title].keys() & arrays.keys()))
    return title, assignments[title]


def assign_same(shapes: Shapes) -> Assignment:
    """Our own names."""
    return {path: Place(path, own.shape, own.shape, tuple(range(len(own.shape)))) for path, own in shapes.items()}


SAME = Layout(assign_same)
"""The layout of our own names, which tell nothing of padding and BatchNorm."""


def checked(variables: Mapping[str, Any], model: nn.Module, shapes: Shapes) -> dict[str, Any]:
    """Path to value of each variable.

    Raises:
        ValueError: they are not those of the model.
    """
    flat: dict[str, Any] = flatten_dict(variables, sep='/')
    expected = with_channels(shapes, flat[STEM].shape if STEM in flat else ())
    found = faults(flat, assign_same(expected))
    if found:
        raise TensorMismatchError(message(found, model), found)
    return flat


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a shell pattern fits the name, by case."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def message(
    found: Sequence[Fault], model: nn.Module, title: str = '', tried: Iterable[str] = (), hint: str = ''
) -> str:
    """What does not fit, `LISTED` of each kind, and what to do: one line."""
    kinds: dict[str, list[str]] = {}
    for fault in found:
        kinds.setdefault(fault.kind, []).append(f'{fault.name}{fault.words}')
    said = '; '.join(f'{kind} ({len(names):,}): {listing(names)}' for kind, names in kinds.items())
    more = '; `faults` of this error has all' if max(map(len, kinds.values())) > LISTED else ''
    if not title:
        return f'these variables are not those of {type(model).__name__}: {said}{more}'
    return (
        f'the tensors do not fit {type(model).__name__}{hint}; by the names of {listing([title])} (tried: '
        f'{listing(tuple(tried))}): {said}{more}. from_torch, from_keras and load_variables may leave out or replace '
        "some: excuse=['classifier*'], initial=..."
    )
