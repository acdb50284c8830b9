"""What the generations share: stem, blocks, strides and dilation, the map at each stride, classifier."""

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from flaxmobile.layers import TENSORFLOW, ConvNorm, Dense, common_fields, get_convention
from flaxmobile.layers.fields import CheckedModule, ConventionOrName, FloatType, Multiplier
from flaxmobile.rules import Rate, among, at_least


class BlockSpec(NamedTuple):
    """One block of a network: its module, its stride, its further fields, and its stage as timm counts them from 0."""

    module: type[nn.Module]
    strides: int
    fields: dict[str, Any]
    stage: int


class Placed(NamedTuple):
    """Where a block stands: its own stride and dilation, and the network's stride after it."""

    strides: int
    dilation: int
    stride_after: int


def place(strides: Sequence[int], stem_stride: int, output_stride: int, dilate_strided: bool) -> list[Placed]:
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
        placed.append(Placed(own if fits else 1, after if dilate_strided else dilation, stride))
        dilation = after
    return placed


def scale_repeats(repeats: Sequence[int], depth_multiplier: float) -> list[int]:
    """Repeats of a stage's rows, in proportion, summing to `ceil(sum * depth_multiplier)`; the last rows first."""
    left, scaled_left = sum(repeats), math.ceil(sum(repeats) * depth_multiplier)
    scaled = []
    for count in reversed(repeats):
        share = max(1, round(count / left * scaled_left))
        scaled.append(share)
        left, scaled_left = left - count, scaled_left - share
    return scaled[::-1]


class MobileNet(CheckedModule):
    """The base of every generation.

    `apply(variables, images)` takes float images `[batch, height, width, channels]` and returns logits
    `[batch, num_classes]`; with `num_classes=0` what the classifier would have been given, `[batch, channels]`.
    `apply(variables, images, method='features')` returns a tuple of maps, the last at each stride, from fine to coarse;
    `feature_strides` and `feature_channels` say what they are.
    Training passes `train=True, mutable=['batch_stats'], rngs={'dropout': key}`.

    Attributes:
        num_classes: logits; 0 for none.
        width_multiplier: scales the channels, rounded to multiples of 8 (timm's rules).
        stem_stride: of the first convolution; 1 keeps small images large.
        output_stride: 8, 16 or 32; past it, strides become dilation, by the convention's rule. With `stem_stride=1`
            everything is half as coarse, and it takes an `output_stride` of 8 to change anything.
        dropout_rate: before the classifier.
        stochastic_depth_rate: of residual branches, growing linearly from 0 at the first of n blocks to
            `rate * (n - 1) / n` at the last (timm's rule).
        convention: padding, BatchNorm, initialisation and the rule of dilation: 'tensorflow', 'keras_v1', 'torch',
            'torchvision_v3' or a `Convention`.
        dtype: of the computation; None follows input and parameters.
        param_dtype: of the parameters.
        batch_norm_axis_name: mapped axis that BatchNorm's statistics are shared over (`pmap`, `shard_map`, `vmap`).

    Raises:
        ValueError: a field out of its range; images of another rank, type or number of channels.
    """

    num_classes: Annotated[int, at_least(0)] = 1000
    width_multiplier: Multiplier = 1.0
    stem_stride: Annotated[int, among(1, 2)] = 2
    output_stride: Annotated[int, among(8, 16, 32)] = 32
    dropout_rate: Rate = 0.2
    stochastic_depth_rate: Rate = 0.0
    convention: ConventionOrName = TENSORFLOW
    dtype: FloatType | None = None
    param_dtype: FloatType = jnp.float32
    batch_norm_axis_name: str | None = None

    def setup(self) -> None:
        """Stem, blocks, head and classifier."""
        self.stem = self.conv_norm(**{'kernel_size': 3, 'strides': self.stem_stride, **self.stem_fields()})
        specs = self.block_specs()
        if self.stochastic_depth_rate and not any(_drops(spec) for spec in specs):
            raise ValueError(f'{type(self).__name__} has no residual branches: stochastic_depth_rate has to be 0')
        self.block = {
            f'{index:02d}': self.build(spec, place, self.stochastic_depth_rate * index / len(specs))
            for index, (spec, place) in enumerate(zip(specs, self.places(), strict=True))
        }
        self.setup_head()
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.classifier = Dense(
                self.num_classes, convention=self.convention, dtype=self.dtype, param_dtype=self.param_dtype
            )

    def stem_fields(self) -> dict[str, Any]:
        """Features and activation of the stem, and its kernel where that is not 3x3."""
        raise NotImplementedError

    def block_specs(self) -> list[BlockSpec]:
        """The blocks at this width, as the paper's table orders them."""
        raise NotImplementedError

    def setup_head(self) -> None:
        """What lies between the deepest map and the classifier, if anything."""

    def head(self, maps: Array, *, train: bool) -> Array:
        """From the deepest map to what the classifier is given, `[batch, channels]`."""
        raise NotImplementedError

    def conv_norm(self, **fields: Any) -> ConvNorm:
        """A `ConvNorm` with the network's convention and types."""
        return ConvNorm(**common_fields(self), **fields)

    def places(self) -> list[Placed]:
        """Stride and dilation of each block under `output_stride`."""
        strides = [spec.strides for spec in self.block_specs()]
        return place(strides, self.stem_stride, self.output_stride, get_convention(self.convention).dilate_strided)

    def build(self, spec: BlockSpec, placed: Placed, stochastic_depth_rate: float) -> nn.Module:
        """The block of `spec` at its place."""
        own = {
            'strides': placed.strides,
            'dilation': placed.dilation,
            'stochastic_depth_rate': stochastic_depth_rate,
        }
        taken = {name: value for name, value in own.items() if name in spec.module.__dataclass_fields__}
        return spec.module(**taken, **common_fields(self), **spec.fields)

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """Of each map that `features` returns, pixels of the image to one of the map, as `(2, 4, 8, 16, 32)`."""
        return tuple(self._last_channels())

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of each map that `features` returns."""
        return tuple(self._last_channels().values())

    def _last_channels(self) -> dict[int, int]:
        """Channels of the last map at each stride; a block that names none keeps those it is given."""
        channels = self.stem_fields()['features']
        found = {self.stem_stride: channels}
        for spec, placed in zip(self.block_specs(), self.places(), strict=True):
            channels = spec.fields.get('features', channels)
            found[placed.stride_after] = channels
        return found

    def features(self, images: Array, *, train: bool = False) -> tuple[Array, ...]:
        """The last map at each stride, `[batch, height / stride, width / stride, channels]`, from fine to coarse.

        The strides are `feature_strides`, the channels `feature_channels`.
        """
        self._check(images)
        values = self.stem(images, train=train)
        maps = {self.stem_stride: values}
        for block, placed in zip(self.block.values(), self.places(), strict=True):
            values = block(values, train=train)
            maps[placed.stride_after] = values
            if 0 in values.shape[1:3]:
                height, width = images.shape[1:3]
                raise ValueError(
                    f'{type(self).__name__}: images of {height}x{width} pixels are too small: '
                    f'nothing is left of them at stride {placed.stride_after}'
                )
        return tuple(maps.values())

    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Logits `[batch, num_classes]`, or with `num_classes=0` the classifier's input."""
        *_, deepest = self.features(images, train=train)
        values = self.dropout(self.head(deepest, train=train), deterministic=not train)
        return self.classifier(values) if self.num_classes else values

    def _check(self, images: Array) -> None:
        name = type(self).__name__
        if images.ndim != 4:
            raise ValueError(f'{name}: images are [batch, height, width, channels], was given shape {images.shape}')
        _, first, width, last = images.shape
        if (first == 3 and min(width, last) >= 8) or (first == 1 and width == last >= 8):
            raise ValueError(
                f'{name}: images are [batch, height, width, channels] (NHWC), and {images.shape} looks like channels '
                'first: images.transpose(0, 2, 3, 1)'
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f'{name}: images are floats, was given {images.dtype}; '
                'scale and normalise them first, as `flaxmobile.data.Preprocessing.normalize` does'
            )


