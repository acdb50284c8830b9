"""Keras's names for our variables, and its weights in and out."""

import functools
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from flaxmobile.messages import listing
from flaxmobile.models.mobilenetv1 import MobileNetV1
from flaxmobile.models.mobilenetv2 import MobileNetV2
from flaxmobile.models.mobilenetv3 import MobileNetV3
from flaxmobile.models.network import MobileNet
from flaxmobile.weights import names, origins
from flaxmobile.weights.formats.keras_layers import CONVOLUTION, DENSE, DEPTHWISE, NORM, VARIABLES, KerasLayer
from flaxmobile.weights.names import Assignment, Layout, Place, Shapes

Table = dict[str, str]
"""Our component to their layer, in their order."""


class Names(NamedTuple):
    """How Keras names the layers of one kind of network.

    Attributes:
        stem: what comes before the blocks.
        first: the prefix of the first block.
        block: the prefix of the others, by their `index`.
        inside: what is inside a block, by its `index` from 0 or `number` from 1.
        head: what comes after the blocks, by the `last` of them.
        dense: whether the classifier is a dense layer, and not a 1x1 convolution.
    """

    stem: Table
    first: str
    block: str
    inside: Table
    head: Table
    dense: bool = False


class Layer(NamedTuple):
    """A Keras layer with variables.

    Attributes:
        name: its name.
        kind: its class, as Keras spells it in files.
        ordinal: its class and number among those, its name in files that keep no names.
        component: ours.
    """

    name: str
    kind: str
    ordinal: str
    component: str


MOBILENETV1 = Names(
    stem={'stem/conv': 'conv1', 'stem/norm': 'conv1_bn'},
    first='conv_',
    block='conv_',
    inside={
        'depthwise/conv': 'dw_{number}',
        'depthwise/norm': 'dw_{number}_bn',
        'pointwise/conv': 'pw_{number}',
        'pointwise/norm': 'pw_{number}_bn',
    },
    head={'classifier': 'conv_preds'},
)
MOBILENETV2 = Names(
    stem={'stem/conv': 'Conv1', 'stem/norm': 'bn_Conv1'},
    first='expanded_conv_',
    block='block_{index}_',
    inside={
        'expand/conv': 'expand',
        'expand/norm': 'expand_BN',
        'depthwise/conv': 'depthwise',
        'depthwise/norm': 'depthwise_BN',
        'project/conv': 'project',
        'project/norm': 'project_BN',
    },
    head={'head_conv/conv': 'Conv_1', 'head_conv/norm': 'Conv_1_bn', 'classifier': 'predictions'},
    dense=True,
)
PUBLISHED_MOBILENETV2 = MOBILENETV2._replace(
    first='',
    block='',
    inside={
        'expand/conv': 'mobl{index}_conv_{index}_expand',
        'expand/norm': 'bn{index}_conv_{index}_bn_expand',
        'depthwise/conv': 'mobl{index}_conv_{index}_depthwise',
        'depthwise/norm': 'bn{index}_conv_{index}_bn_depthwise',
        'project/conv': 'mobl{index}_conv_{index}_project',
        'project/norm': 'bn{index}_conv_{index}_bn_project',
    },
    head={**MOBILENETV2.head, 'classifier': 'Logits'},
)
MOBILENETV3 = Names(
    stem={'stem/conv': 'conv', 'stem/norm': 'conv_bn'},
    first='expanded_conv_',
    block='expanded_conv_{index}_',
    inside={
        'expand/conv': 'expand',
        'expand/norm': 'expand_bn',
        'depthwise/conv': 'depthwise',
        'depthwise/norm': 'depthwise_bn',
        'squeeze_excite/reduce': 'squeeze_excite_conv',
        'squeeze_excite/expand': 'squeeze_excite_conv_1',
        'project/conv': 'project',
        'project/norm': 'project_bn',
    },
    head={'{last}/conv': 'conv_1', '{last}/norm': 'conv_1_bn', 'head_conv': 'conv_2', 'classifier': 'logits'},
)
PUBLISHED_MOBILENETV3 = Names(
    stem={'stem/conv': 'Conv', 'stem/norm': 'Conv/BatchNorm'},
    first='expanded_conv/',
    block='expanded_conv_{index}/',
    inside={
        'expand/conv': 'expand',
        'expand/norm': 'expand/BatchNorm',
        'depthwise/conv': 'depthwise',
        'depthwise/norm': 'depthwise/BatchNorm',
        'squeeze_excite/reduce': 'squeeze_excite/Conv',
        'squeeze_excite/expand': 'squeeze_excite/Conv_1',
        'project/conv': 'project',
        'project/norm': 'project/BatchNorm',
    },
    head={'{last}/conv': 'Conv_1', '{last}/norm': 'Conv_1/BatchNorm', 'head_conv': 'Conv_2', 'classifier': 'Logits'},
)
DIALECTS: dict[type[nn.Module], dict[str, Names]] = {
    MobileNetV1: {'Keras': MOBILENETV1},
    MobileNetV2: {'Keras': MOBILENETV2, "Keras's published files": PUBLISHED_MOBILENETV2},
    MobileNetV3: {'Keras': MOBILENETV3, "Keras's published files": PUBLISHED_MOBILENETV3},
}

