"""Rounding to int8, of a network trained for it."""

import numpy as np

from flaxmobile.export.graph import Operation
from flaxmobile.export.operators.elementwise import renamed
from flaxmobile.export.operators.handlers import handles
from flaxmobile.export.operators.writer import Tensor, Writer
from flaxmobile.quantization.rounding import LEAST


@handles('fake_quantize')
def fake_quantize(writer: Writer, operation: Operation) -> Tensor:
    """`QuantizeLinear` and `DequantizeLinear`, uint8, which is faster on x86 than int8."""
    tensor = writer.lazy(operation.inputs[0])
    scale = writer.number(operation.params['scale'])
    zero_point = writer.constant(np.array(operation.params['zero_point'] - LEAST, np.uint8))
    rounded = writer.node('QuantizeLinear', [tensor.name, scale, zero_point])
    return renamed(tensor, writer.node('DequantizeLinear', [rounded, scale, zero_point]))
