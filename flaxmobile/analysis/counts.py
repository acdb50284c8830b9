"""Parameters and multiply-adds, counted from the traced program."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params

from flaxmobile.models.network import MobileNet
from flaxmobile.models.registry import create_model, entry
from flaxmobile.ops.dense import conv_p, product_p
from flaxmobile.ops.depthwise import depthwise_conv_p

COUNTED = {'dot_general', 'conv_general_dilated', product_p.name, conv_p.name, depthwise_conv_p.name}


class Layer(NamedTuple):
    """A convolution or dense layer of a traced network, or an attention's own two products.

    Attributes:
        name: path of the module, BatchNorm included: 'block_03/depthwise'.
        kind: 'standard', 'depthwise', 'pointwise', 'dense', or 'attention' for query x key and weights x value.
        kernel_size: height and width in pixels.
        strides: in pixels.
        output_shape: without the batch.
        parameters: trainable ones, BatchNorm's included; what a block has besides its layers (layer scale, attention's
            BatchNorm) is in its last one.
        multiply_adds: for one image.
    """

    name: str
    kind: str
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    output_shape: tuple[int, ...]
    parameters: int
    multiply_adds: int


class Counts(NamedTuple):
    """Totals of a network for one image of `image_size` pixels squared; attention's own products count apart."""

    parameters: int
    multiply_adds: int
    image_size: int
    attention_multiply_adds: int = 0


def count(name: str, image_size: int | None = None, **overrides: Any) -> Counts:
    """Totals of a registered network at `image_size` (its own where None); `overrides` are fields of the model.

    Multiply-adds are those of convolutions and dense layers; pooling, blurred or not, counts as none.
    """
    size = entry(name).image_size if image_size is None else image_size
    rows = count_layers(create_model(name, **overrides), size)
    attention = sum(row.multiply_adds for row in rows if row.kind == 'attention')
    multiply_adds = sum(row.multiply_adds for row in rows) - attention
    return Counts(sum(row.parameters for row in rows), multiply_adds, size, attention)


@functools.lru_cache(maxsize=128)
def count_layers(model: MobileNet, image_size: int, channels: int = 3) -> tuple[Layer, ...]:
    """The convolutions, dense layers and attentions of `model` in the order in which they run.

    Raises:
        ValueError: the image size is not 1 or more.
    """
    if image_size < 1:
        raise ValueError(f'the image size is {image_size} pixels: it has to be 1 or more')
    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    program, (_, variables) = jax.make_jaxpr(model.init_with_output, return_shape=True)(jax.random.key(0), images)
    params = variables['params']
    names = {key.key for path, _ in jax.tree_util.tree_leaves_with_path(params) for key in path}
    rows: dict[str, Layer] = {}
    for scope, equation in _products(program.jaxpr, ''):
        row = _layer([part for part in scope.split('/') if part in names], equation, params)
        same = rows.get(row.name)
        rows[row.name] = row._replace(multiply_adds=row.multiply_adds + (same.multiply_adds if same else 0))
    last = {name.split('/')[0]: name for name in rows if name}
    for part, name in last.items():
        listed = sum(row.parameters for row in rows.values() if row.name.split('/')[0] == part)
        besides = _size(params[part]) - listed
        rows[name] = rows[name]._replace(parameters=rows[name].parameters + besides)
    return tuple(rows.values())


def _size(parameters: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))


def _products(jaxpr: Jaxpr, scope: str) -> Iterator[tuple[str, JaxprEqn]]:
    for equation in jaxpr.eqns:
        inner = '/'.join(filter(None, (scope, str(equation.source_info.name_stack))))
        if equation.primitive.name in COUNTED:
            yield inner, equation
        else:
            for nested in jaxprs_in_params(equation.params):
                yield from _products(nested.jaxpr if isinstance(nested, ClosedJaxpr) else nested, inner)


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def _layer(path: list[str], equation: JaxprEqn, params: Any) -> Layer:
    left, right, output = (_shape(variable) for variable in (*equation.invars, *equation.outvars))
    window: Any = equation.params.get('window')
    if equation.primitive is depthwise_conv_p:
        kind, kernel_size, strides = 'depthwise', window.kernel_size, window.strides
        per_output = math.prod(kernel_size)
    elif equation.primitive is conv_p or equation.primitive.name == 'conv_general_dilated':
        kind, kernel_size = 'standard', right[:2]
        strides = window.strides if window else equation.params['window_strides']
        per_output = math.prod(right[:3])
    elif equation.primitive is product_p:
        kind, kernel_size, strides, per_output = 'pointwise', (1, 1), (1, 1), right[0]
    else:
        (contracted, _), (batch, _) = equation.params['dimension_numbers']
        kind = 'attention' if batch else 'dense'
        kernel_size, strides, per_output = (1, 1), (1, 1), math.prod(left[axis] for axis in contracted)
    path = path[:-1] if path[-1] == 'conv' else path
    size = 0 if kind == 'attention' else _size(functools.reduce(lambda tree, part: tree[part], path, params))
    return Layer('/'.join(path), kind, kernel_size, strides, output[1:], size, math.prod(output) * per_output)
