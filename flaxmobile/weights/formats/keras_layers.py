"""The layers of Keras in its files: their classes, and the variables of each."""

from typing import NamedTuple

CONVOLUTION, DEPTHWISE, NORM, DENSE = 'conv2d', 'depthwise_conv2d', 'batch_normalization', 'dense'
VARIABLES = {
    CONVOLUTION: ('kernel', 'bias'),
    DEPTHWISE: ('kernel', 'bias'),
    DENSE: ('kernel', 'bias'),
    NORM: ('gamma', 'beta', 'moving_mean', 'moving_variance'),
}
"""A layer's variables by its class, in the order of the files."""


class KerasLayer(NamedTuple):
    """A layer with variables.

    Attributes:
        name: its name.
        kind: its class, as files spell it.
        ordinal: its class and number among those, its name in files that keep no names.
    """

    name: str
    kind: str
    ordinal: str