PATHS = {
    'kernel': 'params/{}/kernel',
    'bias': 'params/{}/bias',
    'gamma': 'params/{}/scale',
    'beta': 'params/{}/bias',
    'moving_mean': 'batch_stats/{}/mean',
    'moving_variance': 'batch_stats/{}/var',
}
OWN_HEAD = re.compile(r'dense(_\d+)?')


def from_keras(
    weights: Mapping[str, Any],
    model: MobileNet,
    *,
    excuse: Iterable[str] = (),
    initial: Mapping[str, Any] | None = None,
    ignore_convention: bool = False,
) -> dict[str, Any]:
    """The variables of `model` from Keras's weights of the same network.

    The names are layer and variable, `block_1_expand/kernel`: Keras 3's, those in the `.h5` files that it publishes, or
    class and number among the layers of that class (`conv2d_3/kernel`), which is all that older `.weights.h5` files
    hold. A single layer that Keras named itself, `dense` or `dense_1`, is the classifier where Keras's own is missing:
    a head that was put on the pooled features. A V3 without its top has no `conv_2` either: excuse `conv_2/*` then.

    Keras pads and normalises by the convention `TENSORFLOW`, its V1 by `KERAS_V1`, and the model has to do the same, as
    those of the names `tf_...` do. A V1 of the convention `TENSORFLOW` is warned of: it answers as Keras's where height
    and width are multiples of 32.

    Args:
        weights: name to array, such as `{weight.path: weight.numpy() for weight in network.weights}`.
        model: a MobileNetV1, V2 or V3, with or without classifier.
        excuse: shell patterns of names, such as `['predictions/*']`. Excused tensors that the model has no place for
            are left out; where one is missing or does not fit, `initial` gives the value.
        initial: variables of the model, as `model.init` makes them.
        ignore_convention: take weights for a model of another padding or BatchNorm epsilon than Keras's.

    Raises:
        ValueError: Keras has no such network; tensors are missing, unexpected, misshapen or not floating point (a
            `TensorMismatchError`, whose `faults` are all of them); the model's convention is another than Keras's;
            `initial` is needed and not given, or not the model's.
    """
    variables = names.read(
        weights,
        layouts(model, weights),
        model,
        excuse=excuse,
        initial=initial,
        ignore_convention=ignore_convention,
    )
    if not ignore_convention and (why := origins.odd_sizes(model)):
        warnings.warn(why, stacklevel=2)
    return variables


def to_keras(variables: Mapping[str, Any], model: MobileNet) -> dict[str, np.ndarray]:
    """The variables as NumPy arrays by Keras 3's names, `block_1_expand/kernel`, in the order of its files.

    A warning says where Keras pads or normalises otherwise than the model, and so answers something else with them.

    Args:
        variables: of the model.
        model: a MobileNetV1, V2 or V3, with or without classifier.

    Raises:
        ValueError: Keras has no such network, or the variables are not the model's.
    """
    arrays = names.write(variables, _layout(model, dialects(model)['Keras']), model)
    if why := origins.odd_sizes(model):
        warnings.warn(why, stacklevel=2)
    return arrays


def file_layers(model: MobileNet) -> list[KerasLayer]:
    """The layers of Keras's network as its files hold them, in their order.

    Raises:
        ValueError: Keras has no such network.
    """
    found = layers(model, dialects(model)['Keras'], names.flat_shapes(model))
    return [KerasLayer(layer.name, layer.kind, layer.ordinal) for layer in found]


