"""What a run measures on held-out images: the validation images, the test images, and a probe before training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from flaxmobile.data import Dataset
from flaxmobile.runs import folder as run
from flaxmobile.runs.report import write_report
from flaxmobile.runs.session import Session, stop
from flaxmobile.runs.splits import unreadable
from flaxmobile.tasks.evaluation import Evaluation, EvaluationStep, evaluate
from flaxmobile.tasks.probe import probe
from flaxmobile.training.state import TrainState
from flaxmobile.weights import Model

PICTURES = 24


def probe_features(session: Session, state: TrainState) -> None:
    """Write and show how well the features do that the run starts from, on the validation images."""
    config, data = session.config, session.data
    start = Model(session.model, state.variables, config.preprocessing, data.train.classes)
    found = probe(start, data.train, data.validation, config.batch_size, session.mesh)
    session.log.write('probe', 0, 0.0, found._asdict())
    session.display.say(
        f'before training, on the validation images: linear probe {found.linear_accuracy:.2%}, '
        f'nearest neighbours {found.knn_accuracy:.2%}'
    )


def validate(session: Session, state: TrainState, step: int, received: Sequence[int] = ()) -> None:
    """Write and show how well the variables that will be used do on the validation images.

    Where there is one process, a signal in `received` stops the run before the next batch.
    """

    def stoppable(variables: Any, batch: Any) -> dict[str, jax.Array]:
        session.checkpoints.check()
        if received and jax.process_count() == 1:
            stop(session, step, received[0])
        return session.evaluation_step(variables, batch)

    metrics = _evaluate(session, stoppable, state.evaluation_variables, session.data.validation).metrics
    session.checkpoints.wait()  # What is recorded as validated is there.
    session.log.write('validation', step, session.epoch(step), metrics)
    session.checkpoints.validated({step: metrics['accuracy']})
    session.display.validation(session.epoch(step), metrics, session.checkpoints.best == step)


def test_best(session: Session) -> Evaluation:
    """Evaluate the best checkpoint on the test images."""
    step = session.checkpoints.best
    assert step is not None, 'a finished run was validated'
    sharding = NamedSharding(session.mesh, PartitionSpec())
    like = run.abstract_variables(session.model, session.config.preprocessing, sharding)
    variables = session.checkpoints.restore_variables(step, like)
    return _evaluate(session, session.evaluation_step, variables, session.data.test, PICTURES)


def finish(session: Session, run_dir: Path, **words: str) -> None:
    """Evaluate the best checkpoint on the test images and write the report, with its `size` and `command`."""
    test = test_best(session)
    if jax.process_index() == 0:
        write_report(
            run_dir,
            session.description,
            session.checkpoints.best or 0,
            test,
            seconds=session.log.seconds,
            unreadable=unreadable(session.data),
            **words,
        )


def _evaluate(session: Session, step: EvaluationStep, variables: Any, images: Dataset, pictures: int = 0) -> Evaluation:
    config = session.config
    return evaluate(
        step,
        variables,
        images,
        config.preprocessing,
        config.batch_size,
        session.mesh,
        pictures=pictures,
    )
