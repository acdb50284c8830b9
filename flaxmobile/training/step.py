"""One training step and one evaluation step, compiled over a mesh of devices.

The batch is split over the mesh's axis `data`, the state is on every device. The program is written for the whole
batch, so losses, gradients and BatchNorm statistics are those of the whole batch, however many devices share it.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxmobile.data.preprocessing import Preprocessing
from flaxmobile.models.inference import compiler_options, forward
from flaxmobile.tasks.distillation import Distillation
from flaxmobile.tasks.losses import cross_entropy, smooth_targets
from flaxmobile.tasks.mixing import UNMIXED, Mixing
from flaxmobile.training.config import TrainConfig
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
        loss: the loss of each image, `[B]`, of outputs and targets, as `flaxmobile.tasks.losses.cross_entropy`.
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


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    preprocessing: Preprocessing,
    *,
    num_classes: int,
    label_smoothing: float,
    ema_decay: float | None,
    seed: int,
    mesh: Mesh,
    frozen: Paths = NOTHING,
    mixing: Mixing = UNMIXED,
    distillation: Distillation | None = None,
) -> Step:
    """Compile `(state, batch) -> (state, metrics)`; the state given is consumed.

    With `distillation` it takes the variables of the teacher too: `(state, batch, teacher) -> (state, metrics)`.

    Metrics are scalars on the device: `loss`, in nats, with smoothed and mixed targets; `accuracy`, of this batch,
    counting as right the class that has most of an image's target; `gradient_norm`, before clipping; `skipped_updates`
    and `skipped_in_a_row`, of the new state. Where the loss, the gradient or what they lead to is not finite, the state
    keeps all but its step, and counts that. Dropout and mixing are functions of the seed and the step alone. The
    optimizer sees only the parameters that are not in `frozen`.
    """
    replicated, sharded = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec('data')))
    loss_function = cross_entropy if distillation is None else distillation.loss

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(replicated, sharded, *([] if distillation is None else [replicated])),
        out_shardings=(replicated, replicated),
    )
    def train_step(state: TrainState, batch: Mapping[str, jax.Array], *teacher: Any) -> tuple[TrainState, Metrics]:
        images = preprocessing.normalize(batch['image'])
        targets = smooth_targets(batch['label'], num_classes, label_smoothing)
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        images, targets = mixing(images, targets, jax.random.fold_in(key, 0))
        wanted = targets if distillation is None else (targets, distillation.answers(teacher[0], images))
        (loss, (logits, collections)), gradients = loss_and_gradients(
            model, state.variables, images, wanted, key, loss_function, frozen
        )
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
        gradient_norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(loss + gradient_norm + optax.tree.norm((changes, collections)))
        new_state = apply_if(finite, state, new_state)
        return new_state, {
            'loss': loss,
            'accuracy': jnp.mean(jnp.argmax(logits, axis=-1) == jnp.argmax(targets, axis=-1)),
            'gradient_norm': gradient_norm,
            'skipped_updates': new_state.skipped_updates,
            'skipped_in_a_row': new_state.skipped_in_a_row,
        }

    return train_step


def configured_step(
    config: TrainConfig,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    frozen: Paths,
    num_classes: int,
    mesh: Mesh,
    distillation: Distillation | None = None,
) -> Step:
    """The training step of a configuration."""
    return make_train_step(
        model,
        optimizer,
        config.preprocessing,
        num_classes=num_classes,
        label_smoothing=config.label_smoothing,
        ema_decay=config.ema_decay,
        seed=config.seed,
        mesh=mesh,
        frozen=frozen,
        mixing=config.mixing,
        distillation=distillation,
    )


def make_evaluation_step(
    model: nn.Module, preprocessing: Preprocessing, mesh: Mesh
) -> Callable[[Mapping[str, Any], Mapping[str, jax.Array]], Metrics]:
    """Compile `(variables, batch) -> sums`, in which images whose mask is False count for nothing.

    `count`, `correct` and `correct_top5` are numbers of images, `loss` the summed cross entropy in nats, not smoothed;
    `probabilities` is `[B, K]`, with a row for every image, masked or not. All are on every device.
    """
    replicated, sharded = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec('data')))
    platform = mesh.devices.flat[0].platform

    @functools.partial(
        jax.jit,
        in_shardings=(replicated, sharded),
        out_shardings=replicated,
        compiler_options=compiler_options(platform),
    )
    def evaluation_step(variables: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> Metrics:
        images = preprocessing.normalize(batch['image'])
        logits = forward(model, variables, images, platform=platform if mesh.size == 1 else None)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        labels, mask, num_classes = batch['label'], batch['mask'], logits.shape[-1]
        loss = cross_entropy(logits, smooth_targets(labels, num_classes, 0.0))
        best = jax.lax.top_k(logits, min(5, num_classes))[1] == labels[:, None]
        return {
            'count': jnp.sum(mask),
            'correct': jnp.sum(mask & best[:, 0]),
            'correct_top5': jnp.sum(mask & best.any(axis=-1)),
            'loss': jnp.sum(jnp.where(mask, loss, 0)),
            'probabilities': jax.nn.softmax(logits),
        }

    return evaluation_step
