"""Arrays in, arrays out: convolutions, padding, pooling, resizing and activations."""

from flaxmobile.ops.activations import activation, hard_sigmoid, hard_swish, relu, relu6
from flaxmobile.ops.convolution import conv, depthwise_conv, pointwise_conv
from flaxmobile.ops.padding import output_size, padding_pairs
from flaxmobile.ops.pooling import average_pool, blur_pool, pool
from flaxmobile.ops.resizing import resize_bilinear, resize_nearest
from flaxmobile.ops.standard import standard

__all__ = [
    'activation',
    'average_pool',
    'blur_pool',
    'conv',
    'depthwise_conv',
    'hard_sigmoid',
    'hard_swish',
    'output_size',
    'padding_pairs',
    'pointwise_conv',
    'pool',
    'relu',
    'relu6',
    'resize_bilinear',
    'resize_nearest',
    'standard',
]
