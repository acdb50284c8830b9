"""What a network costs, by layer."""

from flaxmobile.analysis.counts import Counts, Layer, count, count_layers

__all__ = ['Counts', 'Layer', 'count', 'count_layers']
