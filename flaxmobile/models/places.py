"""Where blocks stand in a network: stage, stride, dilation and depth; and the maps that can be tapped there."""

import contextlib
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
from jax import Array

from flaxmobile.layers import ConvNorm, common_fields, get_convention

Layer = TypeVar('Layer', bound=nn.Module)


class Place(NamedTuple):
    """Where a block stands: its own stride and dilation, and the network's stride after it."""

    strides: int
    dilation: int
    stride_after: int


class Tap(NamedTuple):
    """A map inside a network: pixels of the image to one of the map, and channels."""

    stride: int
    channels: int


class PlacedBlock(NamedTuple):
    """A block of a network.

    Attributes:
        name: in the parameters, as 'block_03'.
        stage: from 0.
        repeat: its number in the stage, from 0.
        module: the block with the fields of its place and its network, bound to nothing.
        place: its stride and dilation.
        channels: of its output.
        inside: what can be tapped inside it, by name.
    """

    name: str
    stage: int
    repeat: int
    module: nn.Module
    place: Place
    channels: int
    inside: Mapping[str, Tap]


@dataclasses.dataclass(frozen=True)  # No NamedTuple: Flax would take the layers in it for the network's own.
class Plan:
    """The layers of a network at their places, bound to nothing.

    Attributes:
        stem: the first convolution.
        blocks: in the order in which they run.
        head: the layer between the deepest map and the classifier, if there is one.
    """

    stem: ConvNorm
    blocks: tuple[PlacedBlock, ...]
    head: nn.Module | None

    def maps(self) -> dict[str, Tap]:
        """What stem and blocks return, by name, in the order in which they run."""
        found = {'stem': Tap(self.stem.strides, self.stem.features or 0)}
        return found | {block.name: Tap(block.place.stride_after, block.channels) for block in self.blocks}

    def taps(self) -> dict[str, Tap]:
        """`maps` and what is inside the blocks."""
        return {**self.maps(), **{name: tap for block in self.blocks for name, tap in block.inside.items()}}

    def last_at_each_stride(self) -> dict[int, str]:
        """From fine to coarse, the stride and the name of the last map that has it."""
        return {tap.stride: name for name, tap in self.maps().items()}


def make_plan(network: Any) -> Plan:
    """Place the layers that a `MobileNet` lists.

    Raises:
        ValueError: it has a `stochastic_depth_rate` and no block with a residual branch; a block has no dilation to
            set, and `output_stride` needs one there.
    """
    stem = adapted(network.stem_layer(), network, strides=network.stem_stride)
    listed = [(stage, number, block) for stage, row in enumerate(network.stages()) for number, block in enumerate(row)]
    title, rate = type(network).__name__, network.stochastic_depth_rate
    if rate and not any(_has(block, 'stochastic_depth_rate') for *_, block in listed):
        raise ValueError(f'{title} has no residual branches: stochastic_depth_rate has to be 0')
    strides = [getattr(block, 'strides', 1) for *_, block in listed]
    rule = get_convention(network.convention).dilate_strided
    places = place_strides(strides, network.stem_stride, network.output_stride, rule)
    before, channels, blocks = network.stem_stride, stem.features or 0, []
    for index, ((stage, number, block), place) in enumerate(zip(listed, places, strict=True)):
        name = f'block_{index:02d}'
        module = _at(place, rate * index / len(listed), block, name, network)
        inside = _inside(module, name, before, channels)
        before, channels = place.stride_after, getattr(module, 'features', None) or channels
        blocks.append(PlacedBlock(name, stage, number, module, place, channels, inside))
    head = network.head_layer()
    return Plan(stem, tuple(blocks), None if head is None else adapted(head, network))