def dialects(model: MobileNet) -> dict[str, Names]:
    """The ways Keras names the layers of such a network.

    Raises:
        ValueError: Keras has none.
    """
    for kind, known in DIALECTS.items():
        if isinstance(model, kind):
            return known
    known_kinds = ', '.join(kind.__name__ for kind in DIALECTS)
    raise ValueError(f'Keras has no {type(model).__name__}; it has {known_kinds}')


def layouts(model: MobileNet, given: Iterable[str]) -> dict[str, Layout]:
    """The layouts that weights of these names may have, by title."""
    known = dialects(model)
    assign = functools.partial(_layout, model)
    found = {title: assign(dialect) for title, dialect in known.items()}
    found['classes and numbers'] = assign(known['Keras'], by_ordinal=True)
    heads = {name.rpartition('/')[0] for name in given if OWN_HEAD.fullmatch(name.rpartition('/')[0])}
    if len(heads) == 1:
        head = heads.pop()
        found |= {f'{title} with the head {head}': assign(dialect, head=head) for title, dialect in known.items()}
        found[f'classes and numbers with the head {head}'] = assign(known['Keras'], by_ordinal=True, head=head)
    return found


def _layout(model: MobileNet, dialect: Names, **options: Any) -> Layout:
    """That of `assignment`, with what Keras's networks have for a convention."""
    return Layout(functools.partial(assignment, model, dialect, **options), 'Keras', origins.of_keras(model))


def assignment(
    model: MobileNet, dialect: Names, shapes: Shapes, *, by_ordinal: bool = False, head: str | None = None
) -> Assignment:
    """Their tensor names for all of the model's variables; `head` is a dense classifier of that name."""
    assigned: Assignment = {}
    for layer in layers(model, dialect, shapes):
        name, kind = layer.ordinal if by_ordinal else layer.name, layer.kind
        if head and layer.component == 'classifier':
            name, kind = head, DENSE
        for variable in VARIABLES[kind]:
            path = PATHS[variable].format(layer.component)
            if path in shapes:
                assigned[f'{name}/{variable}'] = place(path, shapes[path].shape, kind)
    nameless = shapes.keys() - {place.path for place in assigned.values()}
    if nameless:
        raise ValueError(f'Keras has no names for these of {type(model).__name__}: {listing(sorted(nameless))}')
    return assigned


def layers(model: MobileNet, dialect: Names, shapes: Shapes) -> list[Layer]:
    """Keras's layers of the network that have variables, in its order."""
    counts, found = Counter[str](), []
    present = {path.split('/', 1)[1].rpartition('/')[0] for path in shapes}
    for component, name in components(model, dialect).items():
        if component in present:
            kind = kind_of(component, dialect)
            ordinal = f'{kind}_{counts[kind]}' if counts[kind] else kind
            counts[kind] += 1
            found.append(Layer(name, kind, ordinal, component))
    return found


def components(model: MobileNet, dialect: Names) -> Table:
    """Our component to their layer for all that such a network may have, in their order."""
    table = dict(dialect.stem)
    blocks = model.plan.blocks
    for index, block in enumerate(blocks):
        for component, layer in dialect.inside.items():
            name = (dialect.block if index else dialect.first) + layer
            table[f'{block.name}/{component}'] = name.format(index=index, number=index + 1)
    return table | {component.format(last=blocks[-1].name): layer for component, layer in dialect.head.items()}


def kind_of(component: str, dialect: Names) -> str:
    """The class of their layer."""
    if component == 'classifier' and dialect.dense:
        return DENSE
    if component.endswith('/norm'):
        return NORM
    return DEPTHWISE if component.endswith('depthwise/conv') else CONVOLUTION


def place(path: str, shape: tuple[int, ...], kind: str) -> Place:
    """A depthwise kernel has its features before the multiplier there, a convolution's classifier is 1x1."""
    if kind == DEPTHWISE:
        height, width, multiplier, features = shape
        return Place(path, shape, (height, width, features, multiplier), (0, 1, 3, 2))
    theirs = (1, 1, *shape) if kind == CONVOLUTION and len(shape) == 2 else shape
    return Place(path, shape, theirs, tuple(range(len(theirs))))
