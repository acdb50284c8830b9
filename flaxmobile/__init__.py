"""The MobileNet family for JAX, in pure functional Flax Linen.

`flaxmobile.models.MobileNetV2(num_classes=1000)` is a Linen module; `flaxmobile.create_model('mobilenetv2_100')` makes
a network by its published name. `flaxmobile.load` gives a `Model`, a network with its variables, preprocessing and
labels: `load('mobilenetv2_100.ra_in1k')` one with published weights, `load('runs/demo')` what `flaxmobile train` made.
"""

from typing import TYPE_CHECKING

from flaxmobile import layers, models, ops
from flaxmobile.lazy import lazy_names
from flaxmobile.models import create_model
from flaxmobile.models.inference import compile_inference

if TYPE_CHECKING:
    from flaxmobile.runs.folder import load_run
    from flaxmobile.runs.sources import load
    from flaxmobile.weights import Model, load_pretrained
    from flaxmobile.zoo import ModelInfo, list_models, model_info

__version__ = '0.1.0'
__all__ = [
    'Model',
    'ModelInfo',
    'analysis',
    'compile_inference',
    'create_model',
    'data',
    'export',
    'inspection',
    'layers',
    'list_models',
    'load',
    'load_pretrained',
    'load_run',
    'model_info',
    'models',
    'ops',
    'parallel',
    'runs',
    'tasks',
    'training',
    'weights',
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        '.runs.folder': ('load_run',),
        '.runs.sources': ('load',),
        '.weights': ('Model', 'load_pretrained'),
        '.zoo': ('ModelInfo', 'list_models', 'model_info'),
    },
    ('analysis', 'data', 'export', 'inspection', 'parallel', 'runs', 'tasks', 'training', 'weights'),
)
