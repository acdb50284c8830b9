"""Each operation in a Core ML package, computed by torch, beside JAX; and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from flaxmobile import ops
from flaxmobile.export.coreml.package import operations, save
from flaxmobile.export.operators.writing import write
from flaxmobile.export.program import Program
from tests.export.onnx_runs import Layers, convolve, noise

pytestmark = pytest.mark.parity
IMAGES = noise(1, 4, 6, 8)
SAID = {'name': '', 'version': '0', 'license': None, 'source': None}


def saved(functions, images, folder):
    """The package of functions of images, by name."""

    def answers(values):
        return tuple(leaf for function in functions.values() for leaf in jax.tree.leaves(function(values)))

    counts = {name: len(jax.tree.leaves(jax.eval_shape(function, images))) for name, function in functions.items()}
    names = tuple(f'{name}_{number}'.replace(' ', '_') for name, count in counts.items() for number in range(count))
    program = Program(ops.standard(answers), jax.ShapeDtypeStruct(images.shape, images.dtype), names)
    save(write(program), folder, SAID, labels=None, float16=False)


def same(functions, folder, images=IMAGES, tolerance=1e-6):
    """See that one package of all answers as JAX, relative to the largest number of an output; its operations."""
    from mil_in_torch import run

    path = folder / 'model.mlpackage'
    saved(functions, images, path)
    wanted = [leaf for function in functions.values() for leaf in jax.tree.leaves(function(images))]
    answers = run(path, images.transpose(0, 3, 1, 2))
    for (name, got), want in zip(answers.items(), map(np.asarray, wanted), strict=True):
        got = got.transpose(0, 2, 3, 1) if got.ndim == 4 else got
        assert got.shape == want.shape, name
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max(), err_msg=name)
    return operations(path)


PLAIN = {
    'arithmetic': lambda x: (x + 1) * x - x / 3 + 2 / (x + 40) - 3 * (5 - x) - 0.25 * (-x),
    'extremes': lambda x: (jnp.maximum(x, x * x), jnp.minimum(x, 1.0), abs(x), jnp.sign(x)),
    'roots and powers': lambda x: (jnp.sqrt(x * x), lax.rsqrt(x * x + 1), x**3, x**-2, jnp.abs(x) ** 1.5),
    'transcendental': lambda x: (jnp.exp(x), jnp.tanh(x), jnp.sin(x), jnp.cos(x), lax.erf(x), lax.erfc(x)),
    'rounding': lambda x: (jnp.floor(x), jnp.ceil(x)),
    'activations': lambda x: (
        jax.nn.relu(x),
        jnp.clip(x, 0, 6),
        jnp.clip(x, -1, 2),
        jax.nn.hard_sigmoid(x),
        jax.nn.hard_swish(x),
        jax.nn.sigmoid(x),
        jax.nn.silu(x),
        jax.nn.gelu(x, approximate=False),
        jax.nn.gelu(x, approximate=True),
        jax.nn.softmax(x, 2),
    ),
    'reductions': lambda x: (
        x.sum(1),
        x.max((1, 3)),
        x.min(2, keepdims=True),
        (x / 4).prod(3),
        x.mean((1, 2)),
        x.mean(3),
    ),
    'joined': lambda x: (
        jnp.concatenate([x, x + 1], 3),
        jnp.concatenate([x, jnp.ones_like(x)], 1),
        jnp.stack([x, -x], 1),
    ),
    'broadcast': lambda x: jnp.concatenate([jnp.broadcast_to(x[:, :1, :1], x.shape), x], 2),
    'broadcast of numbers': lambda x: jnp.concatenate(
        [jnp.broadcast_to(np.arange(8, dtype=np.float32), x.shape), x], 1
    ),
    'parts': lambda x: (x[:, 0, 0], x[:, 1, 2:4], x[..., 3], x[:, ::2, 1:3, ::3]),
    'places': lambda x: (x[:, np.array([0, 0, 2])], x[:, :, np.array([4, 0]), :]),
    'padded': lambda x: jnp.tanh(jnp.pad(x, ((0, 0), (1, 0), (2, 3), (0, 1)), constant_values=2)),
    'reshaped': lambda x: (
        x.reshape(x.shape[0], 24, 8),
        x.reshape(x.shape[0], -1),
        jnp.tanh(x.reshape(x.shape[0], 2, 2, 6, 8)),
    ),
    'transposed': lambda x: (jnp.transpose(x, (0, 2, 1, 3)), jnp.tanh(x).reshape(x.shape[0], 24, 8).swapaxes(1, 2)),
    'nearest': lambda x: jnp.repeat(jnp.repeat(x, 2, 1), 3, 2),
    'average pooling': lambda x: x.reshape(x.shape[0], 2, 2, 3, 2, 8).mean((2, 4)),
    'products': lambda x: (
        x.mean((1, 2)) @ noise(8, 5),
        jnp.einsum('bhwc,cf->bhwf', x, noise(8, 5)),
        jnp.einsum('bhwc,bgvc->bhwgv', x, x),
        jnp.einsum('bhwc,bhwd->bcd', x, x),
    ),
    'an input as it is': lambda x: (x, x + 1),
}


def test_plain(tmp_path):
    same(PLAIN, tmp_path)


CONVOLUTIONS = {
    'padded on one side': ((3, 3), {'window_strides': (2, 2), 'padding': ((0, 1), (1, 2))}),
    'of two sizes': ((1, 4), {'window_strides': (1, 2), 'padding': ((0, 0), (2, 1))}),
    'dilated': ((3, 2), {'rhs_dilation': (1, 2), 'padding': ((1, 1), (1, 1))}),
    'of groups': ((3, 3), {'feature_group_count': 4}),
    'depthwise': ((3, 3), {'feature_group_count': 8, 'padding': 'SAME'}),
}


def convolution(size, fields):
    kernel = noise(*size, 8 // fields.get('feature_group_count', 1), 16, scale=0.3)
    return lambda x: convolve(x, kernel, **fields) + noise(16, seed=1)


def test_convolutions(tmp_path):
    functions = {name: convolution(*told) for name, told in CONVOLUTIONS.items()}
    assert same(functions, tmp_path, noise(1, 7, 9, 8)) == {'conv': len(functions)}


def test_a_kernel_that_is_computed(tmp_path):
    def function(x):
        return convolve(x, jnp.tanh(x.max(0)[:3, :3, :, None] * 0.1) * np.ones(5, np.float32))

    same({'computed': function}, tmp_path)


def test_operations_one_for_one(tmp_path):
    """A hard swish is two, since Core ML has none,"""

    def function(x):
        x = jax.nn.hard_swish(convolve(x, noise(3, 3, 8, 4, scale=0.1)))
        x = jnp.clip(convolve(x, noise(1, 1, 4, 4, scale=0.3)) + noise(4), 0, 6) + x
        return jax.nn.softmax(x.mean((1, 2)) @ noise(4, 5, scale=0.3) + noise(5, scale=0.3))

    assert same({'network': function}, tmp_path) == {
        'conv': 2,
        'add': 1,
        'linear': 1,
        'mul': 1,
        'reduce_mean': 1,
        'relu6': 1,
        'reshape': 1,
        'sigmoid_hard': 1,
        'softmax': 1,
    }


def test_constants_are_the_arrays_bit_for_bit(tmp_path):
    from mil_in_torch import Package

    kernel, bias = noise(3, 3, 8, 5), noise(5)
    path = tmp_path / 'model.mlpackage'
    saved({'convolution': lambda x: convolve(x, kernel) + bias}, IMAGES, path)
    constants = [value for value in Package(path).constants.values() if getattr(value, 'dtype', None) == np.float32]
    found = {value.shape: value for value in constants}
    np.testing.assert_array_equal(found[5, 8, 3, 3], kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(found[5,], bias)


REFUSED = {
    'sort': (jnp.sort, "operation 'sort' of the layer block_03 is none that exporters know"),
    'logarithm': (
        lambda x: jnp.log(x * x + 1),
        "operation 'log' of the layer block_03 is of a form that Core ML files are not written for",
    ),
    'whole numbers': (
        lambda x: x.astype(jnp.int32).astype(jnp.float32),
        "operation 'convert_element_type' of the layer block_03 makes int32 of float32: of pixels alone it is known",
    ),
    'truth values': (
        lambda x: jnp.where(x > 0, x, -2.0),
        "operation 'gt' of the layer block_03 is of a form that Core ML files are not written for",
    ),
    'more than five axes': (
        lambda x: jnp.tanh(x.reshape(x.shape[0], 2, 2, 2, 3, 8)),
        "operation 'reshape' of the layer block_03 has a tensor of more than 5 axes, which Core ML has not",
    ),
    'backwards': (lambda x: x[:, ::-1], "operation 'rev' of the layer block_03 goes backwards, which is not known"),
}


@pytest.mark.parametrize('name', REFUSED)
def test_what_is_not_known_is_refused_by_name_and_layer(name, tmp_path):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as caught:
        saved({'network': lambda x: Layers(function).apply({}, x)}, IMAGES, tmp_path / 'model.mlpackage')
    assert len(str(caught.value)) < 300
    assert '\n' not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
