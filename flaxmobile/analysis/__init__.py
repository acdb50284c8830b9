"""What a network costs, by layer."""

from flaxmobile.analysis.counts import Counts, Layer, count, layers

__all__ = ['Counts', 'Layer', 'count', 'layers']
