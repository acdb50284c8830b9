"""The protocol of a task; classification with its losses, mixing and distillation; evaluation."""

from typing import TYPE_CHECKING

from flaxmobile.lazy import lazy_names

if TYPE_CHECKING:
    from flaxmobile.tasks.classification import Classification, Evaluation, JudgedExample
    from flaxmobile.tasks.distillation import Distillation, distillation_loss
    from flaxmobile.tasks.evaluation import evaluate
    from flaxmobile.tasks.losses import cross_entropy, smooth_targets
    from flaxmobile.tasks.mixing import Mixing
    from flaxmobile.tasks.task import Best, Measure, Picture, Scores, Task

__all__ = [
    'Best',
    'Classification',
    'Distillation',
    'Evaluation',
    'JudgedExample',
    'Measure',
    'Mixing',
    'Picture',
    'Scores',
    'Task',
    'cross_entropy',
    'distillation_loss',
    'evaluate',
    'smooth_targets',
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        '.classification': ('Classification', 'Evaluation', 'JudgedExample'),
        '.distillation': ('Distillation', 'distillation_loss'),
        '.evaluation': ('evaluate',),
        '.losses': ('cross_entropy', 'smooth_targets'),
        '.mixing': ('Mixing',),
        '.task': ('Best', 'Measure', 'Picture', 'Scores', 'Task'),
    },
)
