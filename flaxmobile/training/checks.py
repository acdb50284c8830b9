"""What is known before the first step to be wrong with a run: no update, a rate of 0, BatchNorm over single values."""

import warnings
from collections.abc import Sized
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxmobile.layers.normalization import SingleValues
from flaxmobile.messages import listing
from flaxmobile.parallel.mesh import check_batch_size
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.freezing import Paths, on_running_statistics
from flaxmobile.training.optimizer import learning_rate_schedule
from flaxmobile.training.state import model_state


def steps_per_epoch(config: TrainConfig, images: Sized) -> int:
    """The batches that come nearest to one pass over the training images; batches reach from one epoch into the next.

    Raises:
        ValueError: the devices cannot share a batch evenly; a run so long would change no parameter.
    """
    check_batch_size(config.batch_size, jax.device_count())
    steps = max(1, round(len(images) / config.batch_size))
    total = config.total_steps(steps)
    length = f'epochs ({config.epochs:g}) of {steps:,} steps (batch_size {config.batch_size:,}) are {total:,} steps'
    if total < config.accumulation_steps:
        raise ValueError(
            f'the run would make no update: {length}, and an update takes accumulation_steps '
            f'({config.accumulation_steps:,}). More epochs, a smaller batch_size or fewer accumulation_steps make one'
        )
    # Of all schedules only the warm-up rises, and its first rate is above 0: a rate of 0 here is 0 at every update.
    if not float(learning_rate_schedule(config, steps)(0)) > 0:
        raise ValueError(
            f'the run would change no parameter: {length}, {total // config.accumulation_steps:,} updates, and the '
            f'learning rate is 0 at each of them (learning_rate {config.learning_rate:g}, schedule {config.schedule}, '
            f'warmup_epochs {config.warmup_epochs:g}). More epochs, fewer warmup_epochs or a higher rate change that'
        )
    return steps


def without_update(config: TrainConfig, total_steps: int) -> str:
    """Which steps at the end lead to no update, in words; empty where there are none."""
    left = total_steps % config.accumulation_steps
    if not left:
        return ''
    last = 'the last step leads' if left == 1 else f'the last {left:,} steps lead'
    return f'{last} to no update: {total_steps:,} is no multiple of accumulation_steps ({config.accumulation_steps:,})'


def warn_of_single_values(config: TrainConfig, model: nn.Module, variables: Any, frozen: Paths) -> None:
    """Warn where a BatchNorm would be trained on one value per channel, which batches of one image may come to.

    Args:
        config: all that decides the run.
        model: its network.
        variables: the network's, or their shapes.
        frozen: the parameters that are not trained.
    """
    if config.batch_size > 1:
        return
    size = config.augmentation.training_size(config.preprocessing)
    state = model_state(variables)
    images = jax.ShapeDtypeStruct((1, size, size, config.preprocessing.channels), jnp.float32)

    def forward(variables: Any, images: jax.Array) -> Any:
        return model.apply(
            variables, images, train=True, mutable=list(state), rngs={'dropout': jax.random.key(config.seed)}
        )

    still = on_running_statistics(variables['params'], state, frozen)
    with warnings.catch_warnings(record=True) as caught, still:
        warnings.simplefilter('always')
        jax.eval_shape(forward, variables, images)
    if layers := [warning.message.layer for warning in caught if isinstance(warning.message, SingleValues)]:
        warnings.warn(
            f'batch_size is 1, and in training BatchNorm sees one value per channel in {listing(layers)}: its output '
            'is its bias whatever the image, and nothing before it learns. Take a batch_size of 2 or more '
            "(accumulation_steps do not help), larger images, or freeze it (freeze '*/norm')",
            stacklevel=2,
        )
