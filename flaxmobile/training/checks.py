"""What is known before the first step to be wrong with a run: no update, a rate of 0, BatchNorm over single values."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxmobile.layers.normalization import SingleValues
from flaxmobile.messages import listing
from flaxmobile.parallel.mesh import check_batch_size
from flaxmobile.training.freezing import Paths, on_running_statistics
from flaxmobile.training.optimizer import learning_rate_schedule
from flaxmobile.training.plans import OptimizerPlan
from flaxmobile.training.state import model_state


def steps_per_epoch(plan: OptimizerPlan, batch_size: int, images: int) -> int:
    """The batches that come nearest to one pass over the training images; batches reach from one epoch into the next.

    Args:
        plan: how the parameters are changed, and for how long.
        batch_size: images a step, over all devices together.
        images: to train on.

    Raises:
        ValueError: the devices cannot share a batch evenly; a run so long would change no parameter.
    """
    check_batch_size(batch_size, jax.device_count())
    steps = max(1, round(images / batch_size))
    total = plan.total_steps(steps)
    length = f'epochs ({plan.epochs:g}) of {steps:,} steps (batch_size {batch_size:,}) are {total:,} steps'
    if total < plan.accumulation_steps:
        raise ValueError(
            f'the run would make no update: {length}, and an update takes accumulation_steps '
            f'({plan.accumulation_steps:,}). More epochs, a smaller batch_size or fewer accumulation_steps make one'
        )
    # Of all schedules only the warm-up rises, and its first rate is above 0: a rate of 0 here is 0 at every update.
    if not float(learning_rate_schedule(plan, steps)(0)) > 0:
        raise ValueError(
            f'the run would change no parameter: {length}, {total // plan.accumulation_steps:,} updates, and the '
            f'learning rate is 0 at each of them (learning_rate {plan.learning_rate:g}, schedule {plan.schedule}, '
            f'warmup_epochs {plan.warmup_epochs:g}). More epochs, fewer warmup_epochs or a higher rate change that'
        )
    return steps


def without_update(accumulation_steps: int, total_steps: int) -> str:
    """Which steps at the end lead to no update, in words; empty where there are none."""
    left = total_steps % accumulation_steps
    if not left:
        return ''
    last = 'the last step leads' if left == 1 else f'the last {left:,} steps lead'
    return f'{last} to no update: {total_steps:,} is no multiple of accumulation_steps ({accumulation_steps:,})'


def warn_of_single_values(model: nn.Module, variables: Any, frozen: Paths, shape: tuple[int, int, int, int]) -> None:
    """Warn where a BatchNorm would be trained on one value per channel, which batches of one image may come to.

    Args:
        model: the network.
        variables: its own, or their shapes.
        frozen: the parameters that are not trained.
        shape: of a training batch, `[batch, height, width, channels]`.
    """
    if shape[0] > 1:
        return
    state = model_state(variables)

    def forward(variables: Any, images: jax.Array) -> Any:
        return model.apply(variables, images, train=True, mutable=list(state), rngs={'dropout': jax.random.key(0)})

    still = on_running_statistics(variables['params'], state, frozen)
    with warnings.catch_warnings(record=True) as caught, still:
        warnings.simplefilter('always')
        jax.eval_shape(forward, variables, jax.ShapeDtypeStruct(shape, jnp.float32))
    if layers := [warning.message.layer for warning in caught if isinstance(warning.message, SingleValues)]:
        warnings.warn(
            f'batch_size is 1, and in training BatchNorm sees one value per channel in {listing(layers)}: its output '
            'is its bias whatever the image, and nothing before it learns. Take a batch_size of 2 or more '
            "(accumulation_steps do not help), larger images, or freeze it (freeze '*/norm')",
            stacklevel=2,
        )
