"""What the fields of layers and networks may be, and the module that holds its fields to that."""

from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from flaxmobile.layers.convention import CONVENTIONS, Convention
from flaxmobile.ops.activations import ACTIVATIONS
from flaxmobile.rules import OneOf, Rule, above, at_least, check_fields


def _is_float(dtype: Any) -> bool:
    try:
        return dtype is not None and bool(jnp.issubdtype(jnp.dtype(dtype), jnp.floating))
    except TypeError:
        return False


FloatType = Annotated[Any, Rule('a floating-point type, as jnp.bfloat16', _is_float)]
ConventionOrName = Convention | Annotated[str, OneOf(tuple(CONVENTIONS))]
Activation = Annotated[str, OneOf(tuple(ACTIVATIONS))]
AntiAliasing = Literal['average', 'blur']
Norm = Literal['batch', 'rms']
Kind = Literal['standard', 'depthwise', 'pointwise']
Multiplier = Annotated[float, above(0)]
DepthMultiplier = Annotated[float, above(0, 20)]  # A network of thousands of blocks takes minutes to build.
KernelSize = Annotated[int, at_least(1)]
OptionalKernelSize = Annotated[int, at_least(0)]


class CheckedModule(nn.Module):
    """A module that holds its fields to the rules beside them, wherever it is built.

    Raises:
        ValueError: a field is of another type or out of its range.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        super().__post_init__()
