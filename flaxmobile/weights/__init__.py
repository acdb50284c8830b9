"""Published weights: catalogue, download and cache, file formats, name maps, conversion both ways."""

from flaxmobile.weights.loaded import LoadedModel

__all__ = ['LoadedModel']
