"""timm's and torchvision's names for our variables, and their state dicts in and out."""

import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from flax import linen as nn

from flaxmobile.layers import (
    TORCHVISION_V3,
    ConvNorm,
    DepthwiseSeparable,
    FusedInvertedBottleneck,
    InvertedResidual,
    MultiQueryAttention,
    UniversalInvertedBottleneck,
    get_convention,
)
from flaxmobile.messages import listing, unknown
from flaxmobile.models.mobilenetv2 import MobileNetV2
from flaxmobile.models.mobilenetv3 import MobileNetV3
from flaxmobile.models.mobilenetv4 import MobileNetV4
from flaxmobile.models.mobilenetv5 import MobileNetV5
from flaxmobile.models.network import MobileNet
from flaxmobile.weights import names, origins
from flaxmobile.weights.formats import checkpoint
from flaxmobile.weights.names import Assignment, Layout, Place, Shapes

Value = TypeVar('Value')
Table = dict[str, str]
"""Our component to their module, in their order."""


class Names(NamedTuple):
    """How a library names the modules of one kind of network.

    Attributes:
        stem: what comes before the blocks.
        block: the prefix of a block, by its `stage` and `repeat` there, from 0, or its `number`, from 1.
        blocks: what is inside a block of that class; the first table that has all of the block's components counts.
        head: what comes after the blocks; `last` is the number after the last block's.
        matrices: components whose 1x1 kernel is a matrix there.
    """

    stem: Table
    block: str
    blocks: dict[type[nn.Module], tuple[Table, ...]]
    head: Table
    matrices: tuple[str, ...] = ()


TIMM_SQUEEZE_EXCITE = {'squeeze_excite/reduce': 'se.conv_reduce', 'squeeze_excite/expand': 'se.conv_expand'}
TIMM = Names(
    stem={'stem/conv': 'conv_stem', 'stem/norm': 'bn1'},
    block='blocks.{stage}.{repeat}',
    blocks={
        ConvNorm: ({'conv': 'conv', 'norm': 'bn1'},),
        DepthwiseSeparable: (
            {
                'depthwise/conv': 'conv_dw',
                'depthwise/norm': 'bn1',
                **TIMM_SQUEEZE_EXCITE,
                'pointwise/conv': 'conv_pw',
                'pointwise/norm': 'bn2',
            },
        ),
        InvertedResidual: (
            {
                'depthwise/conv': 'conv_dw',
                'depthwise/norm': 'bn1',
                **TIMM_SQUEEZE_EXCITE,
                'project/conv': 'conv_pw',
                'project/norm': 'bn2',
            },
            {
                'expand/conv': 'conv_pw',
                'expand/norm': 'bn1',
                'depthwise/conv': 'conv_dw',
                'depthwise/norm': 'bn2',
                **TIMM_SQUEEZE_EXCITE,
                'project/conv': 'conv_pwl',
                'project/norm': 'bn3',
            },
        ),
        FusedInvertedBottleneck: (
            {
                'expand/conv': 'conv_exp',
                'expand/norm': 'bn1',
                'project/conv': 'conv_pwl',
                'project/norm': 'bn2',
            },
        ),
        UniversalInvertedBottleneck: (
            {
                'depthwise_start/conv': 'dw_start.conv',
                'depthwise_start/norm': 'dw_start.bn',
                'expand/conv': 'pw_exp.conv',
                'expand/norm': 'pw_exp.bn',
                'depthwise/conv': 'dw_mid.conv',
                'depthwise/norm': 'dw_mid.bn',
                'project/conv': 'pw_proj.conv',
                'project/norm': 'pw_proj.bn',
                'layer_scale': 'layer_scale',
            },
        ),
        MultiQueryAttention: (
            {
                'norm': 'norm',
                'attention/query/project': 'attn.query.proj',
                'attention/key/depthwise/conv': 'attn.key.down_conv',
                'attention/key/depthwise/norm': 'attn.key.norm',
                'attention/key/project': 'attn.key.proj',
                'attention/value/depthwise/conv': 'attn.value.down_conv',
                'attention/value/depthwise/norm': 'attn.value.norm',
                'attention/value/project': 'attn.value.proj',
                'attention/output/project': 'attn.output.proj',
                'layer_scale': 'layer_scale',
            },
        ),
    },
    head={
        'head_conv': 'conv_head',
        'head_conv/conv': 'conv_head',
        'head_conv/norm': 'bn2',
        'classifier': 'classifier',
    },
)
TIMM_MOBILENETV4 = TIMM._replace(head={**TIMM.head, 'head_conv/norm': 'norm_head'})

