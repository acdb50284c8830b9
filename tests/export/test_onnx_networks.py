"""A small network of each family, in ONNX Runtime and OpenVINO, beside JAX with BatchNorm unfolded."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from small_networks import of_ones

from benchmarks.export_rules import depthwise_nodes, layers_of, unexpected
from flaxmobile import create_model
from flaxmobile.data import Preprocessing
from flaxmobile.export.onnx import onnx_model
from flaxmobile.export.program import in_float32, make_program
from flaxmobile.layers import ConvNorm, InvertedResidual
from flaxmobile.models.mobilenetv4 import (
    MobileNetV4HybridLarge,
    Table,
    attention,
    convnext,
    extra_dw,
    ffn,
    fused,
)
from flaxmobile.models.mobilenetv5 import MobileNetV5, MobileNetV5Encoder
from flaxmobile.models.network import MobileNet
from flaxmobile.weights import Model
from tests.export.onnx_runs import kinds, run

pytestmark = pytest.mark.export

SHORT: Table = (
    (fused(3, 4, 32, s=2),),
    (extra_dw(3, 5, 6, 64, s=2), convnext(5, 4, 64)),
    (extra_dw(5, 5, 6, 64, s=2), ffn(1, 64), attention(2, 16, 2), ffn(2, 64)),
    (extra_dw(5, 5, 6, 96, s=2), attention(4, 24), ffn(2, 96)),
)


class Tiny(MobileNet):
    """A stem and two blocks."""

    def stem_layer(self):
        return ConvNorm(features=8, kernel_size=3)

    def stages(self):
        return [[InvertedResidual(features=16, strides=2), InvertedResidual(features=16, activation='hard_swish')]]


class ShortHybrid(MobileNetV4HybridLarge):
    """MobileNetV4-Hybrid-Large with a block or two of each kind."""

    table: ClassVar[Table] = SHORT


class ShortV5(MobileNetV5):
    """MobileNetV5 with a block or two of each kind."""

    table: ClassVar[Table] = SHORT


class ShortEncoder(MobileNetV5Encoder):
    """The encoder of the same blocks."""

    table: ClassVar[Table] = SHORT


def random_model(module: nn.Module, size: int) -> Model:
    """Random weights and statistics that keep the maps' numbers of one size."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    rng = np.random.default_rng(0)

    def leaf(path, like):
        name = path[-1].key
        if name in ('var', 'scale', 'gamma'):
            return rng.uniform(0.4, 0.9, like.shape).astype(np.float32)
        deviation = 0.2 if len(like.shape) == 1 else 1 / np.sqrt(np.prod(like.shape[:-1]))
        return (deviation * rng.normal(size=like.shape)).astype(np.float32)

    task = 'classification' if module.num_classes else None
    return Model(module, jax.tree_util.tree_map_with_path(leaf, shapes), Preprocessing(image_size=size), task=task)


def small(name, **fields):
    return create_model(name, **{'num_classes': 10} | fields)


NETWORKS = {
    'V1': (small('tf_mobilenetv1_025'), 40),
    'V2': (small('mobilenetv2_035'), 48),
    'V2, dilated': (small('tf_mobilenetv2_035', output_stride=8), 44),
    'V3 small': (small('mobilenetv3_small_050'), 48),
    'V3 as torchvision has it, dilated': (
        small('tv_mobilenetv3_small_100', width_multiplier=0.35, output_stride=16),
        48,
    ),
    'V4': (small('mobilenetv4_conv_small_035'), 64),
    'V4, blurred': (small('mobilenetv4_conv_blur_medium', width_multiplier=0.2), 64),
    'V4, averaged': (small('mobilenetv4_conv_aa_medium', width_multiplier=0.2), 72),
    'V4 hybrid': (ShortHybrid(num_classes=10, convention='torch'), 64),
    'V5': (ShortV5(num_classes=10, convention='torch'), 96),
    'V5 encoder': (ShortEncoder(convention='torch'), 64),
    'EdgeTPU': (small('mobilenet_edgetpu_v2_xs'), 32),
    'MnasNet': (small('semnasnet_050'), 48),
}


