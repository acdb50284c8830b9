"""The base of every network: stem, blocks at their places, head and classifier, and the maps between them."""

import functools
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from flaxmobile.layers import TENSORFLOW, ConvNorm, Dense
from flaxmobile.layers.fields import CheckedModule, ConventionOrName, FloatType, Multiplier, Norm
from flaxmobile.messages import printable, unknown
from flaxmobile.models.places import PlacedBlock, Plan, Tap, adapted, make_plan, run_block
from flaxmobile.rules import Rate, among, at_least


class MobileNet(CheckedModule):
    """The base of every generation, and of networks of your own.

    `apply(variables, images)` takes float images `[batch, height, width, channels]` and returns logits
    `[batch, num_classes]`. Training passes `train=True, mutable=['batch_stats'], rngs={'dropout': key}`. By `method`:

    - `'embed'`: what the classifier is given, `[batch, channels]`, whatever `num_classes` is;
    - `'features'`: a tuple of maps, the last at each stride, from fine to coarse; `feature_strides` and
      `feature_channels` say what they are;
    - `'taps'`: the maps of the named blocks or of the expansions inside them; `tap_names` lists the names.

    A network of your own says what its layers are, and takes all else from here:

        class Tiny(MobileNet):
            def stem_layer(self):
                return ConvNorm(features=16, kernel_size=3)

            def stages(self):
                first = [InvertedResidual(features=16, expansion_ratio=1)]
                second = [InvertedResidual(features=24, strides=2), InvertedResidual(features=24)]
                return [first, second]

    A block is any module that is called with `(maps, train=...)`; its field `features` is the channels that it returns,
    and one without such a field returns as many as it is given; its field `strides` is its stride, and one without such
    a field has a stride of 1. The network sets the fields that belong to a place in it, on those layers that have them:
    `strides` of the stem; `strides`, `dilation` and `stochastic_depth_rate` of blocks; `convention`, `dtype`,
    `param_dtype` and `batch_norm_axis_name` of all, and their `norm`, the class's own: 'batch' unless it says another.
    `head_layer` and `head` say what lies between the maps and the classifier: pooling, unless they are overridden.

    Attributes:
        num_classes: logits; 0 for no classifier: then a call returns what `embed` does.
        width_multiplier: scales the channels, rounded to multiples of 8 (timm's rules).
        stem_stride: of the first convolution; 1 keeps small images large.
        output_stride: 8, 16 or 32; past it, strides become dilation, by the convention's rule. With `stem_stride=1`
            everything is half as coarse, and it takes an `output_stride` of 8 to change anything.
        dropout_rate: before the classifier.
        stochastic_depth_rate: of residual branches, growing linearly from 0 at the first of n blocks to
            `rate * (n - 1) / n` at the last (timm's rule).
        remat: compute each block again in the backward pass and keep only the map between two blocks: less memory in
            training for about a third more computation (`jax.checkpoint`). Outputs are the same.
        convention: padding, BatchNorm, initialisation and the rule of dilation: 'tensorflow', 'keras_v1', 'torch',
            'torchvision_v3' or a `Convention`.
        dtype: of the computation; None follows input and parameters.
        param_dtype: of the parameters.
        batch_norm_axis_name: mapped axis that BatchNorm's statistics are shared over (`pmap`, `shard_map`, `vmap`).

    Raises:
        ValueError: a field out of its range; images of another rank, type or number of channels; a block that has no
            dilation to set, where `output_stride` needs one.
    """

    num_classes: Annotated[int, at_least(0)] = 1000
    width_multiplier: Multiplier = 1.0
    stem_stride: Annotated[int, among(1, 2)] = 2
    output_stride: Annotated[int, among(8, 16, 32)] = 32
    dropout_rate: Rate = 0.2
    stochastic_depth_rate: Rate = 0.0
    remat: bool = False
    convention: ConventionOrName = TENSORFLOW
    dtype: FloatType | None = None
    param_dtype: FloatType = jnp.float32
    batch_norm_axis_name: str | None = None

    norm: ClassVar[Norm | None] = 'batch'

    def stem_layer(self) -> ConvNorm:
        """The first convolution."""
        raise NotImplementedError

    def stages(self) -> Sequence[Sequence[nn.Module]]:
        """The blocks, by stage, with the strides of the paper's table."""
        raise NotImplementedError

    def head_layer(self) -> nn.Module | None:
        """What `head` calls as `self.head_conv`, if anything."""
        return None

    def head(self, maps: tuple[Array, ...], *, train: bool) -> Array:
        """From the maps that `features` returns to what the classifier is given, `[batch, channels]`."""
        return pool(maps[-1])

    def flatten(self, values: Array) -> Array:
        """`[batch, 1, 1, channels]` as `[batch, channels]`: a method, so that what looks for it finds it."""
        return values[:, 0, 0, :]

    def setup(self) -> None:
        """Every layer, under its name in the parameters."""
        self._plan = make_plan(self)
        self.stem = self._plan.stem
        self.block = {block.name.removeprefix('block_'): block.module for block in self._plan.blocks}
        if self._plan.head is not None:
            self.head_conv = self._plan.head
        self.dropout = nn.Dropout(self.dropout_rate)
        if self.num_classes:
            self.classifier = adapted(Dense(self.num_classes), self)

    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Logits `[batch, num_classes]`, or with `num_classes=0` what `embed` returns."""
        values = self.embed(images, train=train)
        return self.classifier(values) if self.num_classes else values

    def embed(self, images: Array, *, train: bool = False) -> Array:
        """What the classifier is given, `[batch, channels]`, whatever `num_classes` is."""
        maps = self.features(images, train=train)
        return self.dropout(self.head(maps, train=train), deterministic=not train)

    def features(self, images: Array, *, train: bool = False) -> tuple[Array, ...]:
        """The last map at each stride, `[batch, height / stride, width / stride, channels]`, from fine to coarse.

        The strides are `feature_strides`, the channels `feature_channels`.
        """
        return self.taps(images, tuple(self.plan.last_at_each_stride().values()), train=train)

    def taps(self, images: Array, names: Sequence[str], *, train: bool = False) -> tuple[Array, ...]:
        """The maps of those names, `[batch, height', width', channels]` each, in that order.

        Blocks behind the last one that is named do not run.

        Args:
            images: float, `[batch, height, width, channels]`.
            names: of `tap_names`: the stem, blocks and the expansions inside blocks, by their paths in the parameters,
                as `('block_03', 'block_12/expand')`.
            train: whether BatchNorm takes the batch's statistics.

        Raises:
            ValueError: there is no such tap, with the nearest; a block returns other channels than it says.
        """
        self._check_images(images)
        self._tapped(names)
        wanted = set(names)
        values = self.stem(images, train=train)
        maps = {'stem': values}
        for placed, block in zip(self.plan.blocks, self.block.values(), strict=True):
            if wanted <= maps.keys():
                break
            values, inside = run_block(block, values, wanted & placed.inside.keys(), train=train, remat=self.remat)
            maps |= {placed.name: values, **inside}
            self._check_map(values, images, placed)
        return tuple(maps[name] for name in names)

    @property
    def plan(self) -> Plan:
        """Stem and blocks at their places, known without a trace."""
        plan: Plan = self._plan if self.scope is not None else self.bind({})._plan
        return plan

    @property
    def feature_strides(self) -> tuple[int, ...]:
        """The stride of each map that `features` returns, in pixels of the image: `(2, 4, 8, 16, 32)`."""
        return tuple(self.plan.last_at_each_stride())

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of each map that `features` returns."""
        plan = self.plan
        maps = plan.maps()
        return tuple(maps[name].channels for name in plan.last_at_each_stride().values())

    @property
    def tap_names(self) -> tuple[str, ...]:
        """The names that `taps` takes: 'stem', each block ('block_03') and its expansion ('block_03/expand')."""
        return tuple(self.plan.taps())

    def tap_strides(self, names: Sequence[str]) -> tuple[int, ...]:
        """The stride of each of those maps in pixels of the image, known without a trace."""
        return tuple(tap.stride for tap in self._tapped(names))

    def tap_channels(self, names: Sequence[str]) -> tuple[int, ...]:
        """Channels of each of those maps, known without a trace."""
        return tuple(tap.channels for tap in self._tapped(names))

    def _tapped(self, names: Sequence[str]) -> list[Tap]:
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ValueError(f'taps are a tuple of names, as {self.tap_names[-1:]}, was given {printable(repr(names))}')
        known = self.plan.taps()
        for name in names:
            if name not in known:
                raise ValueError(unknown(f'tap of {type(self).__name__}', name, known))
        return [known[name] for name in names]

    def _check_images(self, images: Array) -> None:
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

    def _check_map(self, values: Array, images: Array, placed: PlacedBlock) -> None:
        name, channels = type(self).__name__, values.shape[-1]
        if 0 in values.shape[1:3]:
            height, width = images.shape[1:3]
            raise ValueError(
                f'{name}: images of {height}x{width} pixels are too small: '
                f'nothing is left of them at stride {placed.place.stride_after}'
            )
        if channels != placed.channels and placed.channels:  # 0 where the stem does not say its features.
            raise ValueError(
                f'{name}: {placed.name} returns {channels} channels, and {placed.channels} by its field `features` or, '
                f'without one, by its input: give {type(placed.module).__name__} that field'
            )


