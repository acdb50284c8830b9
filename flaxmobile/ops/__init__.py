"""Arrays in, arrays out: convolutions, padding and activations."""

from flaxmobile.ops.activations import activation, hard_sigmoid, hard_swish, relu, relu6
from flaxmobile.ops.convolution import conv, depthwise_conv, pointwise_conv
from flaxmobile.ops.padding import output_size, padding_pairs

__all__ = [
    'activation',
    'conv',
    'depthwise_conv',
    'hard_sigmoid',
    'hard_swish',
    'output_size',
    'padding_pairs',
    'pointwise_conv',
    'relu',
    'relu6',
]
