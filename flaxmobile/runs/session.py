"""What stays the same throughout a run, and how a run is stopped."""

import dataclasses
import signal
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from flaxmobile.runs.folder import RunDescription
from flaxmobile.runs.splits import Splits
from flaxmobile.tasks.distillation import Distillation
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.freezing import Paths
from flaxmobile.training.interruption import TrainingStopped
from flaxmobile.training.metrics import Display, MetricsLog


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run needs, loaded and checked before anything is written; not its state, which each step replaces."""

    config: TrainConfig
    description: RunDescription
    data: Splits
    model: nn.Module
    optimizer: optax.GradientTransformation
    frozen: Paths
    mesh: Mesh
    steps_per_epoch: int
    evaluation_step: Callable[[Any, Any], dict[str, jax.Array]]
    teacher: tuple[Distillation, Any] | None
    init: str | None
    """The weights that the run starts from; None where it starts from a checkpoint or from none."""


@dataclasses.dataclass(frozen=True)
class Session(Setup):
    """What stays the same from the first step of a run to the last."""

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

    def validates(self, step: int) -> bool:
        """Whether the validation images are due after `step` steps."""
        return step % self.steps(self.config.evaluate_every) == 0 or step == self.total_steps

    def steps(self, epochs: float | None) -> int:
        """The steps that come nearest to `epochs`, at least one; those of the whole run for None."""
        return self.total_steps if epochs is None else max(1, round(epochs * self.steps_per_epoch))


def stop(session: Session, step: int, number: int) -> NoReturn:
    """Wait for the checkpoint of this step, and raise TrainingStopped."""
    session.checkpoints.wait()
    name = signal.Signals(number).name
    raise TrainingStopped(f'stopped by {name} at step {step}, which is saved; resume=True goes on from there', number)
