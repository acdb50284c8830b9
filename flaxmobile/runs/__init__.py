"""A run: its folder, what it says of itself, its data, its report, and what is made of it again."""

from typing import TYPE_CHECKING

from flaxmobile.lazy import lazy_names

if TYPE_CHECKING:
    from flaxmobile.runs.description import RunDescription, read_description
    from flaxmobile.runs.folder import load_run
    from flaxmobile.runs.report import read_results
    from flaxmobile.runs.splits import Splits, load_splits
    from flaxmobile.runs.training import train

__all__ = ['RunDescription', 'Splits', 'load_run', 'load_splits', 'read_description', 'read_results', 'train']

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        '.description': ('RunDescription', 'read_description'),
        '.folder': ('load_run',),
        '.report': ('read_results',),
        '.splits': ('Splits', 'load_splits'),
        '.training': ('train',),
    },
)
