"""The training loop: data in; metrics, checkpoints and a report out."""

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxmobile.data import Dataset
from flaxmobile.models.network import variable_shapes
from flaxmobile.training import finetuning, run
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.evaluation import Evaluation, evaluate
from flaxmobile.training.freezing import Paths, frozen_parameters, trained
from flaxmobile.training.interruption import TrainingStopped, signals
from flaxmobile.training.metrics import Display, MetricsLog, Window
from flaxmobile.training.optimizer import learning_rate_schedule, make_optimizer
from flaxmobile.training.probe import probe
from flaxmobile.training.report import train_command, write_report
from flaxmobile.training.splits import Splits, load_splits, unreadable
from flaxmobile.training.state import TrainState, create_state
from flaxmobile.training.step import make_evaluation_step, make_mesh, make_train_step, replicate, shard_batch
from flaxmobile.weights import LoadedModel

PICTURES = 24


class Session(NamedTuple):
    """What stays the same from the first step of a run to the last."""

    config: TrainConfig
    data: Splits
    model: nn.Module
    optimizer: optax.GradientTransformation
    frozen: Paths
    mesh: Mesh
    steps_per_epoch: int
    evaluation_step: Callable[[Any, Any], dict[str, jax.Array]]
    checkpoints: Checkpoints
    log: MetricsLog
    display: Display

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.total_steps(self.steps_per_epoch)

    def epoch(self, step: int) -> float:
        """Epochs after `step` steps."""
        return step / self.steps_per_epoch