TIMM_MOBILENETV5 = TIMM._replace(
    stem={'stem/conv': 'conv_stem.conv', 'stem/norm': 'conv_stem.bn'},
    head={
        'head_conv/expand/conv': 'msfa.ffn.pw_exp.conv',
        'head_conv/expand/norm': 'msfa.ffn.pw_exp.bn',
        'head_conv/project/conv': 'msfa.ffn.pw_proj.conv',
        'head_conv/project/norm': 'msfa.ffn.pw_proj.bn',
        'head_conv/norm': 'msfa.norm',
        'classifier': 'classifier',
    },
)

TORCHVISION_STEM = {'stem/conv': 'features.0.0', 'stem/norm': 'features.0.1'}
TORCHVISION_MOBILENETV2 = Names(
    stem=TORCHVISION_STEM,
    block='features.{number}.conv',
    blocks={
        InvertedResidual: (
            {
                'depthwise/conv': '0.0',
                'depthwise/norm': '0.1',
                'project/conv': '1',
                'project/norm': '2',
            },
            {
                'expand/conv': '0.0',
                'expand/norm': '0.1',
                'depthwise/conv': '1.0',
                'depthwise/norm': '1.1',
                'project/conv': '2',
                'project/norm': '3',
            },
        ),
    },
    head={'head_conv/conv': 'features.{last}.0', 'head_conv/norm': 'features.{last}.1', 'classifier': 'classifier.1'},
)
TORCHVISION_MOBILENETV3 = Names(
    stem=TORCHVISION_STEM,
    block='features.{number}',
    blocks={
        ConvNorm: ({'conv': '0', 'norm': '1'},),
        InvertedResidual: (
            {
                'depthwise/conv': 'block.0.0',
                'depthwise/norm': 'block.0.1',
                'project/conv': 'block.1.0',
                'project/norm': 'block.1.1',
            },
            {
                'depthwise/conv': 'block.0.0',
                'depthwise/norm': 'block.0.1',
                'squeeze_excite/reduce': 'block.1.fc1',
                'squeeze_excite/expand': 'block.1.fc2',
                'project/conv': 'block.2.0',
                'project/norm': 'block.2.1',
            },
            {
                'expand/conv': 'block.0.0',
                'expand/norm': 'block.0.1',
                'depthwise/conv': 'block.1.0',
                'depthwise/norm': 'block.1.1',
                'project/conv': 'block.2.0',
                'project/norm': 'block.2.1',
            },
            {
                'expand/conv': 'block.0.0',
                'expand/norm': 'block.0.1',
                'depthwise/conv': 'block.1.0',
                'depthwise/norm': 'block.1.1',
                'squeeze_excite/reduce': 'block.2.fc1',
                'squeeze_excite/expand': 'block.2.fc2',
                'project/conv': 'block.3.0',
                'project/norm': 'block.3.1',
            },
        ),
    },
    head={'head_conv': 'classifier.0', 'classifier': 'classifier.3'},
    matrices=('head_conv',),
)