def near(got: np.ndarray, want: np.ndarray, tolerance: float = 5e-5) -> None:
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize('name', NETWORKS)
def test_a_network_answers_as_in_jax(name):
    module, size = NETWORKS[name]
    model = random_model(module, size)
    images = np.random.default_rng(1).normal(size=(5, size, size, 3)).astype(np.float32)
    want = np.asarray(jax.jit(module.apply)(model.variables, images))
    assert 0.01 < want.std() < 100
    program = make_program(model)
    written = onnx_model(program)
    layers = layers_of(model)
    assert unexpected('.onnx', kinds(written), layers) == {}
    assert depthwise_nodes(written) == layers.depthwise + layers.blurs
    near(run(written, images)[0], want)
    near(run(written, images[:1])[0], want[:1])
    if name in ('V3 small', 'V4 hybrid', 'V5 encoder'):
        last = onnx_model(program, layout='nhwc')
        near(run(last, images, 'nhwc')[0], want)
        assert kinds(last).get('Transpose', 0) == kinds(written).get('Transpose', 0) + 1 + (want.ndim == 4)
    if name in ('V3 small', 'V4 hybrid', 'V5'):
        near(by_openvino(written, images), want)


def by_openvino(model, images):
    """What OpenVINO answers, of the same file."""
    import openvino

    core = openvino.Core()
    told = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': 1}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), 'CPU', told)
    return compiled(images.transpose(0, 3, 1, 2))[0]


def test_a_network_without_classes_answers_its_embedding():
    model = random_model(Tiny(num_classes=0), 32)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    want = np.asarray(jax.jit(model.module.apply)(model.variables, images))
    written = onnx_model(make_program(model))
    assert written.graph.output[0].name == 'embedding'
    assert 'Gemm' not in kinds(written)
    near(run(written, images)[0], want)


# Of torch's own exporter (2.14.1, dynamo) for timm's networks.
COUNTS = {
    'mobilenetv2_100': {'Conv': 52, 'Clip': 35, 'Add': 10, 'GlobalAveragePool': 1, 'Flatten': 1, 'Gemm': 1},
    'mobilenetv3_large_100': 140,
}


@pytest.mark.parametrize('name', COUNTS)
def test_as_few_nodes_as_torch_writes(name):
    made = kinds(onnx_model(make_program(of_ones(name, 224))))
    if name == 'mobilenetv2_100':
        assert made == COUNTS[name]
    else:
        assert sum(made.values()) <= COUNTS[name]
        assert 'Transpose' not in made


def test_pixels_in_and_probabilities_out():
    model = random_model(Tiny(num_classes=10), 32)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    logits = jax.jit(model.module.apply)(model.variables, (pixels / np.float32(255) - mean) / std)
    want = np.exp(np.asarray(logits, np.float64))
    want /= want.sum(1, keepdims=True)
    for layout in ('nchw', 'nhwc'):
        written = onnx_model(make_program(model, uint8_input=True, softmax=True), layout=layout)
        assert written.graph.input[0].type.tensor_type.elem_type == 2  # uint8
        assert written.graph.output[0].name == 'probabilities'
        near(run(written, pixels, layout)[0], want.astype(np.float32), 1e-5)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_a_network_of_half_precision_is_written_in_float32(dtype):
    """Its file answers as the same network in float32 does, of the rounded parameters."""
    module = Tiny(num_classes=10, dtype=dtype, param_dtype=dtype)
    model = random_model(module, 32)
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype), model.variables['params'])
    model = dataclasses.replace(model, variables={**model.variables, 'params': rounded})
    with pytest.raises(ValueError, match=rf'of the layer stem computes in {jnp.dtype(dtype).name}'):
        onnx_model(make_program(model))
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), {**model.variables, 'params': rounded})
    want = np.asarray(jax.jit(Tiny(num_classes=10).apply)(wide, images))
    near(run(onnx_model(make_program(in_float32(model))), images)[0], want)
