"""Convolution, dense layer and convolution + BatchNorm + activation."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array

from flaxmobile import ops
from flaxmobile.layers.convention import TENSORFLOW, Initializer, get_convention
from flaxmobile.layers.fields import (
    Activation,
    AntiAliasing,
    CheckedModule,
    ConventionOrName,
    FloatType,
    KernelSize,
    Kind,
    Norm,
)
from flaxmobile.layers.normalization import BatchNorm, RMSNorm
from flaxmobile.rules import Count


class Conv(CheckedModule):
    """A convolution of one of three kinds.

    Input `[batch, height, width, channels]`, output `[batch, height', width', features]`. The kernel is
    `[k, k, channels / groups, features]`, for 'depthwise' `[k, k, 1, features]` with `features` a multiple of the
    channels (the depth multiplier times them).

    Attributes:
        features: output channels; None keeps the input's.
        kernel_size: height and width; 'pointwise' is always 1.
        strides: in pixels.
        dilation: distance in pixels between the kernel's taps.
        kind: 'standard', 'depthwise' or 'pointwise'.
        groups: of a 'standard' convolution: each group of features sees its own group of channels only.
        use_bias: add a bias per feature.
        activation: of the outputs, by name, see `ops.activation`; 'linear' for none.
        kernel_init: initialiser of the kernel; None is the convention's.
        convention: padding and initialisation, an object or a name.
        dtype: of the computation; None follows input and parameters.
        param_dtype: of the parameters.

    Raises:
        ValueError: features below 1, or no multiple of a depthwise convolution's channels; groups that do not divide
            channels and features; an input that is not `[batch, height, width, channels]`, or whose channels are not
            those the parameters were made for.
    """

    features: Count | None = None
    kernel_size: KernelSize = 1
    strides: Count = 1
    dilation: Count = 1
    kind: Kind = 'standard'
    groups: Count = 1
    use_bias: bool = False
    activation: Activation = 'linear'
    kernel_init: Initializer | None = None
    convention: ConventionOrName = TENSORFLOW
    dtype: FloatType | None = None
    param_dtype: FloatType = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        """Convolve and activate."""
        convention, groups, shape = get_convention(self.convention), self._groups(images), self._shape(images)
        initializer = self.kernel_init or convention.conv_initializer(groups)
        kernel: Any = self.param('kernel', initializer, shape, self.param_dtype)
        bias = self.param('bias', nn.initializers.zeros, shape[-1:], self.param_dtype) if self.use_bias else None
        images, kernel, bias = promote_dtype(images, kernel, bias, dtype=self.dtype)
        if self.kind == 'pointwise':
            outputs = ops.pointwise_conv(images, kernel, strides=self.strides)
        else:
            convolve = ops.depthwise_conv if self.kind == 'depthwise' else partial(ops.conv, groups=groups)
            padding = convention.conv_padding(self.kind)
            outputs = convolve(images, kernel, strides=self.strides, padding=padding, dilation=self.dilation)
        return self.activate(outputs if bias is None else outputs + bias)

    def activate(self, outputs: Array) -> Array:
        """The activation: a method, so that what looks for it finds it."""
        return ops.activation(self.activation)(outputs)

    def _groups(self, images: Array) -> int:
        return images.shape[-1] if self.kind == 'depthwise' else self.groups

    def _shape(self, images: Array) -> tuple[int, int, int, int]:
        where = '/'.join(self.path) or type(self).__name__
        if images.ndim != 4:
            raise ValueError(f'{where}: expected [batch, height, width, channels], was given shape {images.shape}')
        channels, size = images.shape[-1], 1 if self.kind == 'pointwise' else self.kernel_size
        features = channels if self.features is None else self.features
        if self.kind == 'depthwise' and features % channels:
            raise ValueError(f'{where}: features={features}, allowed is a multiple of the {channels} channels')
        divided = channels % self.groups == features % self.groups == 0
        if self.groups != 1 and not (divided and self.kind == 'standard'):
            allowed = f'1 or, if standard, a divisor of the {channels} channels and {features} features'
            raise ValueError(f'{where}: groups={self.groups} of a {self.kind} convolution, allowed is {allowed}')
        shape = (size, size, channels // self._groups(images), features)
        if self.has_variable('params', 'kernel'):
            kernel: tuple[int, ...] = self.get_variable('params', 'kernel').shape
            if self.kind != 'depthwise' and kernel[:3] == shape[:3] and kernel != shape:
                raise ValueError(
                    f'{where}: the parameters (kernel {kernel}) are those of another network: this layer has '
                    f'{features} features and a kernel {shape}'
                )
            if kernel != shape:
                expected = kernel[-1] if self.kind == 'depthwise' else kernel[-2] * self.groups
                raise ValueError(
                    f'{where}: the parameters (kernel {kernel}) take {expected} channels, '
                    f'the input {images.shape} has {channels}, which needs a kernel {shape}'
                )
        return shape


class Dense(CheckedModule):
    """A dense layer with bias: `[batch, channels]` to `[batch, features]`.

    Attributes:
        features: output channels.
        convention: initialisation, an object or a name.
        dtype: of the computation; None follows input and parameters.
        param_dtype: of the parameters.
    """

    features: Count
    convention: ConventionOrName = TENSORFLOW
    dtype: FloatType | None = None
    param_dtype: FloatType = jnp.float32

    @nn.compact
    def __call__(self, values: Array) -> Array:
        """Multiply and add."""
        initializer = get_convention(self.convention).dense_initializer()
        kernel: Array = self.param('kernel', initializer, (values.shape[-1], self.features), self.param_dtype)
        bias = self.param('bias', nn.initializers.zeros, (self.features,), self.param_dtype)
        values, kernel, bias = promote_dtype(values, kernel, bias, dtype=self.dtype)
        return values @ kernel + bias


COMMON = ('norm', 'convention', 'dtype', 'param_dtype', 'batch_norm_axis_name')


def common_fields(module: Any) -> dict[str, Any]:
    """The fields that a network's layers and blocks take over from what they are in."""
    return {name: getattr(module, name) for name in COMMON}


