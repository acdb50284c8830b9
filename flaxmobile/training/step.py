"""One training step and one evaluation step, compiled over a mesh of devices.

The batch is split over the mesh's axis `data`, the state is on every device. The program is written for the whole
batch, so losses, gradients and BatchNorm statistics are those of the whole batch, however many devices share it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxmobile.models.inference import compiler_options, forward
from flaxmobile.tasks.task import Scores, Task
from flaxmobile.training.freezing import NOTHING, Paths, merge, on_running_statistics, trained
from flaxmobile.training.state import TrainState, apply_if, model_state, update_ema

Metrics = dict[str, jax.Array]
Step = jax.stages.Wrapped
Loss = Callable[[Any, Any], jax.Array]


def loss_and_gradients(
    model: nn.Module,
    variables: Mapping[str, Any],
    images: jax.Array,
    targets: Any,
    key: jax.Array,
    loss: Loss,
    frozen: Paths = NOTHING,
) -> tuple[tuple[jax.Array, tuple[Any, dict[str, Any]]], Any]:
    """((mean loss, (outputs, new model state)), gradients) of a training-mode pass.

    In `pmap` and `shard_map` give the model its `batch_norm_axis_name`, and average loss and gradients over that axis.

    Args:
        model: the network.
        variables: `params`, and whatever other collections it has: they are the model state, which the pass may change.
        images: `[B, H, W, C]`, normalised.
        targets: what `loss` compares the outputs with.
        key: for dropout.
        loss: the loss of each image, `[B]`, of outputs and targets: a task's, or `flaxmobile.tasks.cross_entropy`.
        frozen: paths of parameters that have no gradient. A BatchNorm of such parameters runs on its statistics.
    """
    params, state = variables['params'], model_state(variables)

    def mean_loss(training: Any) -> tuple[jax.Array, tuple[Any, dict[str, Any]]]:
        with on_running_statistics(params, state, frozen):
            outputs, changed = model.apply(
                {'params': merge(params, training), **state},
                images,
                train=True,
                mutable=list(state),
                rngs={'dropout': key},
            )
        return loss(outputs, targets).mean(), (outputs, {**state, **changed})

    return jax.value_and_grad(mean_loss, has_aux=True)(trained(params, frozen))


@dataclasses.dataclass(frozen=True)
class Learner:
    """What the steps of a training are made of: the arguments of `make_train_step`."""

    model: nn.Module
    optimizer: optax.GradientTransformation
    task: Task
    mesh: Mesh
    seed: int = 0
    ema_decay: float | None = None
    frozen: Paths = NOTHING

    def train_step(self) -> Step:
        """The training step; see `make_train_step`."""
        return make_train_step(**vars(self))


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    task: Task,
    *,
    seed: int,
    mesh: Mesh,
    ema_decay: float | None = None,
    frozen: Paths = NOTHING,
) -> Step:
    """Compile `(state, batch) -> (state, metrics)`; the state given is consumed.

    If the task has variables of further networks (a teacher's), the step takes them as well, on the mesh: `(state,
    batch, task.variables)`.

    Metrics are scalars on the device: `loss`, the mean over the batch; what the task logs; `gradient_norm`, before
    clipping; `skipped_updates` and `skipped_in_a_row`, of the new state. If the loss, the gradient or the update is not
    finite, only the step of the state changes, and `skipped_updates` grows by one.

    Args:
        model: the network.
        optimizer: sees only the parameters that are not in `frozen`.
        task: what is learnt.
        seed: dropout, and what the task draws, are functions of the seed and the step alone.
        mesh: the devices.
        ema_decay: of the moving average, where the state has one.
        frozen: paths of the parameters that are not trained.
    """
    replicated, sharded = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec('data')))

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(replicated, sharded, *([] if task.variables is None else [replicated])),
        out_shardings=(replicated, replicated),
    )
    def train_step(state: TrainState, batch: Mapping[str, jax.Array], *more: Any) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        images, targets = task.prepare(batch, jax.random.fold_in(key, 0), *(more or (None,)))
        (loss, (outputs, collections)), gradients = loss_and_gradients(
            model, state.variables, images, targets, key, task.loss, frozen
        )
        gradient_norm = optax.tree.norm(gradients)
        new_state = _next_state(state, optimizer, loss + gradient_norm, gradients, collections, ema_decay, frozen)
        return new_state, {
            'loss': loss,
            **task.log(outputs, targets),
            'gradient_norm': gradient_norm,
            'skipped_updates': new_state.skipped_updates,
            'skipped_in_a_row': new_state.skipped_in_a_row,
        }

    return train_step


def _next_state(
    state: TrainState,
    optimizer: optax.GradientTransformation,
    finite: jax.Array,
    gradients: Any,
    collections: dict[str, Any],
    ema_decay: float | None,
    frozen: Paths,
) -> TrainState:
    """The state after an update; the old one, one step later, if `finite` or the update holds a number that is not."""
    training = trained(state.params, frozen)
    changes, opt_state = optimizer.update(gradients, state.opt_state, training)
    new_state = state.replace(
        step=state.step + 1,
        params=merge(state.params, optax.apply_updates(training, changes)),
        model_state=collections,
        opt_state=opt_state,
    )
    if ema_decay is not None:
        new_state = new_state.replace(ema=update_ema(new_state, ema_decay))
    return apply_if(jnp.isfinite(finite + optax.tree.norm((changes, collections))), state, new_state)


def make_evaluation_step(
    model: nn.Module, task: Task, mesh: Mesh
) -> Callable[[Mapping[str, Any], Mapping[str, jax.Array]], Scores]:
    """Compile `(variables, batch) -> scores`: the task's scores of the network's outputs, on every device.

    Images whose mask is False do not count in the sums. They have rows like the others.
    """
    replicated, sharded = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec('data')))
    platform = mesh.devices.flat[0].platform

    @functools.partial(
        jax.jit,
        in_shardings=(replicated, sharded),
        out_shardings=replicated,
        compiler_options=compiler_options(platform),
    )
    def evaluation_step(variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> Scores:
        images = task.preprocessing.normalize(batch['image'])
        outputs = forward(model, variables, images, platform=platform if mesh.size == 1 else None)
        return task.score(outputs, batch)

    return evaluation_step
