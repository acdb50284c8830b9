"""Which parameters are frozen, and how a frozen BatchNorm behaves."""

import contextlib
import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from flaxmobile.layers.normalization import BatchNorm
from flaxmobile.messages import listing, nearest, printable

Path = tuple[str, ...]
Paths = frozenset[Path]
NOTHING: Paths = frozenset()
BACKBONE = 'backbone'


def frozen_parameters(params: Any, patterns: Sequence[str], label_layers: Collection[str]) -> Paths:
    """The paths of the parameters that match one of the shell patterns.

    A pattern matches a parameter if it fits the parameter's path (`stem/conv/kernel`) or the path of a layer that holds
    it (`stem`). `*` matches slashes too. `backbone` matches all but the layers of the labels.

    Args:
        params: parameters of the network, or their shapes.
        patterns: for example `stem`, `block_0*`, `*/norm`.
        label_layers: those of the task, by their names at the top: the classifier.

    Raises:
        ValueError: a pattern matches nothing, or all patterns together match everything.
    """
    paths = flatten_dict(params).keys()
    frozen: set[Path] = set()
    for pattern in patterns:
        named = {path for path in paths if _names(pattern, path, label_layers)}
        if not named:
            raise ValueError(_no_parameter(pattern, paths, label_layers))
        frozen |= named
    if frozen and len(frozen) == len(paths):
        raise ValueError(f'freeze: {", ".join(patterns)} names every parameter, so that nothing is left to train')
    return frozenset(frozen)


def _no_parameter(pattern: str, paths: Collection[Path], label_layers: Collection[str]) -> str:
    """Say that a pattern fits none of the paths, and what one fits."""
    alike = nearest(pattern, {'/'.join(path[:depth]) for path in paths for depth in range(1, len(path) + 1)})
    question = f' Did you mean {listing(alike)}?' if alike else ''
    layers = listing(sorted({path[0] for path in paths}), 100)
    return (
        f"freeze: '{printable(pattern)}' names no parameter.{question} A pattern fits a path such as "
        f'{"/".join(min(paths))}, or a layer; those at the top are {layers}; {BACKBONE} is all but '
        f'{listing(sorted(label_layers))}'
    )


def _names(pattern: str, path: Path, label_layers: Collection[str]) -> bool:
    if pattern == BACKBONE:
        return path[0] not in label_layers
    return any(fnmatch.fnmatchcase('/'.join(path[:depth]), pattern) for depth in range(1, len(path) + 1))


def trained(params: Any, frozen: Collection[Path]) -> Any:
    """The parameters without the frozen ones."""
    if not frozen:
        return params
    return unflatten_dict({path: value for path, value in flatten_dict(params).items() if path not in frozen})


def merge(params: Any, changed: Any) -> Any:
    """All parameters, with `changed` in place of those it holds."""
    return unflatten_dict(flatten_dict(params) | flatten_dict(changed))


def frozen_norms(params: Any, model_state: Mapping[str, Any], frozen: Collection[Path]) -> Paths:
    """The paths of the frozen BatchNorms: those that have parameters, all of them frozen."""
    norms = {path[:-1] for path in flatten_dict(model_state.get('batch_stats', {}))}
    own = {norm: [path for path in flatten_dict(params) if path[: len(norm)] == norm] for norm in norms}
    return frozenset(norm for norm, paths in own.items() if paths and all(path in frozen for path in paths))


def on_running_statistics(
    params: Any, model_state: Mapping[str, Any], frozen: Collection[Path]
) -> contextlib.AbstractContextManager[Any]:
    """A context in which frozen BatchNorms use their running statistics in training too, and do not update them."""
    norms = frozen_norms(params, model_state, frozen) if frozen else NOTHING

    def intercept(call: Callable[..., Any], arguments: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if not isinstance(module, (nn.BatchNorm, BatchNorm)) or module.path not in norms:
            return call(*arguments, **options)
        # The mode of a BatchNorm is fixed by its constructor, so a copy in the other mode is called instead.
        still = module.clone(parent=None, name=None, use_running_average=True)
        return still.apply(module.variables, *arguments, **options)

    return nn.intercept_methods(intercept) if norms else contextlib.nullcontext()
