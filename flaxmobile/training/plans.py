"""The parts that a run's configuration comes apart into, once: its data, its optimiser, its timetable.

The fields have the names and the meaning of those of `TrainConfig`, which says and checks them.
"""

import dataclasses
from typing import Any, Literal, Self

from flaxmobile.rules import Count, Positive

Optimizer = Literal['rmsprop', 'torch_rmsprop', 'sgd', 'adamw', 'lamb']
Schedule = Literal['constant', 'cosine', 'exponential', 'step']


class _Part:
    """A part of a configuration, whose fields are some of its."""

    @classmethod
    def of(cls, config: Any) -> Self:
        """The part of a `TrainConfig`, or of whatever else has the fields."""
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: getattr(config, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataPlan(_Part):
    """Which images a run trains on, and which it holds out."""

    dataset: str
    train_split: str
    validation_split: str
    test_split: str
    data_dir: str | None
    download: bool
    max_unreadable: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StartPlan(_Part):
    """The weights that a run starts from, and the network that a file which does not say its own is read as."""

    model: str
    stem_stride: int | None
    convention: str | None
    init: str | None
    init_ema: bool
    ignore_convention: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherPlan(_Part):
    """The trained model that a run learns from, and how much."""

    teacher: str | None
    distillation_weight: float
    distillation_temperature: float
    dtype: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerPlan(_Part):
    """The optimiser, the schedule of its learning rate, and how long it runs."""

    optimizer: Optimizer
    learning_rate: float
    epochs: float
    schedule: Schedule
    warmup_epochs: float
    decay_rate: float
    decay_epochs: float
    milestones: tuple[float, ...]
    layer_decay: float | None
    momentum: float
    rmsprop_decay: float
    epsilon: float | None
    weight_decay: float
    decay_depthwise: bool
    decay_norms: bool
    clip_gradient_norm: float | None
    accumulation_steps: int

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run, at least one."""
        return max(1, round(self.epochs * steps_per_epoch))


@dataclasses.dataclass(frozen=True)
class Timetable:
    """When a run does what, in steps.

    Attributes:
        steps_per_epoch: of one pass over the training images.
        epochs: of the whole run, perhaps a fraction.
        total: of the whole run, in steps.
        log_every: between two records of metrics.
        evaluate_every: between two evaluations, each with a checkpoint.
        checkpoint_every: between two checkpoints besides.
        accumulation_steps: of one update of the parameters.
    """

    steps_per_epoch: Count
    epochs: Positive
    total: Count
    log_every: Count
    evaluate_every: Count
    checkpoint_every: Count
    accumulation_steps: Count = 1

    @classmethod
    def of(cls, config: Any, steps_per_epoch: int) -> Self:
        """That of a `TrainConfig`, which counts in epochs."""
        total = config.total_steps(steps_per_epoch)

        def steps(epochs: float | None) -> int:
            return total if epochs is None else max(1, round(epochs * steps_per_epoch))

        every = (config.log_every, steps(config.evaluate_every), steps(config.checkpoint_every))
        return cls(steps_per_epoch, config.epochs, total, *every, config.accumulation_steps)

    def epoch(self, step: int) -> float:
        """Epochs after `step` steps."""
        return step / self.steps_per_epoch

    def validates(self, step: int) -> bool:
        """Whether the validation images are due after `step` steps."""
        return step % self.evaluate_every == 0 or step == self.total

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        return self.validates(step) or step % self.checkpoint_every == 0

    def logs(self, step: int) -> bool:
        """Whether a record of metrics is due after `step` steps: before each checkpoint too."""
        return self.saves(step) or step % self.log_every == 0
