"""The MobileNet family for JAX, in pure functional Flax Linen.

`flaxmobile.models.MobileNetV2(num_classes=1000)` is a Linen module; `flaxmobile.create_model('mobilenetv2_100')` makes
a network by its published name, `flaxmobile.load_run('runs/demo')` brings back what `flaxmobile train` made.
"""

from typing import Any

from flaxmobile import layers, models, ops
from flaxmobile.models import create_model, list_models

__version__ = '0.1.0'
__all__ = ['create_model', 'layers', 'list_models', 'load_run', 'models', 'ops']


def __getattr__(name: str) -> Any:
    if name == 'load_run':
        from flaxmobile.training.run import load_run

        return load_run
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
