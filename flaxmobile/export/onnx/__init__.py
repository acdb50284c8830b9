"""ONNX files, written operation by operation."""

from flaxmobile.export.onnx.model import onnx_model
from flaxmobile.export.onnx.saving import to_onnx
from flaxmobile.export.operators.writing import Layout

__all__ = ['Layout', 'onnx_model', 'to_onnx']
