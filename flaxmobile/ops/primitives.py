"""Bilinear operations with one definition and one lowering per platform.

The lowering is chosen when a program is lowered, so one traced program works on every platform.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import AbstractMesh, AxisType

from flaxmobile.ops.padding import PaddingPairs, Pair, Size, output_size

Function = Callable[..., Array]

STANDARD: dict[Primitive, Function] = {}
"""Each primitive's form in XLA's own operations, which exporters need (`ops.standard`)."""


class Window(NamedTuple):
    """The static sizes of a convolution, in pixels, height before width."""

    input_size: Size
    kernel_size: Size
    strides: Pair
    padding: PaddingPairs
    dilation: Pair
    parts: int = 1
    """Number of equal parts of the batch; each part has its own kernel."""

    @property
    def output_size(self) -> Pair:
        """Height and width of the output."""
        return output_size(self.input_size, self.kernel_size, self.strides, self.padding, self.dilation)

    @property
    def taps(self) -> list[Pair]:
        """The (row, column) of every element of the kernel."""
        return [(row, column) for row in range(self.kernel_size[0]) for column in range(self.kernel_size[1])]


def convolve(images: Array, kernel: Array, *, window: Window, groups: int = 1) -> Array:
    """XLA's own convolution of `[batch, height, width, channels]` by `[height, width, channels / groups, features]`."""
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides=window.strides,
        padding=window.padding,
        rhs_dilation=window.dilation,
        feature_group_count=groups,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


def transpose(function: Function, like: jax.ShapeDtypeStruct, cotangent: Array) -> Array:
    """Apply the transpose of a linear function to `cotangent`; `like` has the shape and dtype of its operand."""
    return jax.linear_transpose(function, like)(cotangent)[0]


def primitive(
    name: str,
    like: Function,
    standard: Function,
    cpu: Function,
    *,
    tpu: Function | None = None,
    in_shards: bool = False,
) -> Primitive:
    """Make a primitive. It is lowered as `cpu` on a CPU, as `tpu` on a TPU (if given), and as `standard` elsewhere.

    Its result has the shape and dtype of that of `like`. With `in_shards`, `cpu` gets one more argument, `shards`: the
    number of devices that the program is for.
    """
    new = Primitive(name)

    @functools.lru_cache(maxsize=256)
    def compiled(**params: Any) -> Function:
        return jax.jit(functools.partial(new.bind, **params))

    @functools.lru_cache(maxsize=4096)
    def type_of(*operands: Any, **params: Any) -> Any:
        return jax.make_jaxpr(functools.partial(like, **params))(*operands).out_avals[0]

    new.def_impl(lambda *operands, **params: compiled(**params)(*operands))
    new.def_abstract_eval(type_of)
    mlir.register_lowering(new, _lower_unsharded(standard))
    mlir.register_lowering(new, _lower_unsharded(cpu, in_shards), platform='cpu')
    if tpu:
        mlir.register_lowering(new, _lower_unsharded(tpu), platform='tpu')
    STANDARD[new] = standard
    return new


def _lower_unsharded(function: Function, in_shards: bool = False) -> Any:
    """Lower `function` as if its operands had no sharding; the compiler chooses the sharding."""

    def lowering(context: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        if in_shards:
            params['shards'] = getattr(context.module_context.axis_context, 'num_devices', None) or 1
        avals = [jax.core.ShapedArray(aval.shape, aval.dtype) for aval in cast(Any, context.avals_in)]
        lower = mlir.lower_fun(function, multiple_results=False)
        with jax.sharding.use_abstract_mesh(_without_explicit_axes(jax.sharding.get_abstract_mesh())):
            return lower(context.replace(avals_in=avals), *operands, **params)

    return lowering


def _without_explicit_axes(mesh: AbstractMesh) -> AbstractMesh:
    types = [AxisType.Auto if kind is AxisType.Explicit else kind for kind in mesh.axis_types]
    return AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=tuple(types))


def vary_alike(*operands: Array) -> list[Array]:
    """Inside `shard_map`, cast the operands so that all vary over the mesh axes that any of them varies over."""
    axes = [_varying_axes(operand) for operand in operands]
    every = frozenset().union(*axes)
    return [
        lax.pcast(operand, tuple(every - own), to='varying') if every - own else operand
        for operand, own in zip(operands, axes, strict=True)
    ]


def _varying_axes(operand: Array) -> frozenset[str]:
    aval = jax.typeof(operand)
    return aval.mat.varying if hasattr(aval, 'mat') else aval.vma  # jax 0.10 renamed it