def norm(module: Any, *, train: bool) -> Callable[[Array], Array]:
    """The layer that `module.norm` names, `norm` in the parameters; of None what changes nothing.

    BatchNorm has the constants of the module's convention, and goes by the batch's statistics when `train`.
    """
    if module.norm is None:
        return lambda images: images
    if module.norm == 'rms':
        return RMSNorm(param_dtype=module.param_dtype, name='norm')
    convention = get_convention(module.convention)
    return BatchNorm(
        use_running_average=not train,
        momentum=convention.momentum,
        epsilon=convention.epsilon,
        param_dtype=module.param_dtype,
        axis_name=module.batch_norm_axis_name,
        name='norm',
    )


FOLDED = 'folded'
"""What a `ConvNorm` calls its convolution once BatchNorm is folded into it: a name that no other module looks for."""


class ConvNorm(CheckedModule):
    """Convolution, norm and activation: `conv` and `norm` in the parameters.

    Input `[batch, height, width, channels]`, output `[batch, height', width', features]`. Where the variables hold
    `folded` in place of both, as `fold_batch_norm` makes them, it is that convolution, with a bias, and the activation.

    Attributes:
        features, kernel_size, strides, dilation, kind, groups, kernel_init: see `Conv`.
        activation: by name, see `ops.activation`; 'linear' for none.
        anti_aliasing: 'average' or 'blur' moves a stride of 2 from the convolution to a pooling after the activation,
            `ops.average_pool` or `ops.blur_pool`; None for neither.
        norm: 'batch' for BatchNorm, 'rms' for root-mean-square normalisation, None for none.
        use_bias: add a bias per feature before the norm.
        convention: padding, BatchNorm and initialisation, an object or a name.
        dtype: of the computation; running statistics stay in float32 or wider.
        param_dtype: of the parameters.
        batch_norm_axis_name: mapped axis that BatchNorm's statistics are shared over (`pmap`, `shard_map`, `vmap`).
    """

    features: Count | None = None
    kernel_size: KernelSize = 1
    strides: Count = 1
    dilation: Count = 1
    kind: Kind = 'standard'
    groups: Count = 1
    kernel_init: Initializer | None = None
    activation: Activation = 'relu6'
    anti_aliasing: AntiAliasing | None = None
    norm: Norm | None = 'batch'
    use_bias: bool = False
    convention: ConventionOrName = TENSORFLOW
    dtype: FloatType | None = None
    param_dtype: FloatType = jnp.float32
    batch_norm_axis_name: str | None = None

    @nn.compact
    def __call__(self, images: Array, *, train: bool = False) -> Array:
        """Convolve, normalise (by the batch's statistics when `train`), activate, and pool where the stride moved."""
        folded = self.has_variable('params', FOLDED)
        if folded and train:
            raise ValueError(
                f'{"/".join(self.path)}: BatchNorm is folded into the convolution, which cannot be trained'
            )
        pool = ops.pool(self.anti_aliasing) if self.anti_aliasing and self.strides > 1 else None
        outputs = Conv(
            features=self.features,
            kernel_size=self.kernel_size,
            strides=1 if pool else self.strides,
            dilation=self.dilation,
            kind=self.kind,
            groups=self.groups,
            kernel_init=self.kernel_init,
            use_bias=self.use_bias or folded,
            convention=self.convention,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=FOLDED if folded else 'conv',
        )(images)
        if not folded:
            outputs = norm(self, train=train)(outputs)
        outputs = self.activate(outputs)
        return pool(outputs) if pool else outputs

    def activate(self, outputs: Array) -> Array:
        """The activation: a method, so that what looks for it finds it."""
        return ops.activation(self.activation)(outputs)
