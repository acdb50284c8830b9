"""A function in XLA's own operations, for exporters."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxprs_in_params

from flaxmobile.ops.primitives import STANDARD

INLINED = {'jit', 'closed_call', 'remat2'}


def standard(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` without the primitives of this library: a depthwise convolution is XLA's grouped one on a CPU as well.

    Calls within calls are inlined. Loops and conditions stay, and so do names of scopes (`jax.named_scope`, Flax's
    layers) and derivatives that a function has of its own (`jax.custom_jvp`, `jax.custom_vjp`). A derivative to be
    exported is taken first: `standard(jax.grad(function))`.

    Args:
        function: of arrays and trees of them, by position or name, as `jax.jit` takes it.

    Returns:
        A function of the same arguments and results, which can be transformed like any other.

    Raises:
        ValueError: when called, if the function has a `shard_map` in it, or another call that cannot be rewritten.
    """

    @functools.wraps(function)
    def rewritten(*arguments: Any, **named: Any) -> Any:
        traced, results = jax.make_jaxpr(function, return_shape=True)(*arguments, **named)
        outputs = evaluate(traced, jax.tree.leaves((arguments, named)), _apply)
        return jax.tree.unflatten(jax.tree.structure(results), outputs)

    return rewritten


def evaluate(
    closed: ClosedJaxpr | Jaxpr, operands: Sequence[Any], apply: Callable[[JaxprEqn, list[Any]], Sequence[Any]]
) -> list[Any]:
    """The results of a traced program, in which `apply` does each equation; they keep the names of their scopes.

    Args:
        closed: the program.
        operands: its arguments, flat.
        apply: from an equation and its operands to its results.
    """
    program, constants = (closed.jaxpr, closed.consts) if isinstance(closed, ClosedJaxpr) else (closed, ())
    values = dict(zip((*program.constvars, *program.invars), (*constants, *operands), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in program.eqns:
        with names_of(equation):
            results = apply(equation, [read(atom) for atom in equation.invars])
        values.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in program.outvars]


def bound(equation: JaxprEqn, operands: list[Any], params: Mapping[str, Any]) -> Sequence[Any]:
    """The results of an equation's own primitive, with `params` in place of its parameters."""
    primitive = equation.primitive
    with equation.ctx.manager:
        results = primitive.bind(*operands, **primitive.get_bind_params(params))
    return results if primitive.multiple_results else [results]


def names_of(equation: JaxprEqn) -> AbstractContextManager[Any]:
    """The scopes that an equation was traced in, as Flax names its layers."""
    names = str(equation.source_info.name_stack)
    return jax.named_scope(names) if names else nullcontext()


def _apply(equation: JaxprEqn, operands: list[Any]) -> Sequence[Any]:
    primitive, params = equation.primitive, equation.params
    if primitive in STANDARD:
        return [STANDARD[primitive](*operands, **params)]
    if primitive.name == 'shard_map':
        raise ValueError('standard: the function has a shard_map in it; give the function inside the shard_map instead')
    if primitive.name in INLINED:
        return evaluate(params['jaxpr' if 'jaxpr' in params else 'call_jaxpr'], operands, _apply)
    return bound(equation, operands, {name: _rewrite(value) for name, value in params.items()})


def _rewrite(value: Any) -> Any:
    """A parameter of an equation, with the programs in it rewritten."""
    if isinstance(value, tuple) and value and all(isinstance(each, ClosedJaxpr) for each in value):
        rewritten = map(_rewrite, value)
        return type(value)(*rewritten) if hasattr(value, '_fields') else tuple(rewritten)
    if isinstance(value, ClosedJaxpr):
        return jax.make_jaxpr(lambda *operands: evaluate(value, operands, _apply))(*value.in_avals)
    if isinstance(value, Jaxpr) and _holds_ours(value):
        raise ValueError('standard: a convolution lies in a call that cannot be rewritten: give what is called')
    return value


def _holds_ours(program: Jaxpr) -> bool:
    nested = (inner for equation in program.eqns for inner in jaxprs_in_params(equation.params))
    inner = (each.jaxpr if isinstance(each, ClosedJaxpr) else each for each in nested)
    return any(equation.primitive in STANDARD for equation in program.eqns) or any(map(_holds_ours, inner))
