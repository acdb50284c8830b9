"""MobileNetV5 without timm: a network without BatchNorm, and a head that fuses two maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile import layers
from flaxmobile.models import MobileNetV5, MobileNetV5Encoder
from flaxmobile.models.inference import forward
from flaxmobile.models.mobilenetv4 import attention, convnext, extra_dw, ffn, fused

SHAPE = (2, 33, 47, 3)
TABLE = (
    (fused(3, 4, 128, s=2),),
    (convnext(3, 4, 256, s=2),),
    (extra_dw(3, 3, 2, 640, s=2), attention(2, 8, 2), ffn(2, 640)),
    (fused(3, 1, 1280, s=2), attention(2, 8)),
)


class Short(MobileNetV5):
    """A block of each kind."""

    table = TABLE


class Trained(MobileNetV5):
    """As little as there can be to differentiate: convolutions of each kind, attention and the head."""

    table = ((fused(3, 2, 128, s=2),), (convnext(3, 2, 256, s=2), attention(2, 8)))


class ShortEncoder(MobileNetV5Encoder):
    """The same."""

    table = TABLE


SMALL = {'width_multiplier': 0.0625, 'convention': 'torch'}
NETWORK, ENCODER = Short(5, **SMALL), ShortEncoder(**SMALL)


@functools.cache
def variables_and_images():
    return random_variables(NETWORK, SHAPE), np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def encoder_variables():
    params = variables_and_images()[0]['params']
    return {'params': {name: part for name, part in params.items() if name != 'classifier'}}


@functools.cache
def shape_of(model, size=(64, 64), method='__call__'):
    init = functools.partial(model.init_with_output, method=method)
    return jax.eval_shape(init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))


def test_the_only_collection_is_params_and_the_only_norm_has_no_bias():
    _, variables = shape_of(NETWORK)
    assert variables.keys() == {'params'}
    paths = ['/'.join(key.key for key in path) for path, _ in jax.tree.leaves_with_path(variables['params'])]
    norms = [path for path in paths if '/norm/' in path]
    # Stem; 2 of a fused block, 3 of a ConvNeXt, 4 of an ExtraDW, 3 and 1 of attention, 2 of an FFN; 3 of the head.
    assert len(norms) == 1 + 2 * 2 + 3 + 4 + 3 + 1 + 2 + 3
    assert all(path.endswith('/norm/scale') for path in norms)
    assert [path for path in paths if path.endswith('/bias')] == ['classifier/bias', 'stem/conv/bias']


def test_a_network_without_batch_norm_is_trained():
    model, (_, images) = Trained(5, **SMALL, stochastic_depth_rate=0.1), variables_and_images()
    variables = random_variables(model, SHAPE)

    @jax.jit
    def gradients(params):
        def loss(params):
            options = {'train': True, 'mutable': ['batch_stats'], 'rngs': {'dropout': jax.random.key(0)}}
            logits, updates = model.apply({'params': params}, images, **options)
            assert not updates
            return jnp.sum(jnp.square(logits))

        return jax.grad(loss)(params)

    found = jax.tree.map(lambda leaf: float(np.abs(leaf).max()), gradients(variables['params']))
    assert all(0 < largest < np.inf for largest in jax.tree.leaves(found))


def test_the_compiled_network_and_the_encoder_fused_and_pooled_are_the_network():
    variables, images = variables_and_images()

    @jax.jit
    def run(variables, images):
        embedding = NETWORK.apply(variables, images, method='embed')
        return forward(NETWORK, variables, images, platform='cpu'), embedding, ENCODER.apply(encoder, images)

    encoder = encoder_variables()
    logits, embedding, fused_map = run(variables, images)
    assert fused_map.shape == (2, 16, 16, 2048)
    np.testing.assert_allclose(embedding, np.mean(fused_map, axis=(1, 2)), rtol=1e-4, atol=1e-5)
    classifier = variables['params']['classifier']
    want = np.asarray(embedding, np.float64) @ np.asarray(classifier['kernel'], np.float64) + classifier['bias']
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    assert layers.fold_batch_norm(NETWORK, variables, images) == variables


def test_an_encoder_has_no_classes():
    assert flaxmobile.create_model('mobilenetv5_300m_enc').num_classes == 0
    assert flaxmobile.create_model('mobilenetv5_300m').num_classes == 0
    with pytest.raises(ValueError, match='num_classes must be a whole number, 0: an encoder has no classifier, not 10'):
        flaxmobile.create_model('mobilenetv5_300m_enc', num_classes=10)


@pytest.mark.parametrize('size', [(16, 24), (97, 131), (512, 256)])
def test_the_fused_map_has_16x16_pixels_whatever_the_image_has(size):
    assert shape_of(ENCODER, size)[0].shape == (1, 16, 16, 2048)
    assert shape_of(NETWORK.clone(num_classes=0), size)[0].shape == (1, 2048)


@pytest.mark.parametrize('output_stride', [8, 16, 32])
def test_the_last_two_stages_are_fused_at_every_output_stride(output_stride):
    """Their maps are 40 and 80 channels wide, and of one size where strides became dilation."""
    _, variables = shape_of(NETWORK.clone(output_stride=output_stride))
    assert variables['params']['head_conv']['expand']['conv']['kernel'].shape == (1, 1, 120, 240)


# By hand: two channels of maps 2x2 and 1x1; without expansion's nonlinearity the fusion is the sum of the three.
def test_fusion_by_hand():
    fine = np.asarray([[[1.0], [2.0]], [[3.0], [4.0]]])[None]
    coarse = np.full((1, 1, 1, 1), 10.0)
    layer = layers.MultiScaleFusion(1, expansion_ratio=2, activation='linear', size=1, norm=None)
    expand, project = np.zeros((1, 1, 2, 8)), np.zeros((1, 1, 8, 1))
    expand[0, 0, 0, 0] = expand[0, 0, 1, 1] = project[0, 0, 0, 0] = 1
    project[0, 0, 1, 0] = 100
    params = {'expand': {'conv': {'kernel': expand}}, 'project': {'conv': {'kernel': project}}}
    assert jax.jit(layer.apply)({'params': params}, (fine, coarse)).ravel() == pytest.approx(2.5 + 1000)
    whole = jax.jit(layer.clone(size=2).apply)({'params': params}, (fine, coarse))
    np.testing.assert_allclose(whole[0, :, :, 0], [[1001, 1002], [1003, 1004]])
