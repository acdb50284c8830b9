"""A training step with no run around it, to be timed or looked at."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxmobile.training.state import TrainState
from flaxmobile.training.step import Metrics, make_mesh, make_train_step, replicate, shard_batch
from flaxmobile.weights import LoadedModel

OPTIMIZER = optax.sgd(0.01, momentum=0.9)

Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def rehearse(loaded: LoadedModel, batch: Mapping[str, np.ndarray]) -> tuple[Step, TrainState, dict[str, jax.Array]]:
    """The step that `flaxmobile train` compiles, with SGD of momentum 0.9, on the default device; its state, its batch.

    Args:
        loaded: the model; its variables are copied, since a step consumes its state.
        batch: `image` uint8 `[batch, height, width, channels]`, `label` int32 `[batch]`.

    Raises:
        ValueError: the model has no classifier.
    """
    model: Any = loaded.model
    if not model.num_classes:
        raise ValueError('this model has no classifier (num_classes=0), so it has no loss to lower')
    mesh = make_mesh(jax.devices()[:1])
    step = make_train_step(
        model,
        OPTIMIZER,
        loaded.preprocessing,
        num_classes=model.num_classes,
        label_smoothing=0.0,
        ema_decay=None,
        seed=0,
        mesh=mesh,
    )
    variables = {'params': {}, 'batch_stats': {}} | jax.tree.map(jnp.copy, dict(loaded.variables))
    opt_state = OPTIMIZER.init(variables['params'])
    state = TrainState(jnp.zeros((), jnp.int32), **variables, opt_state=opt_state, ema=None)
    return step, replicate(state, mesh), shard_batch(batch, mesh)


def random_batch(loaded: LoadedModel, size: int) -> dict[str, np.ndarray]:
    """Images and labels drawn evenly, as `rehearse` takes them: `size` of them, as large as the model's."""
    side, rng, model = loaded.preprocessing.image_size, np.random.default_rng(0), loaded.model
    shape = (size, side, side, loaded.preprocessing.channels)
    classes: Any = getattr(model, 'num_classes', None) or 1
    return {'image': rng.integers(0, 256, shape, np.uint8), 'label': rng.integers(0, classes, size, np.int32)}


def repeated(step: Step, state: TrainState, batch: Any) -> Callable[[], Metrics]:
    """A call that takes one more step on the same batch, and waits for it."""

    def call() -> Metrics:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, batch))
        return metrics

    return call
