"""`train`: a configuration becomes a run, with checkpoints, metrics and a report in its folder."""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxmobile.parallel.mesh import make_mesh, replicate
from flaxmobile.parallel.processes import check_alike, checksum, from_first
from flaxmobile.runs import folder as run
from flaxmobile.runs.held_out import finish, probe_features
from flaxmobile.runs.int8 import to_be_quantized
from flaxmobile.runs.parts import describe_size, make_learner, make_task
from flaxmobile.runs.report import RunFacts
from flaxmobile.runs.splits import Splits, fingerprints, load_splits
from flaxmobile.runs.start import load_init
from flaxmobile.runs.teacher import load_teacher
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.checks import steps_per_epoch, without_update
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.finetuning import start_from
from flaxmobile.training.loop import Session, Training, TrainingImages, fit
from flaxmobile.training.metrics import Display, MetricsLog
from flaxmobile.training.optimizer import learning_rate_schedule
from flaxmobile.training.state import TrainState, create_state
from flaxmobile.training.step import Learner, make_evaluation_step
from flaxmobile.weights import Model
from flaxmobile.weights.class_names import label_positions

SHARED_WITHIN = 60
"""Seconds after which a file written on one host is to be seen on the others: network file systems take their time."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run, loaded and checked before anything is written.

    Attributes:
        description: what `run.json` is to hold.
        data: its three parts.
        training: what takes its steps.
        keep: the newest checkpoints to keep, besides the best.
        probe: whether the features that it starts from are to be probed.
    """

    description: run.RunDescription
    data: Splits
    training: Training
    keep: int
    probe: bool


