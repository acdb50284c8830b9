"""Which registered network a set of tensors is of, by their names and shapes."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from flaxmobile.messages import listing
from flaxmobile.models.network import MobileNet
from flaxmobile.models.registry import REGISTRY, create_model
from flaxmobile.weights import keras_names, names, origins, torch_names
from flaxmobile.weights.formats import OUR_NAMES
from flaxmobile.weights.names import Layout, Place

Tensors = Mapping[str, Any]
"""Arrays or their shapes, by name."""

CLASSIFIER = 'params/classifier/'
BODY = ('stem', 'block_')
CLASSIFIER_BIAS = f'{CLASSIFIER}bias'
TRIED = 3
"""How many structures are compared name by name where none has all the features looked for."""


class Fit(NamedTuple):
    """How well tensors fit the registered networks of one structure.

    Attributes:
        networks: their names.
        layout: whose names fit best.
        wrong: tensors that are missing, unexpected or misshapen, the classifier's left out.
        right: tensors in their places.
        body: of the wrong, those of stem and blocks, as far as the network has a place for them.
    """

    networks: tuple[str, ...]
    layout: Layout
    wrong: int
    right: int
    body: int


class Recognized(NamedTuple):
    """The registered name of a network, and what told it: 'tensors', or 'arch' among networks that they fit alike."""

    name: str
    told: str


class AmbiguousError(ValueError):
    """Tensors that fit several networks alike."""


def origin(tensors: Tensors) -> str:
    """Whose names the tensors have: 'flaxmobile', 'keras' or 'torch'."""
    if any(name.startswith(OUR_NAMES) for name in tensors):
        return 'flaxmobile'
    return 'keras' if any('/' in name for name in tensors) else 'torch'


def recognize(tensors: Tensors, said: str = '') -> Recognized:
    """The registered network that the tensors are of, whatever its number of classes.

    Args:
        tensors: by the names of any library.
        said: what a checkpoint calls its network; it counts only between networks that fit alike.

    Raises:
        AmbiguousError: they fit several that answer differently with them, and which. It is a ValueError.
        ValueError: they fit none, and which is nearest.
    """
    found = fits(tensors)
    fitting = [fit for fit in found if not fit.wrong]
    if not fitting:
        raise ValueError(f'the tensors, of {origin(tensors)}, fit no registered network{_near(found)}')
    possible = [name for fit in fitting for name in _possible(fit)]
    if len(possible) == 1:
        return Recognized(possible[0], 'tensors')
    if said not in possible:
        raise AmbiguousError(
            f'the tensors fit {listing(possible)} alike, which answer differently with them, and nothing in the file '
            'tells them apart'
        )
    return Recognized(said, 'arch')


def _near(found: Sequence[Fit]) -> str:
    """Which network is nearest, and what to do where it is one without its own head."""
    if not found:
        return ''
    nearest, name = found[0], _possible(found[0])[0]
    if nearest.body:
        return f'; the nearest is {name}, with {nearest.wrong:,} that do not'
    return (
        f'; stem and blocks are those of {name}, and what is behind them is not ({nearest.wrong:,} missing, unexpected '
        'or misshapen): load_variables(path, model, excuse=[...], initial=...) takes the rest into '
        f'create_model({name!r})'
    )


def _possible(fit: Fit) -> list[str]:
    """The networks of a fit that pad and normalise as the origin of its names does; all, where none does."""
    known = fit.layout.conventions
    same = [
        name
        for name in fit.networks
        if any(origins.alike(create_model(name).convention, convention) for convention in known)
    ]
    return same or list(fit.networks)


def hint(arrays: Tensors, model: nn.Module, said: str = '') -> str:
    """For a message on tensors that do not fit `model`: the registered network they are of.

    It is the one that the file says, where that is a registered name; or the one that they fit, or the nearest.
    """
    if said in REGISTRY:
        return '' if said in origins.registered(model) else f' (they are of {said}, as the file says)'
    found = fits(arrays)
    if not found or any(name in origins.registered(model) for name in found[0].networks):
        return ''
    possible = _possible(found[0])
    return f' (they fit {listing(possible)})' if not found[0].wrong else f' (nearest is {possible[0]})'


def fits(tensors: Tensors) -> list[Fit]:
    """The networks that more than half of the tensors fit, the best first; those that fit wholly are all among them."""
    tensors = torch_names.without_counters(tensors)
    sizes = Counter(tensor.shape[0] for tensor in tensors.values() if len(tensor.shape) == 1)
    wanted = {networks: _norms(networks[0]) for networks in _structures()}
    overlap = {networks: _share(norms, sizes) for networks, norms in wanted.items()}
    likely = sorted(overlap, key=lambda networks: (overlap[networks], wanted[networks].total()), reverse=True)
    whole = [networks for networks in likely if overlap[networks] == 1]
    found: list[Fit] = []
    # Smaller networks may have their features in a larger one's: once it fits, they do not.
    for _, group in itertools.groupby(whole or likely[:TRIED], key=lambda networks: wanted[networks].total()):
        found += [fit for networks in group for fit in _compare(tensors, networks)]
        if any(not fit.wrong for fit in found):
            break
    return sorted((fit for fit in found if fit.right > fit.wrong), key=lambda fit: fit.wrong)


@functools.cache
def _structures() -> tuple[tuple[str, ...], ...]:
    """The registered names, those together that differ in nothing but padding, BatchNorm and initialisation."""
    groups: dict[Any, list[str]] = {}
    for name in REGISTRY:
        groups.setdefault(origins.structure(create_model(name)), []).append(name)
    return tuple(map(tuple, groups.values()))


@functools.cache
def _norms(name: str) -> Counter[int]:
    """How many vectors of each length the norms behind stem and blocks have at least, known without tracing."""
    model = create_model(name)
    plan, vectors = model.plan, 4 if model.norm == 'batch' else 1
    layers = [plan.stem, *(block.module for block in plan.blocks)]
    features = Counter(layer.features for layer in layers if hasattr(layer, 'features'))
    return Counter({length: vectors * count for length, count in features.items()})


def _share(wanted: Counter[int], given: Counter[int]) -> float:
    return (wanted & given).total() / wanted.total()


def _compare(tensors: Tensors, networks: tuple[str, ...]) -> Iterator[Fit]:
    """The fit of the networks of one structure, by the names that fit best."""
    model = create_model(networks[0])
    try:
        layouts = layouts_of(tensors, model)
        title, assignment = names.nearest(tensors, layouts, shapes(networks[0]))
    except ValueError:  # The library has no such network.
        return
    wrong = right = body = 0
    for name in assignment.keys() | tensors.keys():
        place = assignment.get(name)
        if place is not None and place.path.startswith(CLASSIFIER):
            continue
        fits = place is not None and name in tensors and _fits(tuple(tensors[name].shape), place)
        wrong, right = wrong + (not fits), right + fits
        body += not fits and place is not None and place.path.split('/')[1].startswith(BODY)
    yield Fit(networks, layouts[title], wrong, right, body)


def _fits(shape: tuple[int, ...], place: Place) -> bool:
    """Whether a tensor of that shape belongs there; a stem may take any number of channels."""
    wanted = place.foreign_shape
    if place.path != names.STEM or len(shape) != len(wanted):
        return shape == wanted
    channels = place.axes[2]
    return all(given == own for axis, (given, own) in enumerate(zip(shape, wanted, strict=True)) if axis != channels)


@functools.cache
def shapes(name: str) -> names.Shapes:
    """Path to shape and type of each variable of the registered network, with its own number of classes."""
    return names.flat_shapes(create_model(name))


def same_tensors(name: str, model: MobileNet) -> bool:
    """Whether the registered network has the tensors of `model`, whatever its classes."""
    own, theirs = (
        {path: shape.shape for path, shape in flat.items() if not path.startswith(CLASSIFIER)}
        for flat in (names.flat_shapes(model), shapes(name))
    )
    return own == theirs


def layout_of(tensors: Tensors, name: str) -> str:
    """The title of the layout of that registered network that the tensors' names fit best."""
    return names.nearest(tensors, layouts_of(tensors, create_model(name)), shapes(name))[0]


def layouts_of(tensors: Tensors, model: MobileNet) -> dict[str, Layout]:
    """The layouts that tensors of these names may have in `model`.

    Raises:
        ValueError: their library has no such network.
    """
    match origin(tensors):
        case 'flaxmobile':
            return {'flaxmobile': names.SAME}
        case 'keras':
            return keras_names.layouts(model, tensors)
        case _:
            return torch_names.layouts(model)


def count_classes(tensors: Tensors, name: str) -> int:
    """As many as the classifier of that registered network has biases among the tensors, 0 without a classifier."""
    _, assignment = names.nearest(tensors, layouts_of(tensors, create_model(name)), shapes(name))
    found = [given for given, place in assignment.items() if place.path == CLASSIFIER_BIAS and given in tensors]
    return sum(int(np.prod(tensors[given].shape)) for given in found)