class ConvolutionHead(MobileNet):
    """A network with a pointwise convolution between the deepest map and the pooling. Fields: see `MobileNet`."""

    def head_fields(self) -> dict[str, Any]:
        """Features and activation of the head's convolution."""
        raise NotImplementedError

    def setup_head(self) -> None:
        """The pointwise convolution."""
        self.head_conv = self.conv_norm(kind='pointwise', **self.head_fields())

    def head(self, maps: Array, *, train: bool) -> Array:
        """The pointwise convolution, then pooling."""
        return pool(self.head_conv(maps, train=train))


def _drops(spec: BlockSpec) -> bool:
    return 'stochastic_depth_rate' in spec.module.__dataclass_fields__


def pool(maps: Array) -> Array:
    """Global average pooling, `[batch, height, width, channels]` to `[batch, channels]`."""
    return jnp.mean(maps, axis=(1, 2))


def stages(rows: Sequence[Any], depth_multiplier: float) -> list[tuple[Any, int, int]]:
    """A block for each row, deepened stage by stage (rows of equal output): row, number in its row, stage."""
    blocks = []
    for stage, (_, group) in enumerate(itertools.groupby(rows, key=lambda row: row.features)):
        deepened = list(group)
        for row, count in zip(deepened, scale_repeats([1] * len(deepened), depth_multiplier), strict=True):
            blocks += [(row, repeat, stage) for repeat in range(count)]
    return blocks


def variable_shapes(model: nn.Module, channels: int = 3) -> dict[str, Any]:
    """Shapes and types of the variables of `model` for images of that many channels; nothing is computed."""
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    shapes: dict[str, Any] = jax.eval_shape(model.init, jax.random.key(0), images)
    return shapes
