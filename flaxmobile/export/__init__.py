"""A model as a file that runs elsewhere: LiteRT, ONNX, Core ML, JAX without this library, SavedModel; or as a page."""

from typing import TYPE_CHECKING

from flaxmobile.lazy import lazy_names

if TYPE_CHECKING:
    from flaxmobile.export.by_suffix import export
    from flaxmobile.export.checks import Check
    from flaxmobile.export.coreml import to_coreml
    from flaxmobile.export.int8 import Int8
    from flaxmobile.export.jax_artifact import to_jax
    from flaxmobile.export.litert import to_litert
    from flaxmobile.export.onnx.saving import to_onnx
    from flaxmobile.export.report import QuantizeReport, quantize_report
    from flaxmobile.export.saved_model import to_saved_model
    from flaxmobile.export.web import to_web

__all__ = [
    'Check',
    'Int8',
    'QuantizeReport',
    'export',
    'quantize_report',
    'to_coreml',
    'to_jax',
    'to_litert',
    'to_onnx',
    'to_saved_model',
    'to_web',
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        '.by_suffix': ('export',),
        '.checks': ('Check',),
        '.coreml': ('to_coreml',),
        '.int8': ('Int8',),
        '.jax_artifact': ('to_jax',),
        '.litert': ('to_litert',),
        '.onnx.saving': ('to_onnx',),
        '.report': ('QuantizeReport', 'quantize_report'),
        '.saved_model': ('to_saved_model',),
        '.web': ('to_web',),
    },
)