class ConvolutionHead(MobileNet):
    """A network with a convolution between the deepest map and the pooling, as MobileNetV2. Fields: see `MobileNet`.

    `head_layer` says which: a `ConvNorm(features=1280, kind='pointwise')`.
    """

    def head(self, maps: tuple[Array, ...], *, train: bool) -> Array:
        """The convolution, then pooling: `[batch, channels]`."""
        return pool(self.head_conv(maps[-1], train=train))


def pool(maps: Array) -> Array:
    """Global average pooling, `[batch, height, width, channels]` to `[batch, channels]`."""
    return jnp.mean(maps, axis=(1, 2))


def variable_shapes(model: nn.Module, channels: int = 3) -> dict[str, Any]:
    """Shapes and types of the variables of `model` for images of that many channels; nothing is computed."""
    key = (model, channels, jnp.result_type(float))
    try:
        hash(key)
    except TypeError:  # A field of a user's module, such as a list, has no hash.
        return _traced_shapes.__wrapped__(*key)
    return jax.tree.map(lambda leaf: leaf, _traced_shapes(*key))  # A tree of the caller's own.


@functools.lru_cache(maxsize=64)
def _traced_shapes(model: nn.Module, channels: int, widest: Any) -> dict[str, Any]:  # JAX goes by `widest`, too.
    images = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    shapes: dict[str, Any] = jax.eval_shape(model.init, jax.random.key(0), images)
    return shapes