LAYOUTS: dict[str, dict[type[nn.Module], Names]] = {
    'timm': {MobileNet: TIMM, MobileNetV4: TIMM_MOBILENETV4, MobileNetV5: TIMM_MOBILENETV5},
    'torchvision': {MobileNetV2: TORCHVISION_MOBILENETV2, MobileNetV3: TORCHVISION_MOBILENETV3},
}
CONVENTIONS: dict[str, Callable[[nn.Module], origins.Conventions]] = {
    'timm': origins.of_timm,
    'torchvision': origins.of_torchvision,
}
LEAVES = {
    'params/{}/kernel': 'weight',
    'params/{}/scale': 'weight',
    'params/{}/bias': 'bias',
    'batch_stats/{}/mean': 'running_mean',
    'batch_stats/{}/var': 'running_var',
    'params/{}/gamma': 'gamma',
}
OUTERMOST = frozenset(
    module.partition('.')[0]
    for kinds in LAYOUTS.values()
    for kind in kinds.values()
    for module in (*kind.stem.values(), kind.block, *kind.head.values())
)
"""What the names in a state dict begin with, so that it is no prefix though all share it, as without a classifier."""
COUNTER = 'num_batches_tracked'
AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


def from_torch(
    state_dict: Mapping[str, Any],
    model: MobileNet,
    *,
    excuse: Iterable[str] = (),
    initial: Mapping[str, Any] | None = None,
    ignore_convention: bool = False,
    ema: bool = False,
) -> dict[str, Any]:
    """The variables of `model` from a state dict of timm's or torchvision's twin, whose names tell which.

    Each tensor becomes a JAX array of its own type or the model's for that variable, whichever is wider; the stem takes
    as many channels as the state dict's. BatchNorm's `num_batches_tracked` is dropped.

    The library's network of that structure pads and normalises in its own way, and the model has to do the same: it has
    under timm's name, and for torchvision's V3 under `tv_...`. Of timm's `tf_mobilenetv3_...` the weights fit the
    network without the `tf_` as well, and nothing tells the two apart: there the model's own convention stands.

    Args:
        state_dict: name to torch tensor, NumPy or JAX array. A checkpoint that holds it is unwrapped: the mapping with
            the most tensors counts ('state_dict' or 'model' of several with as many). A prefix that all names share
            is taken off: `DataParallel`'s 'module.', `torch.compile`'s '_orig_mod.', Lightning's 'model.', several. A
            warning names what was taken off, and what else has tensors by name and was left.
        model: the network, with or without classifier.
        excuse: shell patterns of names, such as `['classifier.*']`. Excused tensors that the model has no place for
            are left out; where one is missing or does not fit, `initial` gives the value.
        initial: variables of the model, as `model.init` makes them.
        ignore_convention: take weights that were made for another padding or BatchNorm epsilon than the model's.
        ema: of a checkpoint, take the moving average of the weights ('state_dict_ema', 'model_ema').

    Raises:
        ValueError: tensors are missing, unexpected, misshapen or not floating point (a `TensorMismatchError`, whose
            `faults` are all of them); they were made for another convention; `initial` is needed and not given, or not
            the model's; a checkpoint's weights are not to be told from others in it.
    """
    tensors, note = unwrapped(state_dict, ema)
    if note:
        warnings.warn(note, stacklevel=2)
    options: dict[str, Any] = {'excuse': excuse, 'initial': initial, 'ignore_convention': ignore_convention}
    try:
        return names.read(without_counters(tensors), layouts(model), model, **options)
    except names.TensorMismatchError as error:
        if not (shared := checkpoint.shared_prefix(tensors, OUTERMOST)):
            raise
        raise names.TensorMismatchError(f'{shared}. Now {error}', error.faults) from None


def to_torch(
    variables: Mapping[str, Any], model: MobileNet, layout: Literal['timm', 'torchvision'] | None = None
) -> dict[str, np.ndarray]:
    """The variables as NumPy arrays under the names of the torch twin, in its order.

    `network.load_state_dict({name: torch.from_numpy(array) for name, array in ...})` takes them all. A warning says
    where that network pads or normalises otherwise than the model, and so answers something else.

    Args:
        variables: of the model.
        model: the network.
        layout: 'timm', or 'torchvision' for MobileNetV2 and V3; None is torchvision's for the convention
            `TORCHVISION_V3`, and timm's otherwise.

    Raises:
        ValueError: the library has no such network, or the variables are not the model's.
    """
    known = layouts(model)
    own = 'torchvision' if get_convention(model.convention) == TORCHVISION_V3 else 'timm'
    chosen = layout or own
    if chosen not in known:
        raise ValueError(unknown(f'torch layout of {type(model).__name__}', chosen, known))
    arrays: dict[str, np.ndarray] = {}
    for name, array in names.write(variables, known[chosen], model).items():
        arrays[name] = array
        module, _, leaf = name.rpartition('.')
        if leaf == 'running_var':
            arrays[f'{module}.{COUNTER}'] = np.array(0, np.int64)
    return arrays


