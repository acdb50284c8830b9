"""Published weights: catalogue, download and cache, file formats, name maps, conversion both ways."""

from flaxmobile.weights.catalogue import Weight, find, list_weights
from flaxmobile.weights.download import cache_path, download
from flaxmobile.weights.files import load_file, load_variables
from flaxmobile.weights.keras_names import from_keras, to_keras
from flaxmobile.weights.model import Model
from flaxmobile.weights.names import TensorMismatchError
from flaxmobile.weights.pretrained import load_pretrained
from flaxmobile.weights.saving import convert
from flaxmobile.weights.torch_names import from_torch, to_torch

__all__ = [
    'Model',
    'TensorMismatchError',
    'Weight',
    'cache_path',
    'convert',
    'download',
    'find',
    'from_keras',
    'from_torch',
    'list_weights',
    'load_file',
    'load_pretrained',
    'load_variables',
    'to_keras',
    'to_torch',
]
