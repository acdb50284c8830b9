"""The state of a training run: all that a step reads and writes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from flaxmobile.training.freezing import NOTHING, Paths, trained


class TrainState(struct.PyTreeNode):
    """Steps taken, parameters, what else the network keeps, the optimizer's state, and the moving average.

    `model_state` holds the network's other collections of variables by name: `{'batch_stats': ...}`, `{}` where it has
    none. `ema` is the average of both, with the collections that `variables` has; None: there is no average.

    `skipped_updates` counts the steps whose loss or gradient was not finite, in which only `step` changed.
    `skipped_in_a_row` counts how many of these came last, without a good step between them. Both are int32 [].
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema: Any
    skipped_updates: jax.Array = struct.field(default_factory=lambda: jnp.zeros((), jnp.int32))
    skipped_in_a_row: jax.Array = struct.field(default_factory=lambda: jnp.zeros((), jnp.int32))

    @property
    def updates(self) -> jax.Array:
        """Updates made so far, int32 []."""
        if isinstance(self.opt_state, optax.MultiStepsState):
            return self.opt_state.gradient_step
        return self.step - self.skipped_updates

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is trained with."""
        return {'params': self.params, **self.model_state}

    @property
    def evaluation_variables(self) -> dict[str, Any]:
        """What the network is evaluated with: the moving average, where there is one."""
        return self.variables if self.ema is None else self.ema


def initial_variables(model: nn.Module, key: jax.Array, images_shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """What `model.init` draws for images of `[batch, height, width, channels]`; the batch does not matter."""
    # On a CPU, compiling the initialisers well takes longer than this one run of them.
    quickly = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
    init = jax.jit(lambda key, images: model.init(key, images), compiler_options=quickly)
    variables: dict[str, Any] = init(key, jnp.zeros(images_shape, jnp.float32))
    return variables


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: jax.Array,
    images_shape: tuple[int, int, int, int],
    ema_decay: float | None,
    frozen: Paths = NOTHING,
) -> TrainState:
    """A fresh state for images of `[batch, height, width, channels]`; the batch does not matter and may be 1.

    The other arguments are those of `start_state`.
    """
    return start_state(initial_variables(model, key, images_shape), optimizer, ema_decay, frozen)


def start_state(
    variables: Mapping[str, Any],
    optimizer: optax.GradientTransformation,
    ema_decay: float | None,
    frozen: Paths = NOTHING,
) -> TrainState:
    """The state before the first step, from the variables of a network.

    The moving average starts at the initial values; there is none where `ema_decay` is None. The optimizer's state
    covers the parameters that are not in `frozen`.
    """
    params = variables.get('params', {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state(variables),
        opt_state=optimizer.init(trained(params, frozen)),
        ema=None if ema_decay is None else jax.tree.map(jnp.copy, {'params': params, **model_state(variables)}),
    )


def model_state(variables: Mapping[str, Any]) -> dict[str, Any]:
    """The collections of a network's variables that are not its parameters: BatchNorm statistics, ranges, ..."""
    return {name: collection for name, collection in variables.items() if name != 'params'}


def ema_decay_at(update: Any, decay: float) -> jax.Array:
    """The decay of the moving average at an update, counted from 0: `min(decay, (1 + update) / (10 + update))`.

    TensorFlow's warm-up, which forgets the initial values even in short runs.
    """
    return jnp.minimum(decay, (1 + update) / (10 + update))


def update_ema(state: TrainState, decay: float) -> Any:
    """The moving average after the step that led to `state`, whose `ema` is still the old one.

    It moves once an update, with the decay of `ema_decay_at`. Steps that only accumulate gradients leave it alone.
    Integers and booleans (a counter in the model state) are not averaged: the new state's are taken.
    """
    accumulates = isinstance(state.opt_state, optax.MultiStepsState)
    moves = state.opt_state.mini_step == 0 if accumulates else jnp.array(True)
    share = jnp.where(moves, 1 - ema_decay_at(state.updates - 1, decay), 0)

    def moved(old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(old.dtype, jnp.inexact):
            return new
        return old + share.astype(old.dtype) * (new - old)

    return jax.tree.map(moved, state.ema, state.variables)


def apply_if(finite: jax.Array, old: TrainState, new: TrainState) -> TrainState:
    """`new` where `finite` (bool []) holds; else `old` with its step counted, and counted as skipped."""
    chosen = jax.tree.map(lambda before, after: jnp.where(finite, after, before), old, new)
    return chosen.replace(
        step=new.step,
        skipped_updates=old.skipped_updates + jnp.where(finite, 0, 1),
        skipped_in_a_row=jnp.where(finite, 0, old.skipped_in_a_row + 1),
    )