def _at(place: Place, stochastic_depth_rate: float, block: Any, name: str, network: Any) -> nn.Module:
    """The block with the fields of its place, as far as it has them; without a dilation it can only stand at 1."""
    if _has(block, 'strides'):
        block = block.clone(strides=place.strides)
    if _has(block, 'dilation'):
        block = block.clone(dilation=place.dilation * block.dilation)
    elif place.dilation != 1:
        raise ValueError(
            f'{type(network).__name__}: output_stride={network.output_stride} takes a dilation of {place.dilation} at '
            f'{name}, and {type(block).__name__} has no dilation to set'
        )
    if _has(block, 'stochastic_depth_rate'):
        block = block.clone(stochastic_depth_rate=stochastic_depth_rate)
    return adapted(block, network)


def place_strides(strides: Sequence[int], stem_stride: int, output_stride: int, dilate_strided: bool) -> list[Place]:
    """Turn the strides past `output_stride` into dilation of what follows.

    Args:
        strides: of each block as the paper's table has it.
        stem_stride: of the stem.
        output_stride: the deepest stride that the network may reach.
        dilate_strided: dilate the block that loses its stride too, or only those after it: see `Convention`.
    """
    placed, stride, dilation = [], stem_stride, 1
    for own in strides:
        fits = stride * own <= output_stride
        after = dilation if fits else dilation * own
        stride = stride * own if fits else stride
        placed.append(Place(own if fits else 1, after if dilate_strided else dilation, stride))
        dilation = after
    return placed


def adapted(layer: Layer, network: Any, **fields: Any) -> Layer:
    """The layer, bound to nothing, with those fields and such of `common_fields` of the network as it has.

    A layer whose norm is not the default keeps it.
    """
    given: Any = layer
    own = {name: value for name, value in common_fields(network).items() if _has(layer, name)}
    if 'norm' in own and given.norm != layer.__dataclass_fields__['norm'].default:
        del own['norm']
    return layer.clone(**own, **fields)


def _has(layer: nn.Module, field: str) -> bool:
    return field in layer.__dataclass_fields__


def _inside(block: Any, name: str, stride: int, channels: int) -> dict[str, Tap]:
    """What can be tapped inside a block whose input has that stride and those channels."""
    find = getattr(block, 'expansion', None)  # A block of a user's may have a number of that name.
    expansion = find(channels) if callable(find) else None
    return {f'{name}/expand': Tap(stride * expansion.strides, expansion.channels)} if expansion else {}


def run_block(
    block: Any, values: Array, inside: Collection[str], *, train: bool, remat: bool
) -> tuple[Array, dict[str, Array]]:
    """A block's output, and by name what those of its layers return that `inside` names.

    Args:
        block: bound to its network.
        values: its input.
        inside: names as `PlacedBlock.inside` has them.
        train: passed to the block.
        remat: compute all of it again in the backward pass.

    Raises:
        ValueError: a layer that `inside` names does not run.
    """
    above = len(block.path) - 1

    def run(block: Any, values: Array) -> tuple[Array, dict[str, Array]]:
        found: dict[str, Array] = {}

        def keep(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            output = call(*args, **kwargs)
            name = '/'.join(context.module.path[above:])
            if name in inside and context.method_name == '__call__':
                found[name] = output
            return output

        with nn.intercept_methods(keep) if inside else contextlib.nullcontext():
            output = block(values, train=train)
        if missing := sorted(set(inside) - found.keys()):
            raise ValueError(f'{type(block).__name__}: {missing[0]} is to be tapped, and no layer of that name runs')
        return output, found

    if remat:
        return nn.remat(run)(block, values)
    return run(block, values)


def repeat(block: Layer, times: int) -> list[Layer]:
    """The block and, behind it, itself without its stride, `times` in all."""
    return [block, *[block.clone(strides=1)] * (times - 1)]


def deepen(rows: Sequence[Any], depth_multiplier: float) -> list[tuple[Any, int]]:
    """The rows of a stage and their repeats, `ceil(rows * depth_multiplier)` in all, the last rows first."""
    left, scaled_left = len(rows), math.ceil(len(rows) * depth_multiplier)
    repeats: list[int] = []
    for _ in rows:
        share = max(1, round(1 / left * scaled_left))
        repeats.append(share)
        left, scaled_left = left - 1, scaled_left - share
    return list(zip(rows, reversed(repeats), strict=True))
