"""A model as one function of images, which every exporter starts from."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import InconclusiveDimensionOperation

from flaxmobile import ops
from flaxmobile.export.quantizers import marked
from flaxmobile.layers import fold_batch_norm
from flaxmobile.layers.folding import is_folded
from flaxmobile.messages import printable
from flaxmobile.quantization import Quantized
from flaxmobile.weights import Model

Traced = TypeVar('Traced')


@dataclasses.dataclass(frozen=True)
class Program:
    """A model as one function of images, with its variables inside and BatchNorm folded into the convolutions.

    Attributes:
        function: from images `[batch, height, width, channels]` to a tuple of arrays, one for each of `outputs`.
            Its convolutions are XLA's own, pointwise ones too, unless `make_program` was told otherwise.
        image: shape and type of one image as a batch, `[1, height, width, channels]`; float32 (normalised) or uint8
            (pixels as they are in a file).
        outputs: the names of what it answers: 'logits', 'probabilities' or 'embedding', each `[batch, ...]`.
        marked: whether its roundings to int8 are composites (`quantizers.marked`), of a network trained for int8.
    """

    function: Callable[[jax.Array], tuple[jax.Array, ...]]
    image: jax.ShapeDtypeStruct
    outputs: tuple[str, ...]
    marked: bool = False


def make_program(
    model: Model,
    *,
    uint8_input: bool = False,
    softmax: bool = False,
    standard: bool = True,
) -> Program:
    """Make a model one function of images, to be traced by an exporter.

    What a network trained for int8 rounds is marked in XLA's own operations, and rounded in this library's.

    Args:
        model: what to export.
        uint8_input: take pixels, uint8 RGB as a file has them, and normalise them inside; otherwise float32 images
            that are normalised already.
        softmax: answer probabilities in place of logits.
        standard: in XLA's own operations. False: in this library's convolutions, which XLA's own are far slower than on
            a CPU: lowered for several platforms, each gets the form that is fast there.

    Raises:
        ValueError: `softmax` is asked of a network without classes.
    """
    preprocessing = model.preprocessing
    if softmax and not model.num_classes:
        raise ValueError('softmax=True asks for probabilities, and this model has no classes (num_classes=0)')
    shape = (1, preprocessing.image_size, preprocessing.image_size, preprocessing.channels)
    variables = model.variables
    if not is_folded(variables):
        images = jax.ShapeDtypeStruct(shape, jnp.float32)
        # In one program: by itself each shape would be compiled.
        variables = jax.jit(lambda variables: fold_batch_norm(model.module, variables, images))(variables)
    variables = jax.tree.map(np.asarray, variables)
    module = model.module
    marks = standard and isinstance(module, Quantized)
    apply: Callable[..., Any] = functools.partial(marked, module) if marks else module.apply

    def answer(images: jax.Array) -> tuple[jax.Array, ...]:
        values = preprocessing.normalize(images) if uint8_input else images
        answers: Any = apply(variables, values)
        return (jax.nn.softmax(answers) if softmax else answers,)

    image = jax.ShapeDtypeStruct(shape, jnp.uint8 if uint8_input else jnp.float32)
    name = 'probabilities' if softmax else 'logits' if model.num_classes else 'embedding'
    return Program(ops.standard(answer) if standard else answer, image, (name,), marks)


def for_any_number(trace: Callable[[jax.ShapeDtypeStruct], Traced], image: jax.ShapeDtypeStruct) -> Traced:
    """Trace for batches of any size.

    Args:
        trace: what traces a function, from the shape and type of a batch, whose first side is the symbol 'batch'.
        image: shape and type of one image as a batch.

    Raises:
        ValueError: the function goes by how many images there are.
    """
    (batch,) = jax.export.symbolic_shape('batch')
    try:
        return trace(jax.ShapeDtypeStruct((batch, *image.shape[1:]), image.dtype))
    except (TypeError, InconclusiveDimensionOperation) as error:
        raise ValueError(
            'export: the network cannot be traced for any number of images (where it says len(images), '
            f'images.shape[0] serves): {printable(error)}'
        ) from error


def in_float32(model: Model) -> Model:
    """The same model computing in float32, for formats whose runtimes have no narrower type.

    The network's `dtype` and its variables become float32, whatever floats they are; float16 and bfloat16 lose nothing.
    A layer of a module of your own that has a `dtype` of its own keeps it.
    """
    fields = {name: jnp.float32 for name in ('dtype', 'param_dtype') if hasattr(model.module, name)}
    variables = jax.tree.map(_to_float32, dict(model.variables))
    return dataclasses.replace(model, module=model.module.clone(**fields), variables=variables)


def _to_float32(array: Any) -> Any:
    return np.asarray(array, np.float32) if jnp.issubdtype(jnp.asarray(array).dtype, jnp.floating) else array
