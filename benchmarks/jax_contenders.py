"""Ours and plain Flax. The references of the comparisons are ours by `model.apply`, checked against torch in tests."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import flaxmobile
from benchmarks.networks import IMAGE_SIZE, PREPROCESSING, images, labels, network, pixels, variables_of
from benchmarks.plain_flax import PlainNetwork
from benchmarks.worker import Case
from flaxmobile.inspection.rehearsal import OPTIMIZER, rehearse, repeated
from flaxmobile.training.compiled import compile_step
from flaxmobile.training.state import TrainState, model_state
from flaxmobile.weights import Model

Build = tuple[Callable[[], Any], np.ndarray]


def module(case: Case, plain: bool) -> nn.Module:
    """Our network or its plain twin."""
    return PlainNetwork(network(case)) if plain else network(case)


def ours_inference(case: Case) -> Build:
    """By `compile_inference`."""
    model = network(case)
    infer = flaxmobile.compile_inference(model, variables_of(model), batch_size=case.batch, image_size=IMAGE_SIZE)
    return _inference(infer, case)


def apply_inference(case: Case, plain: bool = False) -> Build:
    """By `model.apply` under `jit`, variables as arguments, BatchNorm as it is."""
    return _inference(partial(jax.jit(module(case, plain).apply), variables_of(network(case))), case)


def _inference(infer: Callable[[jax.Array], jax.Array], case: Case) -> Build:
    batch = jnp.asarray(images(case.batch))
    return lambda: infer(batch).block_until_ready(), np.asarray(infer(batch))


def ours_step(case: Case) -> tuple[Any, TrainState, dict[str, jax.Array]]:
    """The step of `flaxmobile train`, its state and its batch, on the device."""
    model = network(case)
    return rehearse(
        Model(model, variables_of(model), PREPROCESSING), {'image': pixels(case.batch), 'label': labels(case.batch)}
    )


def plain_step(case: Case) -> tuple[Any, TrainState, dict[str, jax.Array]]:
    """The step that a Flax user writes, its state and its batch, on the device."""
    variables = variables_of(network(case))
    state = TrainState(
        jnp.zeros((), jnp.int32), variables['params'], model_state(variables), OPTIMIZER.init(variables['params']), None
    )
    return make_plain_step(module(case, plain=True)), state, _batch(case)


def make_plain_step(model: nn.Module) -> Any:
    """The step that a Flax user writes: `(state, batch)` to both, of normalised images and `OPTIMIZER`."""

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        differentiate = jax.value_and_grad(partial(training_loss, model), has_aux=True)
        (loss, statistics), gradients = differentiate(state.params, state.model_state['batch_stats'], batch)
        changes, opt_state = OPTIMIZER.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        state = state.replace(
            step=state.step + 1, params=params, model_state={'batch_stats': statistics}, opt_state=opt_state
        )
        return state, {'loss': loss}

    return step


def _batch(case: Case) -> dict[str, jax.Array]:
    return {'image': jnp.asarray(images(case.batch)), 'label': jnp.asarray(labels(case.batch))}


def training_loss(model: nn.Module, params: Any, statistics: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, Any]:
    """Mean cross entropy by the batch's statistics, and the new running ones."""
    variables = {'params': params, 'batch_stats': statistics}
    logits, changed = model.apply(variables, batch['image'], train=True, mutable=['batch_stats'])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
    return losses.mean(), changed['batch_stats']


def ours_training(case: Case) -> Build:
    """A step of `flaxmobile train`."""
    step, state, batch = ours_step(case)
    return _training(compile_step(step, state, batch), state, batch)


def plain_training(case: Case) -> Build:
    """A step of plain Flax."""
    return _training(*plain_step(case))


def _training(step: Any, state: TrainState, batch: Any) -> Build:
    work = repeated(step, state, batch)
    return work, np.asarray(work()['loss'])


def first_loss(case: Case) -> Build:
    """The loss that every contender has to have in its first step."""
    model = network(case)
    variables, batch = variables_of(model), _batch(case)
    work = partial(jax.jit(partial(training_loss, model)), variables['params'], variables['batch_stats'], batch)
    return work, np.asarray(work()[0])


def per_example(case: Case, plain: bool = False) -> Build:
    """Each image's own gradient, BatchNorm by its running statistics; the outcome is their norms."""
    model = module(case, plain)

    def loss(params: Any, statistics: Any, image: jax.Array, label: jax.Array) -> jax.Array:
        logits: Any = model.apply({'params': params, 'batch_stats': statistics}, image[None])
        return optax.softmax_cross_entropy_with_integer_labels(logits[0], label)

    work = _transformed(jax.vmap(jax.grad(loss), (None, None, 0, 0)), case, *_batch(case).values())
    return work, np.asarray(jax.vmap(optax.tree.norm)(work()))


def tangent(case: Case, plain: bool = False) -> Build:
    """The training loss and its derivative in one direction, forward."""

    def derivative(params: Any, statistics: Any, batch: Any, direction: Any) -> Any:
        loss = partial(_loss_of_params, case, plain, statistics, batch)
        return jax.jvp(loss, (params,), (direction,))

    work = _transformed(derivative, case, _batch(case), _direction(case))
    return work, np.asarray(work())


def hessian_vector(case: Case, plain: bool = False) -> Build:
    """The Hessian of the training loss by one direction, forward over reverse; the outcome is the product's norm."""

    def product(params: Any, statistics: Any, batch: Any, direction: Any) -> Any:
        gradient = jax.grad(partial(_loss_of_params, case, plain, statistics, batch))
        return jax.jvp(gradient, (params,), (direction,))[1]

    work = _transformed(product, case, _batch(case), _direction(case))
    return work, np.asarray(optax.tree.norm(work()))


def _loss_of_params(case: Case, plain: bool, statistics: Any, batch: dict[str, jax.Array], params: Any) -> jax.Array:
    return training_loss(module(case, plain), params, statistics, batch)[0]


def _transformed(function: Any, case: Case, *arguments: Any) -> Callable[[], Any]:
    variables, compiled = variables_of(network(case)), jax.jit(function)
    return lambda: jax.block_until_ready(compiled(variables['params'], variables['batch_stats'], *arguments))


def _direction(case: Case) -> Any:
    return optax.tree.scale(1e-2, variables_of(network(case), seed=3)['params'])
