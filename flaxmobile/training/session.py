"""What stays the same throughout a run, and how a run is stopped."""

import signal
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.distillation import Distillation
from flaxmobile.training.freezing import Paths
from flaxmobile.training.interruption import TrainingStopped
from flaxmobile.training.metrics import Display, MetricsLog
from flaxmobile.training.splits import Splits


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
    teacher: tuple[Distillation, Any] | None = None

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
    raise TrainingStopped(
        f'stopped by {name} at step {step}, which is saved; go on with the same command and --resume', number
    )
