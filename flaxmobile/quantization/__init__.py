"""Networks that compute as int8 files do, to be trained: where values are rounded, by which ranges, and the module."""

from flaxmobile.quantization.network import Quantized, float_network, quantized_variables

__all__ = ['Quantized', 'float_network', 'quantized_variables']
