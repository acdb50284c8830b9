"""A graph as operators of tensors whose channels come first, in ONNX's terms.

`onnx/` writes them as they are; `coreml/` has operations of its own for each.
"""
