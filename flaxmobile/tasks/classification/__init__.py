"""Classification: one class for each image."""

from flaxmobile.tasks.classification.summary import Evaluation, JudgedExample
from flaxmobile.tasks.classification.task import Classification

__all__ = ['Classification', 'Evaluation', 'JudgedExample']
