"""The frozen network that a run learns from."""

from collections.abc import Sequence

import jax.numpy as jnp

from flaxmobile.data import Preprocessing
from flaxmobile.runs.start import load_init
from flaxmobile.tasks.distillation import Distillation
from flaxmobile.training.plans import StartPlan, TeacherPlan
from flaxmobile.weights.class_names import label_positions


def load_teacher(
    plan: TeacherPlan, start: StartPlan, classes: Sequence[str], seen: Preprocessing
) -> Distillation | None:
    """The teacher that a plan names; None where it names none.

    It computes in bfloat16 where the student does. Of a teacher that knows other classes too, they are left
    out.

    Args:
        plan: which, and how much is learnt from it.
        start: the network that a file of another format than ours holds.
        classes: the student's.
        seen: the student's preprocessing.

    Raises:
        OSError: there is no such run or file, or the weights cannot be fetched.
        ValueError: nothing has that name; it is damaged; it does not know all `classes` by name; it takes grey images
            where the student takes colour, or the other way round.
    """
    if plan.teacher is None:
        return None
    teacher = load_init(plan.teacher, start)
    model, preprocessing = teacher.module, teacher.preprocessing
    if preprocessing.channels != seen.channels:
        raise ValueError(
            f'teacher: {plan.teacher} sees images of {preprocessing.channels} channels, and channels is '
            f'{seen.channels}: take a teacher for such images'
        )
    try:
        columns = tuple(label_positions(classes, teacher.labels).tolist())
    except ValueError as error:
        raise ValueError(f'teacher: {plan.teacher}: {error}') from None
    if plan.dtype != 'float32':
        model = model.clone(dtype=jnp.dtype(plan.dtype))
    return Distillation(
        model, teacher.variables, preprocessing, columns, seen, plan.distillation_weight, plan.distillation_temperature
    )
