"""A model as a file that runs elsewhere: LiteRT, ONNX, JAX without this library, Core ML."""

from typing import TYPE_CHECKING

from flaxmobile.lazy import lazy_names

if TYPE_CHECKING:
    from flaxmobile.export.onnx.saving import to_onnx

__all__ = ['to_onnx']

__getattr__, __dir__ = lazy_names(__name__, {'.onnx.saving': ('to_onnx',)})
