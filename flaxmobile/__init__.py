"""The MobileNet family for JAX, in pure functional Flax Linen.

`flaxmobile.models.MobileNetV2(num_classes=1000)` is a Linen module; `flaxmobile.create_model('mobilenetv2_100')` makes
a network by its published name, `flaxmobile.load_pretrained('mobilenetv2_100.ra_in1k')` one with published weights,
`flaxmobile.load_run('runs/demo')` brings back what `flaxmobile train` made.
"""

import importlib
from typing import Any

from flaxmobile import layers, models, ops
from flaxmobile.models import create_model, list_models
from flaxmobile.models.inference import compile_inference

__version__ = '0.1.0'
__all__ = [
    'compile_inference',
    'create_model',
    'data',
    'layers',
    'list_models',
    'load_pretrained',
    'load_run',
    'models',
    'ops',
    'weights',
]

_LAZY = {'load_pretrained': 'flaxmobile.weights', 'load_run': 'flaxmobile.runs.folder'}


def __getattr__(name: str) -> Any:
    if name in ('data', 'weights'):
        return importlib.import_module(f'{__name__}.{name}')
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*__all__, '__version__'])
