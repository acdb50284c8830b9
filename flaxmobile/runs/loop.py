"""The training loop: data in; metrics, checkpoints and a report out."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import jax
import optax
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from flaxmobile.layers.normalization import SingleValues
from flaxmobile.messages import printable
from flaxmobile.models.network import variable_shapes
from flaxmobile.parallel.mesh import make_mesh, replicate, shard_batch
from flaxmobile.parallel.processes import asked, check_alike, checksum, from_first
from flaxmobile.runs import folder as run
from flaxmobile.runs.held_out import finish, probe_features, validate
from flaxmobile.runs.session import Session, Setup, stop
from flaxmobile.runs.splits import fingerprints, load_splits
from flaxmobile.runs.start import load_init
from flaxmobile.runs.teacher import load_teacher
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.checks import steps_per_epoch, warn_of_single_values, without_update
from flaxmobile.training.compiled import compile_step
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.finetuning import start_from
from flaxmobile.training.freezing import Paths, frozen_parameters, trained
from flaxmobile.training.interruption import signals
from flaxmobile.training.metrics import Display, MetricsLog, Window
from flaxmobile.training.optimizer import learning_rate_schedule, make_optimizer
from flaxmobile.training.skipping import Taken, Watch, not_finite, write_batch
from flaxmobile.training.state import TrainState, create_state
from flaxmobile.training.step import configured_step, make_evaluation_step

Batch = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Any]]

SHARED_WITHIN = 60
"""Seconds after which a file written on one host is to be seen on the others: network file systems take their time."""


def train(
    config: TrainConfig,
    run_dir: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    command: str = '',
    multiply_adds: Callable[[Any], int] | None = None,
) -> Path:
    """Train as `config` says; write checkpoints, metrics and a report to `run_dir`, which is returned.

    The validation images choose the best checkpoint; the test images are read once, at the end, with that one. SIGINT
    and SIGTERM save a checkpoint before they stop the run.

    Args:
        config: all that decides the run.
        run_dir: the folder to write.
        resume: go on from the last checkpoint in `run_dir`, to the very parameters of a run that was never stopped.
        overwrite: remove the run that `run_dir` holds, once all else is known to be right.
        command: what to type for the same run, for the report.
        multiply_adds: counts those of a network for one image, for the report.

    Raises:
        FileExistsError: `run_dir` holds a run, and neither `resume` nor `overwrite` is set.
        FloatingPointError: loss, gradient or update were not finite in too many steps in a row, and the batch of the
            last of them was written to `run_dir/skipped_batch.npz`; the last checkpoint is good.
        BlockingIOError: another run is writing to `run_dir`.
        TrainingStopped: a signal came.
        ValueError: the configuration, the data or the run does not fit; nothing was written.
    """
    run_dir = Path(run_dir)
    if first := jax.process_index() == 0:
        run.check_lock(run_dir)
    run.check_folder(run_dir, config, resume=resume, overwrite=overwrite)
    setup, state = prepare(config, run_dir, resume=resume, overwrite=overwrite)
    size = describe_size(setup.model, state.params, setup.frozen, multiply_adds)
    description = setup.description
    with run.locked(run_dir) if first else nullcontext():
        prepare_folder(run_dir, description, resume=resume, overwrite=overwrite)
        with closing(Checkpoints(run_dir, config.keep_checkpoints, description=description.as_dict())) as checkpoints:
            if resume:
                known_accuracies = list(run.validation_accuracies(run_dir).items()) if first else None
                checkpoints.validated(dict(from_first(known_accuracies)))
            state, step = last_state(checkpoints, state)
            total_steps = config.total_steps(setup.steps_per_epoch)
            with (
                closing(MetricsLog(run_dir if first else None, -1 if checkpoints.last is None else step)) as log,
                Display(total_steps, config.epochs, start_step=step, silent=not first) as display,
            ):
                session = Session(**vars(setup), checkpoints=checkpoints, log=log, display=display)
                display.say(introduction(session, size, step))
                if config.linear_probe and setup.init is not None:
                    probe_features(session, state)
                fit(session, state, step)
            if not (resume and from_first(all((run_dir / name).exists() for name in ('results.json', 'report.md')))):
                finish(session, run_dir, size=size, command=command)
    return run_dir


def prepare(config: TrainConfig, run_dir: Path, *, resume: bool, overwrite: bool) -> tuple[Setup, TrainState]:
    """Load and check all that a run needs, and write nothing; the state is the one before the first step.

    Raises:
        ValueError: the configuration, the data or the run does not fit.
    """
    before = run.read_description(run_dir) if resume else None
    config = before.meaning(config) if before else config
    data = load_splits(config, before.classes if before else ())
    steps, classes = steps_per_epoch(config, data.train), data.train.classes
    teacher = load_teacher(config, classes)
    known = None if teacher is None else checksum(teacher[1])
    description = run.RunDescription(config, classes, fingerprints(data), known)
    if resume:
        description = run.check_data(run_dir, description)
    model, mesh = config.build_model(len(classes)), make_mesh()
    shapes = variable_shapes(model, config.preprocessing.channels)
    params = shapes['params']
    frozen, optimizer = frozen_parameters(params, config.freeze), make_optimizer(config, steps, tuple(params))
    warn_of_single_values(config, model, shapes, frozen)
    # A checkpoint holds all: what the run started from may be gone by then.
    init = config.init if not resume or run.last_checkpoint(run_dir) is None else None
    state = initial_state(config, model, optimizer, frozen, classes, mesh, init)
    check_alike(
        configuration=dataclasses.replace(config, data_dir=None),
        what_to_do=(resume, overwrite),
        images=[(len(part), part.classes) for part in data],
        weights_to_start_from=checksum(state) if jax.process_count() > 1 else None,
        teacher=known,
    )
    setup = Setup(
        config,
        description,
        data,
        model,
        optimizer,
        frozen,
        mesh,
        steps,
        make_evaluation_step(model, config.preprocessing, mesh),
        teacher,
        init,
    )
    return setup, state


def initial_state(
    config: TrainConfig,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    frozen: Paths,
    classes: tuple[str, ...],
    mesh: Mesh,
    init: str | None,
) -> TrainState:
    """The state before the first step, with the weights that `init` names, on every device of the mesh."""
    side, channels = config.preprocessing.image_size, config.preprocessing.channels
    shape = (1, side, side, channels)
    state = create_state(model, optimizer, jax.random.key(config.seed), shape, config.ema_decay, frozen)
    if init is not None:
        state = start_from(state, load_init(init, config, model), classes)
    return replicate(state, mesh)


def prepare_folder(run_dir: Path, description: run.RunDescription, *, resume: bool, overwrite: bool) -> None:
    """Clear the folder of a new run of what an earlier one left; a resumed run keeps its own.

    Raises:
        FileExistsError: another run was written there since it was checked.
        TypeError: the description holds a value that is not fit for JSON; nothing was removed.
    """
    if jax.process_index() == 0:
        description.as_text()
        run.check_folder(run_dir, description.config, resume=resume, overwrite=overwrite)
        if not resume:
            run.clear_folder(run_dir)
        if not resume or run.read_description(run_dir) != description:  # Its images may lie elsewhere now.
            description.write(run_dir)
    multihost_utils.sync_global_devices('run folder')
    deadline = time.monotonic() + SHARED_WITHIN
    while not (run_dir / 'run.json').exists():
        if time.monotonic() > deadline:
            raise FileNotFoundError(
                f'{run_dir} is not the folder that process 0 writes: all hosts have to share the storage it lies on'
            )
        time.sleep(0.1)


def last_state(checkpoints: Checkpoints, state: TrainState) -> tuple[TrainState, int]:
    """The state of the last good checkpoint, or the one given where there is no checkpoint, and its step.

    Raises:
        ValueError: all checkpoints are damaged.
    """
    if checkpoints.last is not None:
        state = checkpoints.restore_latest(state)
    elif checkpoints.damaged:
        raise ValueError(f'{checkpoints.tell_damage()}. overwrite=True removes the run and starts again')
    return state, int(state.step)


def describe_size(model: nn.Module, params: Any, frozen: Paths, multiply_adds: Callable[[Any], int] | None) -> str:
    """Parameters, and where they are known multiply-adds, in words."""
    count, training = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, trained(params, frozen)))
    return (
        f'{count:,} parameters'
        + (f', {training:,} of them trained' if frozen else '')
        + (f', {multiply_adds(model):,} multiply-adds' if multiply_adds else '')
    )


def introduction(session: Session, size: str, step: int) -> str:
    """What is about to run, after what is wrong with the checkpoints."""
    config, images, devices = session.config, session.data.train, jax.devices()
    damage, idle = session.checkpoints.tell_damage(), without_update(config, session.total_steps)
    together = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
    words = (
        f'{config.model} ({size}) on {images.name} ({len(images):,} images, {len(images.classes)} classes)\n'
        f'from step {step} to {session.total_steps}, {config.batch_size} images each, on {len(devices)} '
        f'{devices[0].platform} device{"s" if len(devices) > 1 else ""}{together}; '
        'the first step takes a while to compile'
    )
    return '\n'.join(part for part in (damage, words, idle) if part)


def fit(session: Session, state: TrainState, step: int) -> None:
    """Take the steps from `step` to the last, with metrics, validation and checkpoints when they are due.

    Raises:
        FloatingPointError: too many updates were skipped in a row, or all.
    """
    if step and session.validates(step) and session.checkpoints.accuracy(step) is None:
        validate(session, state, step)  # The run was stopped before it had.
    if step < session.total_steps:
        with closing(placed_batches(session, step)) as batches:
            batch = next(batches)
            train_step = compiled_step(session, state, batch)
            state = take_steps(session, train_step, state, step, batch, batches)
    if not int(state.updates):
        raise FloatingPointError(
            f'no update was made in {session.total_steps:,} steps: the loss, the gradient or the update was not finite '
            f'in {int(state.skipped_updates):,} of them, so that the network is what the run began with. Look whether '
            'the images are sound; if they are, try a lower learning rate or another start'
        )


def take_steps(
    session: Session, train_step: TrainStep, state: TrainState, step: int, batch: Batch, batches: Iterator[Batch]
) -> TrainState:
    """The state after all steps from `step` on, the first with `batch`; a signal now waits for a checkpoint."""
    config, total = session.config, session.total_steps
    window = Window(config.batch_size, session.checkpoints.window(step))
    watch = Watch(config.max_skipped_updates)
    checkpoint_every = session.steps(config.checkpoint_every)
    learning_rate = learning_rate_schedule(config, session.steps_per_epoch)
    with signals() as received:
        while step < total:
            state, metrics = train_step(state, batch)
            step += 1
            taken = Taken(step, batch, metrics)
            if step < total:
                batch = next(batches)  # Read and placed while the step runs.
            window.add(metrics)
            number = asked(received, step)
            due = session.validates(step)
            planned = due or step % checkpoint_every == 0
            saved = planned or number is not None
            recorded = planned or step % config.log_every == 0  # What a stop cuts short, the next process completes.
            if broken := watch.add(taken) or (watch.catch_up() if saved or recorded else None):
                give_up(session, broken)
            if recorded:
                record(session, step, window.close(), learning_rate)
            if saved:
                session.checkpoints.save(step, state, None if recorded else window.sums())
                if number is not None:
                    stop(session, step, number)
                if due:
                    validate(session, state, step, received)
                window.restart()
        if received and jax.process_count() == 1:
            stop(session, step, received[0])
    return state


def compiled_step(session: Session, state: TrainState, batch: Batch) -> TrainStep:
    """The training step, compiled for such a state and batch, with what the teacher knows in its hand."""
    config, classes = session.config, len(session.data.train.classes)
    distillation, *teacher = session.teacher or (None,)
    teacher = replicate(teacher, session.mesh)
    step = configured_step(
        config, session.model, session.optimizer, session.frozen, classes, session.mesh, distillation
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', SingleValues)  # They were told, all at once.
        compiled = compile_step(step, state, batch, *teacher)
    return lambda state, batch: compiled(state, batch, *teacher)


def placed_batches(session: Session, start: int) -> Generator[Batch]:
    """Training batches from step `start` on, on the mesh."""
    config = session.config
    batches = session.data.train.train_batches(
        config.batch_size // jax.process_count(),
        config.preprocessing,
        config.augmentation,
        seed=config.seed,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=config.workers,
    )
    with closing(batches):
        for batch in batches:
            yield shard_batch(batch, session.mesh)


def record(session: Session, step: int, metrics: dict[str, float], learning_rate: optax.Schedule) -> None:
    """Write and show the training metrics of the last steps, and whether the last checkpoint could be written."""
    session.checkpoints.check()
    if 'loss' not in metrics:
        session.display.say(
            f'step {step}: no update was applied lately, as the loss, the gradient or the update was not finite'
        )
        return
    metrics['learning_rate'] = float(learning_rate(step - 1 - metrics['skipped_updates']))
    session.log.write('train', step, session.epoch(step), metrics)
    session.display.training(step, session.epoch(step), metrics)


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