def without_counters(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """All but BatchNorm's `num_batches_tracked`."""
    return {name: tensor for name, tensor in tensors.items() if name.rpartition('.')[2] != COUNTER}


def unwrapped(state_dict: Mapping[str, Any], ema: bool = False) -> tuple[Mapping[str, Any], str]:
    """What `bare` gives, or a checkpoint's moving average, and what was taken off, in words."""
    return checkpoint.unwrapped(state_dict, OUTERMOST, ema, names.as_array)


def bare(state_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The names and tensors of a state dict, out of a training script's wrapping.

    Raises:
        ValueError: it is no mapping of names, or holds several state dicts.
    """
    return unwrapped(state_dict)[0]


def layouts(model: MobileNet) -> dict[str, Layout]:
    """The libraries that have names for all of the model's blocks.

    Raises:
        ValueError: none has.
    """
    found: dict[str, Layout] = {}
    for library, kinds in LAYOUTS.items():
        kind = by_class(kinds, type(model))
        if kind and all(by_class(kind.blocks, type(block.module)) for block in model.plan.blocks):
            assign = functools.partial(assignment, model, library, kind)
            found[library] = Layout(assign, library, CONVENTIONS[library](model))
    if not found:
        raise ValueError(f"no torch names for {type(model).__name__}: it is not a MobileNet of flaxmobile's own blocks")
    return found


def assignment(model: MobileNet, library: str, kind: Names, shapes: Shapes) -> Assignment:
    """Their tensor names for all of the model's variables."""
    assigned: Assignment = {}
    for component, module in modules(model, kind, shapes):
        for path, leaf in LEAVES.items():
            if (own := path.format(component)) in shapes:
                assigned[f'{module}.{leaf}'] = place(own, shapes[own].shape, component in kind.matrices)
    nameless = shapes.keys() - {place.path for place in assigned.values()}
    if nameless:
        raise ValueError(f'{library} has no names for these of {type(model).__name__}: {listing(sorted(nameless))}')
    return assigned


def modules(model: MobileNet, kind: Names, shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Our components and their modules, in their order."""
    blocks = model.plan.blocks
    yield from kind.stem.items()
    for number, block in enumerate(blocks, 1):
        prefix = kind.block.format(stage=block.stage, repeat=block.repeat, number=number)
        for component, module in table(by_class(kind.blocks, type(block.module)) or (), block.name, shapes).items():
            yield f'{block.name}/{component}', f'{prefix}.{module}'
    for component, module in kind.head.items():
        yield component, module.format(last=len(blocks) + 1)


def table(tables: tuple[Table, ...], block: str, shapes: Shapes) -> Table:
    """The first table that has all of the block's components, or the last."""
    paths = [path.split('/')[1:] for path in shapes]
    components = {'/'.join(path[1:-1]) for path in paths if path[0] == block}
    return next((table for table in tables if components <= table.keys()), tables[-1])


def place(path: str, shape: tuple[int, ...], matrix: bool) -> Place:
    """Torch's order of axes: outputs, inputs, height and width; of a kernel that is a matrix there, the first two."""
    theirs = (shape[-1], *shape[-2:-1], *shape[:-2])
    if matrix:
        theirs = theirs[:2]
    return Place(path, shape, theirs, AXES[len(theirs)])


def by_class(tables: Mapping[type, Value], kind: type) -> Value | None:
    """What the table says of the class or the nearest of its bases."""
    return next((tables[base] for base in kind.__mro__ if base in tables), None)
