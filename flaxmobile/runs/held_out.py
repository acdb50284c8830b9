"""What a run measures besides its validations: the test images at the end, and a probe before training."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from flaxmobile.runs import folder as run
from flaxmobile.runs.report import RunFacts, write_report
from flaxmobile.runs.splits import Splits, unreadable
from flaxmobile.tasks.evaluation import evaluate
from flaxmobile.tasks.probe import probe
from flaxmobile.training.loop import Session
from flaxmobile.training.state import TrainState

PICTURES = 24


def probe_features(session: Session, state: TrainState) -> None:
    """Write and show how well the features do that the run starts from, on the validation images."""
    learner, images = session.learner, session.images
    found = probe(
        learner.model,
        state.variables,
        learner.task.preprocessing,
        images.train,
        images.validation,
        images.batch_size,
        learner.mesh,
    )
    session.log.write('probe', 0, 0.0, found._asdict())
    session.display.say(
        f'before training, on the validation images: linear probe {found.linear_accuracy:.2%}, '
        f'nearest neighbours {found.knn_accuracy:.2%}'
    )


def test_best(session: Session, data: Splits) -> Any:
    """Evaluate the best checkpoint on the test images."""
    learner, step = session.learner, session.checkpoints.best
    assert step is not None, 'a finished run was validated'
    sharding = NamedSharding(learner.mesh, PartitionSpec())
    like = run.abstract_variables(learner.model, learner.task.preprocessing, sharding)
    variables = session.checkpoints.restore_variables(step, like)
    size = session.images.batch_size
    return evaluate(learner.task, session.evaluation_step, variables, data.test, size, learner.mesh, pictures=PICTURES)


def finish(session: Session, run_dir: Path, description: run.RunDescription, data: Splits, facts: RunFacts) -> None:
    """Evaluate the best checkpoint on the test images and write the report, with these facts on the run."""
    test = test_best(session, data)
    if jax.process_index() == 0:
        facts = dataclasses.replace(facts, seconds=session.log.seconds, unreadable=tuple(unreadable(data)))
        write_report(run_dir, description, session.learner.task, session.checkpoints.best or 0, test, facts)