def train(
    config: TrainConfig,
    run_dir: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    name: str = '',
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
        name: of the config that `config` came from, for the report.
        multiply_adds: counts those of a network for one image, for the report.

    Raises:
        FileExistsError: `run_dir` holds a run, and neither `resume` nor `overwrite` is set.
        FloatingPointError: the loss or the gradient is no longer finite; the last checkpoint is good.
        TrainingStopped: a signal came.
        ValueError: the configuration, the data or the run does not fit; nothing was written.
    """
    run_dir = Path(run_dir)
    run.check_folder(run_dir, config, resume=resume, overwrite=overwrite)
    data = load_splits(config)
    classes, steps = data.train.classes, steps_per_epoch(config, data.train)
    if resume and (before := run.read_description(run_dir).classes) != classes:
        raise ValueError(f'{run_dir} was trained on the classes {", ".join(before)}; now they are {", ".join(classes)}')
    model, mesh = config.build_model(len(classes)), make_mesh()
    shapes = variable_shapes(model, config.channels)['params']
    frozen, optimizer = frozen_parameters(shapes, config.freeze), make_optimizer(config, steps, tuple(shapes))
    # A checkpoint holds all: what the run started from may be gone by then.
    init = config.init if not resume or run.last_checkpoint(run_dir) is None else None
    state = initial_state(config, model, optimizer, frozen, classes, mesh, init)
    size = describe_size(model, state.params, frozen, multiply_adds)
    description = run.RunDescription(config, classes)
    command = train_command(name, config) if name else ''
    prepare_folder(run_dir, description, resume=resume)
    first, total = jax.process_index() == 0, config.total_steps(steps)
    with closing(Checkpoints(run_dir, config.keep_checkpoints)) as checkpoints:
        if checkpoints.last is not None:
            state = checkpoints.restore_latest(state)
        step = int(state.step)
        with (
            closing(MetricsLog(run_dir if first else None, -1 if checkpoints.last is None else step)) as log,
            Display(total, config.epochs, start_step=step, silent=not first) as display,
        ):
            evaluation_step = make_evaluation_step(model, config.preprocessing, mesh)
            session = Session(
                config, data, model, optimizer, frozen, mesh, steps, evaluation_step, checkpoints, log, display
            )
            display.say(introduction(session, size, step))
            if config.linear_probe and init is not None:
                probe_features(session, state)
            fit(session, state, step)
        if not (run_dir / 'results.json').exists():
            finish(session, run_dir, description, size=size, command=command)
    return run_dir


def steps_per_epoch(config: TrainConfig, images: Dataset) -> int:
    """The batches that come nearest to one pass over the training images; batches reach from one epoch into the next.

    Raises:
        ValueError: the devices cannot share a batch evenly.
    """
    if config.batch_size % jax.device_count():
        raise ValueError(
            f'batch_size {config.batch_size} cannot be shared evenly by {jax.device_count()} devices: use a multiple'
        )
    return max(1, round(len(images) / config.batch_size))


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
    shape = (1, config.image_size, config.image_size, config.channels)
    state = create_state(model, optimizer, jax.random.key(config.seed), shape, config.ema_decay, frozen)
    if init is not None:
        state = finetuning.start_from(state, finetuning.load_init(init, config.model), classes)
    return replicate(state, mesh)


def prepare_folder(run_dir: Path, description: run.RunDescription, *, resume: bool) -> None:
    """Make the folder of a new run, without what an earlier one left; a resumed run keeps its own."""
    if jax.process_index() == 0 and not resume:
        run_dir.mkdir(parents=True, exist_ok=True)
        run.clear_folder(run_dir)
        description.write(run_dir)
    multihost_utils.sync_global_devices('run folder')


def describe_size(model: nn.Module, params: Any, frozen: Paths, multiply_adds: Callable[[Any], int] | None) -> str:
    """Parameters, and where they are known multiply-adds, in words."""
    count, training = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (params, trained(params, frozen)))
    return (
        f'{count:,} parameters'
        + (f', {training:,} of them trained' if frozen else '')
        + (f', {multiply_adds(model):,} multiply-adds' if multiply_adds else '')
    )


def introduction(session: Session, size: str, step: int) -> str:
    """What is about to run, in two lines."""
    config, images, devices = session.config, session.data.train, jax.devices()
    return (
        f'{config.model} ({size}) on {images.name} ({len(images):,} images, {len(images.classes)} classes)\n'
        f'from step {step} to {session.total_steps}, {config.batch_size} images each, on {len(devices)} '
        f'{devices[0].platform} device{"s" if len(devices) > 1 else ""}; the first step takes a while to compile'
    )


def fit(session: Session, state: TrainState, step: int) -> None:
    """Take the steps from `step` to the last, with metrics, validation and checkpoints when they are due."""
    config, total = session.config, session.total_steps
    evaluate_every = max(1, round(config.evaluate_every * session.steps_per_epoch))
    if step >= total:
        return
    train_step = make_train_step(
        session.model,
        session.optimizer,
        config.preprocessing,
        num_classes=len(session.data.train.classes),
        label_smoothing=config.label_smoothing,
        ema_decay=config.ema_decay,
        seed=config.seed,
        mesh=session.mesh,
        frozen=session.frozen,
    )
    batches, window = placed_batches(session, step), Window(config.batch_size)
    learning_rate = learning_rate_schedule(config, session.steps_per_epoch)
    batch = next(batches)
    with signals() as received:
        while step < total:
            state, metrics = train_step(state, batch)
            step += 1
            if step < total:
                batch = next(batches)  # Read and placed while the step runs.
            window.add(metrics)
            due = step % evaluate_every == 0 or step == total
            if due or received or step % config.log_every == 0:
                record(session, step, window.close() | {'learning_rate': float(learning_rate(step - 1))})
            if due:
                session.checkpoints.save(step, state, validate(session, state, step))
                window.restart()
            if received:
                stop(session, state, step, received[0])


def probe_features(session: Session, state: TrainState) -> None:
    """Write and show how well the features do that the run starts from, on the validation images."""
    config, data = session.config, session.data
    start = LoadedModel(session.model, state.variables, config.preprocessing, data.train.classes)
    found = probe(start, data.train, data.validation, config.batch_size, session.mesh)
    session.log.write('probe', 0, 0.0, found._asdict())
    session.display.say(
        f'before training, on the validation images: linear probe {found.linear_accuracy:.2%}, '
        f'nearest neighbours {found.knn_accuracy:.2%}'
    )


def placed_batches(session: Session, start: int) -> Iterator[dict[str, jax.Array]]:
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
    )
    return (shard_batch(batch, session.mesh) for batch in batches)


def record(session: Session, step: int, metrics: dict[str, float]) -> None:
    """Write and show the training metrics of the last steps.

    Raises:
        FloatingPointError: they are not finite.
    """
    for name in ('loss', 'gradient_norm'):
        if not math.isfinite(metrics[name]):
            last = session.checkpoints.last
            kept = 'there is no checkpoint yet' if last is None else f'the checkpoint of step {last} is good'
            raise FloatingPointError(
                f'the {name.replace("_", " ")} became {metrics[name]} in the steps before {step}, at a learning rate '
                f'of {metrics["learning_rate"]:.3g}; {kept}. Try a lower learning rate, a longer warm-up or '
                'clip_gradient_norm'
            )
    session.log.write('train', step, session.epoch(step), metrics)
    session.display.training(step, session.epoch(step), metrics)


def validate(session: Session, state: TrainState, step: int) -> float:
    """The accuracy on the validation images with the variables that will be used, written and shown."""
    metrics = _evaluate(session, state.evaluation_variables, session.data.validation).metrics
    best = session.checkpoints.best
    earlier = None if best is None else session.checkpoints.accuracy(best)
    session.log.write('validation', step, session.epoch(step), metrics)
    session.display.validation(session.epoch(step), metrics, earlier is None or metrics['accuracy'] >= earlier)
    return metrics['accuracy']


def test_best(session: Session) -> Evaluation:
    """Evaluate the best checkpoint on the test images."""
    step = session.checkpoints.best
    assert step is not None, 'a finished run was validated'
    sharding = NamedSharding(session.mesh, PartitionSpec())
    like = run.abstract_variables(session.model, session.config.preprocessing, sharding)
    return _evaluate(session, session.checkpoints.restore_variables(step, like), session.data.test, PICTURES)


def finish(session: Session, run_dir: Path, description: run.RunDescription, **words: str) -> None:
    """Evaluate the best checkpoint on the test images and write the report, with its `size` and `command`."""
    test = test_best(session)
    if jax.process_index() == 0:
        write_report(
            run_dir,
            description,
            session.checkpoints.best or 0,
            test,
            seconds=session.log.seconds,
            unreadable=unreadable(session.data),
            **words,
        )


def _evaluate(session: Session, variables: Any, images: Dataset, pictures: int = 0) -> Evaluation:
    config = session.config
    return evaluate(
        session.evaluation_step,
        variables,
        images,
        config.preprocessing,
        config.batch_size,
        session.mesh,
        pictures=pictures,
    )


def stop(session: Session, state: TrainState, step: int, number: int) -> None:
    """Save a checkpoint unless the step has one, and raise TrainingStopped."""
    if session.checkpoints.last != step:
        session.checkpoints.save(step, state, None)
    name = signal.Signals(number).name
    raise TrainingStopped(f'stopped by {name} at step {step}, which is saved; go on with --resume', number)
