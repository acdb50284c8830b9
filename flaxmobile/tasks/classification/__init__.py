"""Classification, the first task: one class an image."""

from flaxmobile.tasks.classification.summary import Evaluation, JudgedExample
from flaxmobile.tasks.classification.task import Classification

__all__ = ['Classification', 'Evaluation', 'JudgedExample']
