"""A function of images written as ONNX and run by ONNX Runtime, beside JAX's own answer."""

import collections
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax import lax

from flaxmobile import ops
from flaxmobile.export.onnx import onnx_model
from flaxmobile.export.program import Program


def written(function: Callable[..., Any], images: np.ndarray, layout: str = 'nchw') -> Any:
    """The ONNX model of a function, of one output or a tuple of them, for images like these."""
    shape = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)

    def answers(values: jax.Array) -> tuple[jax.Array, ...]:
        made = function(values)
        return made if isinstance(made, tuple) else (made,)

    count = len(jax.eval_shape(answers, jax.ShapeDtypeStruct(images.shape, images.dtype)))
    program = Program(ops.standard(answers), shape, tuple(f'output_{number}' for number in range(count)))
    return onnx_model(program, layout=layout)


def run(model: Any, images: np.ndarray, layout: str = 'nchw') -> list[np.ndarray]:
    """What ONNX Runtime answers; images and maps `[batch, height, width, channels]`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
    swapped = layout == 'nchw' and images.ndim == 4
    answers = session.run(None, {'image': images.transpose(0, 3, 1, 2) if swapped else images})
    return [each.transpose(0, 2, 3, 1) if swapped and each.ndim == 4 else each for each in answers]


def same(function: Callable[..., Any], images: np.ndarray, layout: str = 'nchw', tolerance: float = 1e-6) -> Any:
    """See that ONNX Runtime answers as JAX, relative to the largest number; the model."""
    model = written(function, images, layout)
    wanted = function(images)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    for got, want in zip(run(model, images, layout), map(np.asarray, wanted), strict=True):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max(initial=0))
    return model


def kinds(model: Any) -> dict[str, int]:
    """How many nodes of each operator."""
    return dict(collections.Counter(node.op_type for node in model.graph.node))


def noise(*shape: int, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    """Normal numbers, float32."""
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def convolve(x: Any, kernel: Any, **fields: Any) -> Any:
    """JAX's convolution of NHWC."""
    fields = {'window_strides': (1, 1), 'padding': 'VALID', 'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')} | fields
    return lax.conv_general_dilated(x, kernel, **fields)


class Layers(nn.Module):
    """A function of images as the layer block_03."""

    function: object

    @nn.compact
    def __call__(self, images):
        return Layer(self.function, name='block_03')(images)


class Layer(nn.Module):
    function: object

    @nn.compact
    def __call__(self, images):
        return self.function(images)
