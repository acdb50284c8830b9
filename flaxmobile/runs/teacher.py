"""The frozen network that a run learns from."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from flaxmobile.runs.start import load_init
from flaxmobile.tasks.distillation import Distillation
from flaxmobile.training.config import TrainConfig
from flaxmobile.weights.class_names import label_positions


def load_teacher(config: TrainConfig, classes: Sequence[str]) -> tuple[Distillation, Any] | None:
    """The teacher that a config names, and its variables; None where it names none.

    It computes in bfloat16 where the student does. Of a teacher that knows other classes too, they are left
    out.

    Raises:
        OSError: there is no such run or file, or the weights cannot be fetched.
        ValueError: nothing has that name; it is damaged; it does not know all `classes` by name; it takes grey images
            where the student takes colour, or the other way round.
    """
    if config.teacher is None:
        return None
    teacher = load_init(config.teacher, config)
    model, preprocessing = teacher.module, teacher.preprocessing
    if preprocessing.channels != config.preprocessing.channels:
        raise ValueError(
            f'teacher: {config.teacher} sees images of {preprocessing.channels} channels, and channels is '
            f'{config.preprocessing.channels}: take a teacher for such images'
        )
    try:
        columns = tuple(label_positions(classes, teacher.labels).tolist())
    except ValueError as error:
        raise ValueError(f'teacher: {config.teacher}: {error}') from None
    if config.dtype != 'float32':
        model = model.clone(dtype=jnp.dtype(config.dtype))
    distillation = Distillation(
        model,
        preprocessing,
        columns,
        config.preprocessing,
        config.distillation_weight,
        config.distillation_temperature,
    )
    return distillation, teacher.variables
