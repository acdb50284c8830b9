"""ONNX files, written operation by operation."""

from flaxmobile.export.onnx.model import Layout, onnx_model
from flaxmobile.export.onnx.saving import to_onnx

__all__ = ['Layout', 'onnx_model', 'to_onnx']
