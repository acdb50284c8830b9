"""One training step and one evaluation step, compiled over a mesh of devices.

The batch is split over the mesh's axis `data`, the state is on every device. The program is written for the whole
batch, so losses, gradients and BatchNorm statistics are those of the whole batch, however many devices share it.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flaxmobile.data.preprocessing import Preprocessing
from flaxmobile.models.inference import compiler_options, forward
from flaxmobile.training.freezing import NOTHING, Paths, merge, on_running_statistics, trained
from flaxmobile.training.losses import cross_entropy, smooth_targets
from flaxmobile.training.state import TrainState, update_ema

Metrics = dict[str, jax.Array]


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, `data`, over all devices of all processes, or over those given."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a tree of arrays on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Split what a step reads of a batch (image, label, mask) over the mesh; each process gives its own part.

    Raises:
        ValueError: the images of this process cannot be shared evenly by its devices.
    """
    size, devices = len(batch['image']), mesh.local_mesh.size
    if size % devices:
        raise ValueError(
            f'a batch of {size} images cannot be shared evenly by {devices} devices: use a multiple of {devices}'
        )
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    return {
        name: jax.make_array_from_process_local_data(sharding, batch[name])
        for name in ('image', 'label', 'mask')
        if name in batch
    }


def loss_and_gradients(
    model: nn.Module,
    params: Any,
    batch_stats: Any,
    images: jax.Array,
    targets: jax.Array,
    key: jax.Array,
    frozen: Paths = NOTHING,
) -> tuple[tuple[jax.Array, tuple[jax.Array, Any]], Any]:
    """((mean loss, (logits, new BatchNorm statistics)), gradients) of a training-mode pass.

    Images are `[B, H, W, C]`, normalised; targets `[B, K]`, probabilities; `key` is for dropout. Parameters in `frozen`
    have no gradient, and a BatchNorm of such parameters runs on its statistics. In `pmap` and `shard_map` give the
    model its `batch_norm_axis_name`, and average loss and gradients over that axis.
    """

    def loss(training: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        with on_running_statistics(params, batch_stats, frozen):
            logits, changed = model.apply(
                {'params': merge(params, training), 'batch_stats': batch_stats},
                images,
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': key},
            )
        return cross_entropy(logits, targets).mean(), (logits, changed.get('batch_stats', {}))

    return jax.value_and_grad(loss, has_aux=True)(trained(params, frozen))


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
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, Metrics]]:
    """Compile `(state, batch) -> (state, metrics)`; the state given is consumed.

    Metrics are scalars on the device: `loss`, in nats, with smoothed targets; `accuracy`, of this batch;
    `gradient_norm`, before clipping. Dropout is a function of the seed and the step alone. The optimizer sees only the
    parameters that are not in `frozen`.
    """
    replicated, sharded = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec('data')))

    @functools.partial(
        jax.jit, donate_argnums=0, in_shardings=(replicated, sharded), out_shardings=(replicated, replicated)
    )
    def train_step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, Metrics]:
        images, labels = preprocessing.normalize(batch['image']), batch['label']
        targets = smooth_targets(labels, num_classes, label_smoothing)
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (loss, (logits, batch_stats)), gradients = loss_and_gradients(
            model, state.params, state.batch_stats, images, targets, key, frozen
        )
        training = trained(state.params, frozen)
        changes, opt_state = optimizer.update(gradients, state.opt_state, training)
        new_state = state.replace(
            step=state.step + 1,
            params=merge(state.params, optax.apply_updates(training, changes)),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if ema_decay is not None:
            new_state = new_state.replace(ema=update_ema(new_state, ema_decay))
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
        return new_state, {'loss': loss, 'accuracy': accuracy, 'gradient_norm': optax.tree.norm(gradients)}

    return train_step


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
