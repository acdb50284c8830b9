"""The engine: configuration, optimiser, state, the compiled step, the loop, checkpoints, freezing, fine-tuning."""

from typing import TYPE_CHECKING

from flaxmobile.lazy import lazy_names

if TYPE_CHECKING:
    from flaxmobile.training.checkpoints import Checkpoints
    from flaxmobile.training.config import TrainConfig, list_configs, load_config
    from flaxmobile.training.finetuning import start_from
    from flaxmobile.training.freezing import frozen_parameters
    from flaxmobile.training.interruption import TrainingStopped
    from flaxmobile.training.metrics import read_metrics
    from flaxmobile.training.optimizer import learning_rate_schedule, make_optimizer
    from flaxmobile.training.plans import DataPlan, OptimizerPlan, Timetable
    from flaxmobile.training.state import TrainState, create_state, start_state
    from flaxmobile.training.step import Learner, loss_and_gradients, make_evaluation_step, make_train_step

__all__ = [
    'Checkpoints',
    'DataPlan',
    'Learner',
    'OptimizerPlan',
    'Timetable',
    'TrainConfig',
    'TrainState',
    'TrainingStopped',
    'create_state',
    'frozen_parameters',
    'learning_rate_schedule',
    'list_configs',
    'load_config',
    'loss_and_gradients',
    'make_evaluation_step',
    'make_optimizer',
    'make_train_step',
    'read_metrics',
    'start_from',
    'start_state',
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        '.checkpoints': ('Checkpoints',),
        '.config': ('TrainConfig', 'list_configs', 'load_config'),
        '.finetuning': ('start_from',),
        '.freezing': ('frozen_parameters',),
        '.interruption': ('TrainingStopped',),
        '.metrics': ('read_metrics',),
        '.optimizer': ('learning_rate_schedule', 'make_optimizer'),
        '.plans': ('DataPlan', 'OptimizerPlan', 'Timetable'),
        '.state': ('TrainState', 'create_state', 'start_state'),
        '.step': ('Learner', 'loss_and_gradients', 'make_evaluation_step', 'make_train_step'),
    },
)
