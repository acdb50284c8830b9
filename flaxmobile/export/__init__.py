"""A model as a file that runs elsewhere: LiteRT, ONNX, JAX without this library, Core ML."""
