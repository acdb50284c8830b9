"""BatchNorm folded into the convolution before it, in any module that holds a `ConvNorm`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from flaxmobile.layers.basic import FOLDED, ConvNorm
from flaxmobile.layers.convention import get_convention
from flaxmobile.layers.normalization import BatchNorm
from flaxmobile.messages import listing

Path = tuple[str, ...]
KINDS = ('params', 'batch_stats')


class Pair(NamedTuple):
    """A convolution and its BatchNorm: where they are, the shapes of their variables by kind and name, and epsilon."""

    path: Path
    shapes: dict[str, dict[Path, Any]]
    epsilon: float

    @classmethod
    def of(cls, layer: ConvNorm) -> Self:
        """That of a `ConvNorm` that runs; of variables that are stacked it sees one of several, or none."""
        leaves = {kind: flatten_dict(layer.variables.get(kind, {})) for kind in KINDS}
        shapes = {
            kind: {name: leaf.shape for name, leaf in own.items() if name[0] in ('conv', 'norm')}
            for kind, own in leaves.items()
        }
        return cls(layer.path, shapes, get_convention(layer.convention).epsilon)


def fold_batch_norm(module: nn.Module, variables: Mapping[str, Any], *inputs: Any, **keywords: Any) -> dict[str, Any]:
    """The variables with which `module` gives the same in evaluation, a bias in place of each `ConvNorm`'s BatchNorm.

    A pure function of the variables, that can be traced. `module` is traced once, and what runs in it as a `ConvNorm`
    with `norm='batch'` is folded, wherever it stands: in a network, in a detector that holds one, in a module of the
    user's. All else stays: a BatchNorm with no convolution before it (multi-query attention's), one that no `ConvNorm`
    put there, a `ConvNorm` whose class has a `__call__` of its own, other norms, what `nn.scan` or `nn.vmap` stacks,
    and what the inputs do not reach. With the result `module` cannot be trained. What `nn.map_variables` changes on its
    way to a `ConvNorm` is not seen here: such a module must not be folded.

    Args:
        module: any module.
        variables: its variables.
        inputs: what `module.apply` takes, arrays or `jax.ShapeDtypeStruct`s.
        keywords: of `module.apply`, such as `method`.

    Returns:
        Variables of `module`: of each folded `ConvNorm`, `folded` in place of `conv` and `norm`, and no statistics.

    Raises:
        TypeError: `module` is no Flax module.
        ValueError: something is folded already, or the statistics are missing.
    """
    check_module(module)
    leaves = {kind: flatten_dict(variables.get(kind, {})) for kind in KINDS}
    for pair in _pairs(module, variables, inputs, keywords):
        own = {kind: {name: leaves[kind].get((*pair.path, *name)) for name in pair.shapes[kind]} for kind in KINDS}
        if all(pair.shapes.values()) and jax.tree.map(jnp.shape, own) == pair.shapes:
            for kind, names in own.items():
                for name in names:
                    del leaves[kind][*pair.path, *name]
            folded = _fold(own['params'], own['batch_stats'], pair.epsilon)
            leaves['params'].update({(*pair.path, FOLDED, name): value for name, value in folded.items()})
    rest = {kind: values for kind, values in variables.items() if kind not in KINDS}
    return rest | {kind: unflatten_dict(own) for kind, own in leaves.items() if own}


def check_module(given: Any) -> None:
    """Raise TypeError where it is no Flax module; of a module that is held with its variables, say how to pass both."""
    if not hasattr(given, 'apply'):
        held = ': pass model.module and model.variables' if hasattr(given, 'module') else ''
        raise TypeError(f'a Flax module is expected, and a {type(given).__name__} was given{held}')


def is_folded(variables: Mapping[str, Any]) -> bool:
    """Whether `fold_batch_norm` made these variables, or a part of them."""
    return any(FOLDED in path for path in flatten_dict(variables.get('params', {})))


def _pairs(
    module: nn.Module, variables: Mapping[str, Any], inputs: tuple[Any, ...], keywords: dict[str, Any]
) -> list[Pair]:
    """Each `ConvNorm` with BatchNorm that runs."""
    found: dict[Path, Pair] = {}
    folded: set[str] = set()

    def look(call: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any], context: Any) -> Any:
        layer = context.module
        if isinstance(layer, BatchNorm) and 'batch_stats' not in variables:
            raise ValueError(f'the variables hold {sorted(variables)}: batch_stats are missing')
        if isinstance(layer, ConvNorm) and layer.has_variable('params', FOLDED):
            folded.add('/'.join(layer.path))
        elif type(layer).__call__ is ConvNorm.__call__ and layer.norm == 'batch':
            found[layer.path] = Pair.of(layer)
        return call(*given, **named)

    with nn.intercept_methods(look):
        jax.eval_shape(partial(module.apply, **keywords), variables, *inputs)
    if folded:
        kind = type(module).__name__
        raise ValueError(f'fold_batch_norm: of this {kind} is folded already: {listing(sorted(folded), 3)}')
    return list(found.values())


def _fold(params: dict[Path, Any], statistics: dict[Path, Any], epsilon: float) -> dict[str, Any]:
    """Kernel and bias of the convolution that is both."""
    kernel, bias = params['conv', 'kernel'], params.get(('conv', 'bias'), 0.0)
    factor = params['norm', 'scale'] * lax.rsqrt(statistics['norm', 'var'] + epsilon)
    shift = params['norm', 'bias'] + (bias - statistics['norm', 'mean']) * factor
    return {'kernel': (kernel * factor).astype(kernel.dtype), 'bias': shift.astype(kernel.dtype)}
