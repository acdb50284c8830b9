"""A narrow network of each family with random variables, to be exported."""

import functools

import jax
import numpy as np

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile.data import Preprocessing
from flaxmobile.models import MobileNetV3Small, MobileNetV5
from flaxmobile.models.mobilenetv3 import SMALL
from flaxmobile.models.mobilenetv4 import attention, convnext, extra_dw, ffn, fused
from flaxmobile.models.network import variable_shapes
from flaxmobile.weights import Model
from flaxmobile.weights.model import task_of

LABELS = ('tench, Tinca tinca', 'große Katze', 'c', '猫', 'e')
SIZE = 48
"""Side of the images in pixels: the last maps are 2x2 (Keras's V1: 1x1), so that padding and pooling count."""
FAMILIES = {
    'v1': ('tf_mobilenetv1_025', {}),
    'v2': ('mobilenetv2_035', {}),
    'v3': ('mobilenetv3_small_050', {}),
    'v3 large': ('mobilenetv3_large_075', {'width_multiplier': 0.25}),
    'v3 of TensorFlow': ('tf_mobilenetv3_small_075', {'width_multiplier': 0.25}),
    'v4': ('mobilenetv4_conv_small_035', {'width_multiplier': 0.25}),
    'v4 hybrid': ('mobilenetv4_hybrid_medium', {'width_multiplier': 0.1}),
    'v5': ('', {'width_multiplier': 0.0625, 'convention': 'torch'}),
    'EdgeTPU': ('mobilenet_edgetpu_100', {'width_multiplier': 0.1}),
    'MnasNet': ('mnasnet_small', {'width_multiplier': 0.35}),
    'no classes': ('mobilenetv2_035', {'num_classes': 0}),
    'short': ('', {}),
}


class ShortV5(MobileNetV5):
    """A block of each kind of MobileNetV5."""

    table = (
        (fused(3, 4, 128, s=2), fused(3, 4, 128)),
        (extra_dw(3, 5, 6, 256, s=2), convnext(5, 4, 256)),
        (extra_dw(5, 5, 6, 640, s=2), attention(2, 8, 2), ffn(2, 640)),
        (extra_dw(5, 5, 6, 1280, s=2), attention(2, 8)),
    )


class ShortV3(MobileNetV3Small):
    """The first three blocks of MobileNetV3 small, for what does not depend on the network."""

    table = SMALL[:2]


SHORT_OPERATIONS = {
    'CONV_2D': 10,
    'DEPTHWISE_CONV_2D': 3,
    'HARD_SWISH': 3,
    'MEAN': 2,
    'MUL': 2,
    'ADD': 1,
    'FULLY_CONNECTED': 1,
}
"""Of a LiteRT file of 'short'."""
CLASSES = {'v5': ShortV5, 'short': ShortV3}


@functools.cache
def small(family: str) -> Model:
    """The network of a family for five classes, or none, and images of ImageNet's mean and standard deviation."""
    name, own = FAMILIES[family]
    overrides = {'num_classes': len(LABELS), **own}
    network = flaxmobile.create_model(name, **overrides) if name else CLASSES[family](**overrides)
    variables = random_variables(network, (1, SIZE, SIZE, 3))
    labels = LABELS if overrides['num_classes'] else None
    return Model(network, variables, Preprocessing(SIZE), labels, task_of(network), name, overrides if name else {})


def of_ones(name: str, side: int) -> Model:
    """A registered network whole, every variable 1, for what depends on its structure alone."""
    module = flaxmobile.create_model(name)
    shapes = variable_shapes(module)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    return Model(module, variables, Preprocessing(image_size=side))
