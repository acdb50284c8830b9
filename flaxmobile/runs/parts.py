"""A configuration comes apart into what a run is made of: its task, and what makes its steps."""

from typing import Any

import jax
from jax.sharding import Mesh

from flaxmobile.analysis.counts import count_layers
from flaxmobile.models.network import variable_shapes
from flaxmobile.quantization import float_network
from flaxmobile.tasks.classification import Classification
from flaxmobile.tasks.distillation import Distillation
from flaxmobile.tasks.task import Task
from flaxmobile.training.checks import warn_of_single_values
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.freezing import frozen_parameters, trained
from flaxmobile.training.optimizer import make_optimizer
from flaxmobile.training.step import Learner


def kind_of_task(config: TrainConfig) -> type[Task]:
    """The class of the task of a configuration, which says what is measured; there is one so far."""
    return Classification


def make_task(config: TrainConfig, classes: tuple[str, ...], teacher: Distillation | None = None) -> Task:
    """The task of a configuration, for classes in the order of the network's outputs."""
    return Classification(classes, config.preprocessing, config.label_smoothing, config.mixing, teacher)


def make_learner(config: TrainConfig, task: Task, steps_per_epoch: int, mesh: Mesh) -> Learner:
    """What the steps of a configuration are made of; warns of a BatchNorm that would see single values.

    Raises:
        ValueError: the configuration does not fit its network.
    """
    model, preprocessing = config.build_model(len(task.classes)), config.preprocessing
    shapes = variable_shapes(model, preprocessing.channels)
    frozen = frozen_parameters(shapes['params'], config.freeze, task.label_layers)
    size = config.augmentation.training_size(preprocessing)
    warn_of_single_values(model, shapes, frozen, (config.batch_size, size, size, preprocessing.channels))
    optimizer = make_optimizer(config.optimizer_plan, steps_per_epoch, tuple(shapes['params']))
    return Learner(model, optimizer, task, mesh, config.seed, config.ema_decay, frozen)


def describe_size(learner: Learner, params: Any) -> str:
    """Parameters and multiply-adds of a network, in words."""
    preprocessing = learner.task.preprocessing
    count, training = (
        sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, trained(params, learner.frozen))
    )
    network: Any = float_network(learner.model)
    rows = count_layers(network, preprocessing.image_size, preprocessing.channels)
    return (
        f'{count:,} parameters'
        + (f', {training:,} of them trained' if learner.frozen else '')
        + f', {sum(row.multiply_adds for row in rows):,} multiply-adds'
    )
