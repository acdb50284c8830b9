"""The flat graph and what is fused in it, without a file."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_networks import of_ones

from flaxmobile.export.fusion import fuse
from flaxmobile.export.graph import Graph, layer_of, trace
from flaxmobile.export.program import make_program

IMAGE = jax.ShapeDtypeStruct((1, 4, 6, 8), jnp.float32)
MATRIX = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)

CONSTANTS = {
    'arithmetic': lambda c: (c + 1) * c - c / 3,
    'extremes': lambda c: jnp.maximum(jnp.minimum(c, 0.5), -jnp.abs(c)),
    'roots and powers': lambda c: (jnp.sqrt(c * c), lax.rsqrt(c * c + 1), jnp.square(c), c**3),
    'rounding': lambda c: (jnp.floor(c), jnp.ceil(c), jnp.round(c)),
    'comparisons': lambda c: (c > 0, c >= 0, c < 0, c <= 0, c == c, c != c),
    'choice': lambda c: jnp.where(c > 0, c, -2 * c),
    'types': lambda c: (c.astype(jnp.int32), c.astype(jnp.int32).astype(jnp.float32), (c > 0).astype(jnp.int8)),
    'whole numbers': lambda c: ((n := (9 * c).astype(jnp.int32)) // 2, lax.rem(n, 4), lax.div(n, -3), n % 5),
    'shapes': lambda c: (
        c.T,
        c.reshape(4, 6),
        c[None, :, None],
        c[:, ::2],
        jnp.broadcast_to(c[:1], (5, 8)).reshape(40),
    ),
    'counts': lambda c: (jnp.arange(5), jnp.eye(3) @ c, jnp.concatenate([c, jnp.zeros((2, 8))])),
    'sums': lambda c: (c.sum(0), c.max(1), jnp.broadcast_to(c[:, :1], c.shape).sum(1), jax.nn.softmax(c)),
}


def traced(function, image=IMAGE) -> Graph:
    def answers(images):
        made = function(images)
        return made if isinstance(made, tuple) else (made,)

    return trace(answers, image)


@pytest.mark.parametrize('name', CONSTANTS)
def test_what_does_not_depend_on_the_images_is_computed(name):
    """As JAX computes it, in `CONSTANTS`; no operation is left."""
    graph = traced(lambda images: CONSTANTS[name](jnp.asarray(MATRIX)))
    wanted = CONSTANTS[name](jnp.asarray(MATRIX))
    assert graph.operations == []
    for value, want in zip(graph.outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        assert value.dtype == want.dtype
        np.testing.assert_allclose(value.full(), want, rtol=3e-7, atol=1e-7)


def test_constants_of_an_open_length_stay_small():
    graph = traced(lambda images: jnp.full(images.shape, 2.0) * jnp.arange(8.0))
    assert graph.outputs[0].constant.shape == (1, 1, 1, 8)
    assert str(graph.outputs[0].shape) == '(batch, 4, 6, 8)'
    np.testing.assert_array_equal(graph.outputs[0].constant.ravel(), 2 * np.arange(8))


@pytest.mark.parametrize(
    ('scope', 'layer'),
    [
        ('MobileNetV2/MobileNetV2.embed/MobileNetV2.taps/block_03/expand/folded', 'block_03/expand'),
        ('Linear/classifier', 'classifier'),
        ('Net/Dense_0', 'Dense_0'),
        ('Dense_0', 'Dense_0'),
        ('outer/inner', 'outer/inner'),
        ('MobileNetV2', ''),
        ('', ''),
    ],
)
def test_layers_have_the_names_of_their_parameters(scope, layer):
    assert layer_of(scope) == layer


# The plain counts by kind of operation: a convolution and an activation for each row of the papers' tables.
NETWORKS = {
    'mobilenetv2_100': {
        'conv_general_dilated': 52,
        'clip': 35,
        'add': 10,
        'reduce_mean': 1,
        'dense': 1,
    },
    'mobilenetv3_large_100': {
        'conv_general_dilated': 47 + 2 * 8,
        'relu': 11 + 8,
        'hard_swish': 21,
        'hard_sigmoid': 8,
        'mul': 8,
        'add': 10,
        'reduce_mean': 1 + 8,
        'reshape': 1,
        'dense': 1,
    },
}


@pytest.mark.parametrize('name', NETWORKS)
def test_a_network_is_as_many_operations_as_its_table_has(name):
    program = make_program(of_ones(name, 32))
    graph = trace(program.function, program.image)
    fuse(graph)
    assert collections.Counter(operation.kind for operation in graph.operations) == NETWORKS[name]
    kernels = [each for each in graph.operations if each.kind == 'conv_general_dilated']
    assert [kernels[0].layer, kernels[-1].layer] == ['stem', 'head_conv']
    assert all(len(each.inputs) == 3 for each in kernels)


REFUSED = {
    'a primitive': (jnp.sort, "export: the operation 'sort' of the layer block_03 is none that exporters know"),
    'a type': (lambda x: x.astype(jnp.float16) + 1, 'of the layer block_03 computes in float16'),
    'a parameter': (
        lambda x: lax.exp(x, accuracy=lax.AccuracyMode.HIGHEST),
        "the operation 'exp' of the layer block_03 has what exporters do not know: accuracy=",
    ),
    'the number of images': (lambda x: x * x.shape[0], 'computes with the number of images'),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_not_known_is_named_with_its_layer(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        traced(jax.named_scope('block_03')(function))
    assert '\n' not in str(caught.value)
    assert len(str(caught.value)) < 300
