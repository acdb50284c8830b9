"""The loop that takes steps: batches in; metrics, validations and checkpoints out."""

import dataclasses
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, NoReturn

import jax
import optax

from flaxmobile.data import Augmentation, Dataset
from flaxmobile.layers.normalization import SingleValues
from flaxmobile.messages import printable
from flaxmobile.parallel.mesh import replicate, shard_batch
from flaxmobile.parallel.processes import asked
from flaxmobile.tasks.evaluation import EvaluationStep, evaluate
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.compiled import compile_step
from flaxmobile.training.interruption import signals, stop
from flaxmobile.training.metrics import Display, MetricsLog, Window
from flaxmobile.training.plans import Timetable
from flaxmobile.training.skipping import Taken, Watch, not_finite, write_batch
from flaxmobile.training.state import TrainState
from flaxmobile.training.step import Learner

Batch = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Any]]


@dataclasses.dataclass(frozen=True)
class TrainingImages:
    """The images of a training, and how they are read.

    Attributes:
        train: to learn from.
        validation: held out, which choose the best checkpoint.
        batch_size: images a step, over all devices together.
        augmentation: how training images are varied.
        workers: processes that read and augment; 0: threads of this process.
    """

    train: Dataset
    validation: Dataset
    batch_size: int
    augmentation: Augmentation
    workers: int = 0


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training needs, but for its state, which each step replaces, and for what it writes to.

    Attributes:
        learner: the network, and what makes its steps.
        images: what it learns from.
        timetable: when it does what.
        learning_rate: at each step, for the records.
        max_skipped_updates: updates in a row that may be skipped.
        evaluation_step: what `make_evaluation_step` gave.
    """

    learner: Learner
    images: TrainingImages
    timetable: Timetable
    learning_rate: optax.Schedule
    max_skipped_updates: int
    evaluation_step: EvaluationStep


@dataclasses.dataclass(frozen=True)
class Session(Training):
    """What stays the same from the first step of a training to the last."""

    checkpoints: Checkpoints
    log: MetricsLog
    display: Display


def fit(session: Session, state: TrainState, step: int) -> None:
    """Take the steps from `step` to the last, with metrics, validation and checkpoints when they are due.

    Raises:
        FloatingPointError: too many updates were skipped in a row, or all.
        TrainingStopped: a signal came.
    """
    timetable = session.timetable
    if step and timetable.validates(step) and session.checkpoints.value(step) is None:
        validate(session, state, step)  # The run was stopped before it had.
    if step < timetable.total:
        with closing(placed_batches(session.images, session.learner, step)) as batches:
            batch = next(batches)
            train_step = compiled_step(session, state, batch)
            state = take_steps(session, train_step, state, step, batch, batches)
    if not int(state.updates):
        raise FloatingPointError(
            f'no update was made in {timetable.total:,} steps: the loss, the gradient or the update was not finite '
            f'in {int(state.skipped_updates):,} of them, so that the network is what the run began with. Look whether '
            'the images are sound; if they are, try a lower learning rate or another start'
        )


def take_steps(
    session: Session, train_step: TrainStep, state: TrainState, step: int, batch: Batch, batches: Iterator[Batch]
) -> TrainState:
    """The state after all steps from `step` on, the first with `batch`; a signal now waits for a checkpoint."""
    timetable, checkpoints = session.timetable, session.checkpoints
    window = Window(session.images.batch_size, checkpoints.window(step))
    watch = Watch(session.max_skipped_updates)
    with signals() as received:
        while step < timetable.total:
            state, metrics = train_step(state, batch)
            step += 1
            taken = Taken(step, batch, metrics)
            if step < timetable.total:
                batch = next(batches)  # Read and placed while the step runs.
            window.add(metrics)
            number = asked(received, step)
            saved = timetable.saves(step) or number is not None
            recorded = timetable.logs(step)  # What a stop cuts short, the next process completes.
            if broken := watch.add(taken) or (watch.catch_up() if saved or recorded else None):
                give_up(session, broken)
            if recorded:
                record(session, step, window.close())
            if saved:
                checkpoints.save(step, state, None if recorded else window.sums())
                if number is not None:
                    stop(checkpoints, step, number)
                if timetable.validates(step):
                    validate(session, state, step, received)
                window.restart()
        if received and jax.process_count() == 1:
            stop(checkpoints, step, received[0])
    return state


def compiled_step(session: Session, state: TrainState, batch: Batch) -> TrainStep:
    """The training step, compiled for such a state and batch, with the task's variables in its hand."""
    learner = session.learner
    variables = () if learner.task.variables is None else (replicate(learner.task.variables, learner.mesh),)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', SingleValues)  # They were told, all at once.
        compiled = compile_step(learner.train_step(), state, batch, *variables)
    return lambda state, batch: compiled(state, batch, *variables)


def placed_batches(images: TrainingImages, learner: Learner, start: int) -> Generator[Batch]:
    """Training batches from step `start` on, on the mesh."""
    batches = images.train.train_batches(
        images.batch_size // jax.process_count(),
        learner.task.preprocessing,
        images.augmentation,
        seed=learner.seed,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=images.workers,
    )
    with closing(batches):
        for batch in batches:
            yield shard_batch(batch, learner.mesh)


def record(session: Session, step: int, metrics: dict[str, float]) -> None:
    """Write and show the training metrics of the last steps, and whether the last checkpoint could be written."""
    session.checkpoints.check()
    if 'loss' not in metrics:
        session.display.say(
            f'step {step}: no update was applied lately, as the loss, the gradient or the update was not finite'
        )
        return
    metrics['learning_rate'] = float(session.learning_rate(step - 1 - metrics['skipped_updates']))
    epoch = session.timetable.epoch(step)
    session.log.write('train', step, epoch, metrics)
    session.display.training(step, epoch, metrics)


def validate(session: Session, state: TrainState, step: int, received: Sequence[int] = ()) -> None:
    """Write and show how well the variables that will be used do on the validation images.

    Where there is one process, a signal in `received` stops the run before the next batch.
    """
    task, images, epoch = session.learner.task, session.images, session.timetable.epoch(step)

    def stoppable(variables: Any, batch: Any) -> Any:
        session.checkpoints.check()
        if received and jax.process_count() == 1:
            stop(session.checkpoints, step, received[0])
        return session.evaluation_step(variables, batch)

    mesh, variables = session.learner.mesh, state.evaluation_variables
    metrics = evaluate(task, stoppable, variables, images.validation, images.batch_size, mesh).metrics
    session.checkpoints.wait()  # What is recorded as validated is there.
    session.log.write('validation', step, epoch, metrics)
    session.checkpoints.validated({step: metrics[task.best.measure.name]})
    session.display.validation(epoch, metrics, session.checkpoints.best == step)


def give_up(session: Session, broken: Taken) -> NoReturn:
    """Write the batch of the last of too many skipped updates in a row, and raise FloatingPointError."""
    path = write_batch(session.checkpoints.folder.parent, broken)
    last, row = session.checkpoints.last, int(broken.metrics['skipped_in_a_row'])
    kept = 'there is no checkpoint yet' if last is None else f'the checkpoint of step {last} is good'
    raise FloatingPointError(
        f'{row} steps in a row made no update. At the last of them, step {broken.step}, {not_finite(broken)}; the '
        f'parameters are what they were before, and {kept}. The batch of step {broken.step} is in '
        f'{printable(path, None)}. Look whether its images are sound; if they are, try a lower learning rate, a longer '
        'warm-up or clip_gradient_norm'
    )