def train(
    config: TrainConfig,
    run_dir: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    command: str = '',
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

    Raises:
        FileExistsError: `run_dir` holds a run, and neither `resume` nor `overwrite` is set.
        FloatingPointError: loss, gradient or update were not finite in too many steps in a row, and the batch of the
            last of them was written to `run_dir/skipped_batch.npz`; the last checkpoint is good.
        BlockingIOError: another run is writing to `run_dir`.
        TrainingStopped: a signal came.
        ValueError: the configuration, the data or the run does not fit; nothing was written.
    """
    run_dir = Path(run_dir)
    first = jax.process_index() == 0
    if first:
        run.check_lock(run_dir)
    run.check_folder(run_dir, config, resume=resume, overwrite=overwrite)
    setup, state = prepare(config, run_dir, resume=resume, overwrite=overwrite)
    size = describe_size(setup.training.learner, state.params)
    with run.locked(run_dir) if first else nullcontext():
        prepare_folder(run_dir, setup.description, resume=resume, overwrite=overwrite)
        with opened(run_dir, setup, state, resume) as (session, state, step):
            session.display.say(introduction(session, setup.description.config.model, size, step))
            if setup.probe:
                probe_features(session, state)
            fit(session, state, step)
            if not (resume and from_first(all((run_dir / name).exists() for name in ('results.json', 'report.md')))):
                finish(session, run_dir, setup.description, setup.data, RunFacts(size, command))
    return run_dir


def prepare(config: TrainConfig, run_dir: Path, *, resume: bool, overwrite: bool) -> tuple[Setup, TrainState]:
    """Load and check all that a run needs, and write nothing; the state is the one before the first step.

    Here the configuration comes apart into what the steps take. Only what describes the run sees it later.

    Raises:
        ValueError: the configuration, the data or the run does not fit.
    """
    before = run.read_description(run_dir) if resume else None
    config = before.meaning(config) if before else config
    data = load_splits(config.data_plan, before.classes if before else ())
    steps = steps_per_epoch(config.optimizer_plan, config.batch_size, len(data.train))
    teacher = load_teacher(config.teacher_plan, config.start_plan, data.train.classes, config.preprocessing)
    known = None if teacher is None else checksum(teacher.variables)
    description = run.RunDescription(config, data.train.classes, fingerprints(data), known)
    if resume:
        description = run.check_data(run_dir, description)
    task, mesh = make_task(config, description.classes, teacher), make_mesh()
    learner = make_learner(config, task, steps, mesh)
    # A checkpoint holds all: what the run started from may be gone by then.
    init = config.init if not resume or run.last_checkpoint(run_dir) is None else None
    images = TrainingImages(data.train, data.validation, config.batch_size, config.augmentation, config.workers)
    loaded = None if init is None else load_init(init, config.start_plan, learner.model)
    if loaded is not None and config.quantization.qat:
        loaded = to_be_quantized(loaded, learner, images, config.quantization.calibration_images)
    state = initial_state(learner, loaded)
    check_alike(
        configuration=dataclasses.replace(config, data_dir=None),
        what_to_do=(resume, overwrite),
        images=[(len(part), part.classes) for part in data],
        weights_to_start_from=checksum(state) if jax.process_count() > 1 else None,
        teacher=known,
    )
    training = Training(
        learner,
        images,
        config.timetable(steps),
        learning_rate_schedule(config.optimizer_plan, steps),
        config.max_skipped_updates,
        make_evaluation_step(learner.model, task, mesh),
    )
    probe = config.linear_probe and init is not None
    return Setup(description, data, training, config.keep_checkpoints, probe), state


def initial_state(learner: Learner, loaded: Model | None) -> TrainState:
    """The state before the first step, with the weights that are loaded, on every device of the mesh."""
    task = learner.task
    shape = (1, task.preprocessing.image_size, task.preprocessing.image_size, task.preprocessing.channels)
    key = jax.random.key(learner.seed)
    state = create_state(learner.model, learner.optimizer, key, shape, learner.ema_decay, learner.frozen)
    if loaded is not None:
        columns = class_columns(loaded.labels, task.classes)
        state = start_from(state, loaded.variables, columns, task.label_layers)
    return replicate(state, learner.mesh)


def class_columns(known: tuple[str, ...] | None, classes: tuple[str, ...]) -> np.ndarray | None:
    """The number among those `known` of each class, int32 `[classes]`; None where one is not known by name."""
    try:
        return label_positions(classes, known)
    except ValueError:
        return None


@contextmanager
def opened(run_dir: Path, setup: Setup, state: TrainState, resume: bool) -> Iterator[tuple[Session, TrainState, int]]:
    """The session of a run with the folder's checkpoints, log and display, and the state and step to go on from."""
    training, first = setup.training, jax.process_index() == 0
    task, timetable = training.learner.task, training.timetable
    written = Checkpoints(run_dir, setup.keep, description=setup.description.as_dict(), highest=task.best.highest)
    with closing(written) as checkpoints:
        if resume:
            known = list(run.validation_values(run_dir, task).items()) if first else None
            checkpoints.validated(dict(from_first(known)))
        state, step = last_state(checkpoints, state)
        start = -1 if checkpoints.last is None else step
        with (
            closing(MetricsLog(run_dir if first else None, task, start)) as log,
            Display(task, timetable.total, timetable.epochs, start_step=step, silent=not first) as display,
        ):
            yield Session(**vars(training), checkpoints=checkpoints, log=log, display=display), state, step


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


def introduction(session: Session, model: str, size: str, step: int) -> str:
    """What is about to run, after what is wrong with the checkpoints."""
    images, timetable, devices = session.images, session.timetable, jax.devices()
    damage = session.checkpoints.tell_damage()
    idle = without_update(timetable.accumulation_steps, timetable.total)
    together = f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
    words = (
        f'{model} ({size}) on {images.train.name} ({len(images.train):,} images, {len(images.train.classes)} classes)\n'
        f'from step {step} to {timetable.total}, {images.batch_size} images each, on {len(devices)} '
        f'{devices[0].platform} device{"s" if len(devices) > 1 else ""}{together}; '
        'the first step takes a while to compile'
    )
    return '\n'.join(part for part in (damage, words, idle) if part)
