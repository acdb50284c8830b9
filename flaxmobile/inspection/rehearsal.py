"""A training step without a run, to be timed or inspected."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flaxmobile.models.network import variable_shapes
from flaxmobile.parallel.mesh import check_batch_size, make_mesh, replicate, shard_batch
from flaxmobile.runs.parts import make_learner, make_task
from flaxmobile.tasks.classification import Classification
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.state import TrainState, start_state
from flaxmobile.training.step import Metrics, Step, make_train_step
from flaxmobile.weights import Model

OPTIMIZER = optax.sgd(0.01, momentum=0.9)

Batch = dict[str, jax.ShapeDtypeStruct]
STEPS_PER_EPOCH = 1000
"""For the schedule of a step without a run; only constants of the program depend on it."""


def rehearse(model: Model, batch: Mapping[str, np.ndarray]) -> tuple[Step, TrainState, dict[str, jax.Array]]:
    """The training step of `flaxmobile train` with SGD of momentum 0.9 on the default device, its state and its batch.

    Args:
        model: the model; its variables are copied, since a step consumes its state.
        batch: `image` uint8 `[batch, height, width, channels]`, `label` int32 `[batch]`.

    Raises:
        ValueError: the model has no classifier.
    """
    if not model.num_classes:
        raise ValueError('this model has no classifier (num_classes=0), so it has no loss to lower')
    mesh, classes = make_mesh(jax.devices()[:1]), tuple(map(str, range(model.num_classes)))
    step = make_train_step(model.module, OPTIMIZER, Classification(classes, model.preprocessing), seed=0, mesh=mesh)
    state = start_state(jax.tree.map(jnp.copy, dict(model.variables)), OPTIMIZER, ema_decay=None)
    return step, replicate(state, mesh), shard_batch(batch, mesh)


def planned_step(config: TrainConfig, num_classes: int, devices: Sequence[jax.Device]) -> tuple[Any, TrainState, Batch]:
    """The step that `flaxmobile train` compiles for `config` on `devices`, and the shapes of its state and its batch.

    Nothing is computed, so the devices need not be there: `step.lower(state, batch)` takes shapes.

    Raises:
        ValueError: the devices cannot share a batch evenly; the configuration does not fit its network, or names a
            teacher, whose network is not known here.
    """
    if config.teacher is not None:
        raise ValueError(f'the part of the teacher {config.teacher} is not known here: teacher=None leaves it out')
    check_batch_size(config.batch_size, len(devices))
    # Not `make_mesh`: JAX orders real chips, and refuses the two cores of one that a topology of v4 has.
    mesh = Mesh(np.array(devices), ('data',), axis_types=(AxisType.Auto,))
    task = make_task(config, tuple(map(str, range(num_classes))))
    learner = make_learner(config, task, STEPS_PER_EPOCH, mesh)
    variables = variable_shapes(learner.model, config.preprocessing.channels)
    state = jax.eval_shape(
        lambda variables: start_state(variables, learner.optimizer, learner.ema_decay, learner.frozen), variables
    )
    size = config.augmentation.training_size(config.preprocessing)
    shape = (config.batch_size, size, size, config.preprocessing.channels)
    images = {
        'image': jax.ShapeDtypeStruct(shape, jnp.uint8),
        'label': jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }
    return learner.train_step(), placed(state, mesh, PartitionSpec()), placed(images, mesh, PartitionSpec('data'))


def placed(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Shapes of arrays that lie on a mesh."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)


def random_batch(model: Model, size: int) -> dict[str, np.ndarray]:
    """Images and labels drawn evenly, as `rehearse` takes them: `size` of them, as large as the model's."""
    side, rng = model.preprocessing.image_size, np.random.default_rng(0)
    shape, classes = (size, side, side, model.preprocessing.channels), max(1, model.num_classes)
    return {'image': rng.integers(0, 256, shape, np.uint8), 'label': rng.integers(0, classes, size, np.int32)}


def repeated(step: Callable[..., Any], state: TrainState, batch: Any) -> Callable[[], Metrics]:
    """A call that takes one more step on the same batch, and waits for it."""

    def call() -> Metrics:
        nonlocal state
        state, metrics = jax.block_until_ready(step(state, batch))
        return metrics

    return call
