"""How the library that weights come from pads and normalises, and whether a network does the same."""

import dataclasses
import fnmatch
from collections.abc import Collection, Sequence
from typing import Any

from flax import linen as nn

from flaxmobile.layers import KERAS_V1, TENSORFLOW, TORCH, TORCHVISION_V3, Convention, get_convention
from flaxmobile.layers.convention import CONVENTIONS
from flaxmobile.models.mobilenetv1 import MobileNetV1
from flaxmobile.models.mobilenetv3 import MobileNetV3
from flaxmobile.models.registry import REGISTRY, create_model

Conventions = tuple[Convention, ...]
"""Those that weights may have been trained with, the usual one first; none where nothing is known."""

NOT_IN_TIMM = ('tf_mobilenetv1_*', 'tf_mobilenetv2_*', 'tv_*')
"""Patterns of the registered names that timm has no network of."""
FREE = (
    'num_classes',
    'stem_stride',
    'output_stride',
    'dropout_rate',
    'stochastic_depth_rate',
    'remat',
    'convention',
    'dtype',
    'param_dtype',
    'batch_norm_axis_name',
    'parent',
    'name',
)
"""Fields that may differ between a network and the registered one that it is."""
SHOWN = (
    'width_multiplier',
    'depth_multiplier',
    'fix_stem_and_head',
    'minimalistic',
    'head_features',
)
"""Fields that names and shapes of the tensors show, wherever they change what is computed."""


def structure(model: nn.Module) -> tuple[Any, ...]:
    """What makes the network the one it is: its class and its fields but for the `FREE` ones."""
    values = ((field.name, getattr(model, field.name)) for field in dataclasses.fields(model))  # type: ignore[arg-type]
    return type(model), *((name, value) for name, value in values if name not in FREE)


def differences(one: nn.Module, other: nn.Module, also: Collection[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Field to both values, where two networks compute otherwise with the same tensors.

    Args:
        one: a network.
        other: one of its class, or of a class that inherits from it or that it inherits from; any other has tensors
            of its own, and no differences here.
        also: those of the `FREE` fields that count.
    """
    if not (isinstance(one, type(other)) or isinstance(other, type(one))):
        return {}
    counted, its_own = (
        [field.name for field in dataclasses.fields(network)]  # type: ignore[arg-type]
        for network in (one, other)
    )
    left = {*FREE, *SHOWN} - set(also)
    pairs = {
        name: (getattr(one, name), getattr(other, name)) for name in counted if name in its_own and name not in left
    }
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def differing(one: nn.Module, other: nn.Module, also: Collection[str] = ()) -> str:
    """The `differences` in words: "anti_aliasing ('blur', None)"; '' where there are none."""
    return ', '.join(f'{name} {pair}' for name, pair in differences(one, other, also).items())


def registered(model: nn.Module) -> dict[str, Convention]:
    """The registered names of networks of that structure, each with its convention."""
    own = structure(model)
    found = ((name, create_model(name)) for name, entry in REGISTRY.items() if entry.module is own[0])
    return {name: get_convention(network.convention) for name, network in found if structure(network) == own}


def of_timm(model: nn.Module) -> Conventions:
    """The conventions of timm's networks of that structure: two where timm has it as TensorFlow's too.

    Of a structure that has no name, such as another width: the one that all of timm's networks of its class have.
    """
    networks = {name: convention for name, convention in registered(model).items() if in_timm(name)}
    return tuple(networks.values()) or _of_class(type(model)) or (TORCH,)


def _of_class(kind: type) -> Conventions:
    """The one convention that timm's networks of that class have, or of the nearest of its bases that has any."""
    known = [(entry.module, entry.fields['convention']) for name, entry in REGISTRY.items() if in_timm(name)]
    for base in kind.__mro__:
        found = {convention for module, convention in known if module is base}
        if found:
            return tuple(found) if len(found) == 1 else ()
    return ()


def in_timm(name: str) -> bool:
    """Whether the registered name is one of timm's, or one by timm's habit."""
    return not any(fnmatch.fnmatchcase(name, pattern) for pattern in NOT_IN_TIMM)


def of_torchvision(model: nn.Module) -> Conventions:
    """The convention of torchvision's networks of that class."""
    return (TORCHVISION_V3,) if isinstance(model, MobileNetV3) else (TORCH,)


def of_keras(model: nn.Module) -> Conventions:
    """The conventions of Keras's networks of that class; V1's differ at sizes that are no multiple of 32 alone."""
    return (KERAS_V1, TENSORFLOW) if isinstance(model, MobileNetV1) else (TENSORFLOW,)


def alike(one: Convention | str, other: Convention | str) -> bool:
    """Whether the two pad and normalise alike, so that the same weights answer the same."""
    one, other = get_convention(one), get_convention(other)
    return (one.padding, one.epsilon) == (other.padding, other.epsilon)


def contradiction(origin: str, known: Sequence[Convention], model: nn.Module) -> str:
    """Why weights of `origin` mean something else in `model`, and what to do; '' where they do not.

    Args:
        origin: whose weights they are.
        known: the conventions they may have been trained with; none where nothing is known.
        model: the network; one without a convention contradicts nothing.
    """
    if _agrees(known, model):
        return ''
    same = [name for name, its in registered(model).items() if any(alike(its, convention) for convention in known)]
    networks = f' (create_model({same[0]!r}))' if same else ''
    return (
        f'these are weights of {origin}, made for {words(known[0])}, and {type(model).__name__} here has '
        f'{words(getattr(model, "convention", ""))}, with which they answer something else: build it with '
        f'convention={spelled(known[0])}{networks}, or insist with ignore_convention=True'
    )


def odd_sizes(model: nn.Module) -> str:
    """Why Keras's network answers otherwise than `model` at some sizes of images; '' where it does not.

    Its V1 pads as TensorFlow's SAME does where height and width are multiples of 32, and only there.
    """
    own = getattr(model, 'convention', None)
    if own is None or not isinstance(model, MobileNetV1) or get_convention(own).padding != 'same':
        return ''
    return (
        "Keras's MobileNetV1 pads otherwise than this model where an image's height or width is no multiple of 32, and "
        "answers something else there: convention='keras_v1' pads as it does"
    )


def caution(origin: str, known: Sequence[Convention], model: nn.Module) -> str:
    """Why the network of `origin` answers something else with the weights of `model`; '' where it does not."""
    if _agrees(known, model):
        return ''
    own = get_convention(getattr(model, 'convention', ''))
    padding = ", pad_type='same'" if own.padding != 'symmetric' else ''
    same = f', unless it is built with bn_eps={own.epsilon:g}{padding}' if origin == 'timm' else ''
    if same and own.padding == 'bottom_right':
        same += ' and given images whose height and width are multiples of 32'
    return (
        f'{type(model).__name__} here has {words(own)}, and the network of {origin} with these names has '
        f'{words(known[0])}: with these numbers it answers something else{same}'
    )


def _agrees(known: Sequence[Convention], model: nn.Module) -> bool:
    own = getattr(model, 'convention', None)
    return own is None or not known or any(alike(own, convention) for convention in known)


def words(convention: Convention | str) -> str:
    """How it pads and normalises."""
    known = get_convention(convention)
    return f'{known.padding} padding and a BatchNorm epsilon of {known.epsilon:g}'


def spelled(convention: Convention) -> str:
    """The convention as an argument: its name, or that of one that is alike."""
    near = [name for name, known in CONVENTIONS.items() if alike(known, convention)]
    exact = [name for name in near if CONVENTIONS[name] == convention]
    return repr((exact or near)[0]) if near else repr(convention)
