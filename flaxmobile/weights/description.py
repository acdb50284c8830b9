"""What a file of our own format says of itself, held to what its tensors can be before anything is built of it."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from flaxmobile.data import Preprocessing
from flaxmobile.layers import get_convention
from flaxmobile.messages import printable, unknown
from flaxmobile.models.mobilenetv1 import MobileNetV1
from flaxmobile.models.mobilenetv3 import MobileNetV3
from flaxmobile.models.mobilenetv4 import MobileNetV4
from flaxmobile.models.network import MobileNet
from flaxmobile.models.registry import create_model
from flaxmobile.weights import origins
from flaxmobile.weights.class_names import check_classes
from flaxmobile.weights.formats.safetensors_file import FORMAT
from flaxmobile.weights.model import Model

KEYS = ('flaxmobile', 'format', 'model', 'preprocessing', 'classes')
LONGEST = 600
UNNAMED_SINCE = 3
"""The first format that may say that the names of the classes are not known."""
# The deepest published network has 37.
MOST_BLOCKS = 1000


class Description(NamedTuple):
    """A registered network with what is overridden of it, its preprocessing and labels."""

    name: str
    overrides: dict[str, Any]
    model: MobileNet
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None


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
    _same_keys('entry', metadata, KEYS, optional=('flaxmobile', 'format'))
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
    labels = _labels(metadata, model.num_classes)
    return Description(name, overrides, model, preprocessing, labels)


def _labels(metadata: Mapping[str, Any], count: int) -> tuple[str, ...] | None:
    """The names of the classes, None where they are not known.

    Formats 1 and 2 could not say that: they wrote '0', '1', ... for names that were not known.
    """
    if metadata['classes'] is None and metadata.get('format', FORMAT) >= UNNAMED_SINCE:
        return None
    labels = check_classes(metadata['classes'], count)
    invented = metadata.get('format', FORMAT) < UNNAMED_SINCE and labels == tuple(map(str, range(count)))
    return None if invented or not count else labels


def outdated(said: Description, metadata: Mapping[str, Any]) -> str:
    """Why the network of a file of format 1 answers otherwise today than when it was written; '' where it does not.

    Since then `tf_mobilenetv1_...` pads as Keras's V1, and the V3 and V4 of all but torchvision dilate by timm's rule.
    """
    if metadata.get('format', FORMAT) != 1:
        return ''
    own = get_convention(said.model.convention)
    if isinstance(said.model, MobileNetV1) and own.padding == 'bottom_right' and 'convention' not in said.overrides:
        before = "convention='tensorflow'"
        changed = f"{said.name} pads as Keras's since, where height or width is no multiple of 32"
    else:
        former = dataclasses.replace(own, dilate_strided=True)
        if not isinstance(said.model, MobileNetV3 | MobileNetV4):
            return ''
        now, then = (
            [block.place for block in model.plan.blocks] for model in (said.model, said.model.clone(convention=former))
        )
        if now == then:
            return ''
        before = f'convention={former}'
        changed = f"{said.name} with output_stride={said.model.output_stride} dilates by timm's rule since"
    return (
        f'was written by an earlier flaxmobile, and {changed}: it answers otherwise there than it did. To go on with '
        f'what it was, give load_variables(path, model, ignore_convention=True) a model of {before}; save it again, '
        'and this is not said any more'
    )


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


def channels_of(variables: Mapping[str, Any]) -> int:
    """Of the images that the network of those variables takes."""
    return int(variables['params']['stem']['conv']['kernel'].shape[2])


def other_channels(variables: Mapping[str, Any], preprocessing: Preprocessing) -> str:
    """Where the network of those variables takes images of other channels than the preprocessing's, that; or ''."""
    own, given = channels_of(variables), preprocessing.channels
    return '' if own == given else f'preprocessing.channels is {given}, and its network takes images of {own} channels'


def check_described(model: nn.Module, described: MobileNet, name: str) -> None:
    """See that the network of that name and those overrides answers as the model does whose variables are written."""
    own = getattr(model, 'convention', described.convention)
    if not origins.alike(own, described.convention):
        raise ValueError(
            f'the model has {origins.words(own)}, and {name} {origins.words(described.convention)}: a file that says '
            f"{name} would answer something else. Give overrides={{'convention': "
            f'{origins.spelled(get_convention(own))}}}, or the name of the network that it is'
        )


def check_ours(model: Model, described: MobileNet) -> None:
    """See that a file of our own format says the network and the images that the variables are for."""
    also = ('num_classes', 'stem_stride', 'output_stride')
    if differences := origins.differences(model.module, described, also):
        needed = {field: pair[0] for field, pair in differences.items()}
        raise ValueError(
            f'the model differs from {model.name} in {origins.differing(model.module, described, also)}: a file that '
            f'says {model.name} would answer something else. Give overrides={needed}, or the name of the network that '
            'it is'
        )
    if type(model.module) is not type(described):
        raise ValueError(
            f'the model is a {type(model.module).__name__}, and {model.name} a {type(described).__name__}, which may '
            'answer something else with the same variables: a file of ours says a registered network alone; .npz holds '
            'arrays of any'
        )
    if why := other_channels(model.variables, model.preprocessing):
        raise ValueError(f'{why}: give the preprocessing of its images')
