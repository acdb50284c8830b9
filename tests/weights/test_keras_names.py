"""Keras's names, shapes and layout of our variables; what does not fit; round trips."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import published_names
import pytest
from flax.traverse_util import flatten_dict

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile.weights import from_keras, to_keras

# Variables of keras.applications' networks, in order: Keras 3.15.1.
VARIABLES = published_names.read('keras_names.txt', ('gamma', 'beta', 'moving_mean', 'moving_variance'), '/')


@functools.cache
def create(name, num_classes=3):
    model = flaxmobile.create_model(name, num_classes=num_classes)
    return model, random_variables(model, (1, 64, 64, 3))


def assert_same(got, wanted):
    got, wanted = flatten_dict(got, sep='/'), flatten_dict(wanted, sep='/')
    assert got.keys() == wanted.keys()
    for path, array in wanted.items():
        assert got[path].dtype == array.dtype
        assert np.asarray(got[path]).tobytes() == np.asarray(array).tobytes()


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.thorough if 'large' in name else ()) for name in VARIABLES]
)
def test_names_shapes_and_order(name):
    arrays = to_keras(create(name, 1000)[1], flaxmobile.create_model(name))
    assert [(path, array.shape) for path, array in arrays.items()] == list(VARIABLES[name].items())


@pytest.mark.parametrize(
    'name',
    [
        # The first two are read back with a head of one's own, below.
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ('tf_mobilenetv1_025', 'tf_mobilenetv2_035')),
        'tf_mobilenetv3_small_minimal_100',
    ],
)
def test_round_trip(name):
    model, variables = create(name)
    assert_same(from_keras(to_keras(variables, model), model), variables)


def test_layouts_worked_by_hand():
    model, variables = create('tf_mobilenetv1_025')
    arrays = to_keras(variables, model)
    block = variables['params']['block_00']
    depthwise, classifier = block['depthwise']['conv']['kernel'], variables['params']['classifier']['kernel']
    for row, column, channel in ((0, 2, 5), (1, 1, 0)):
        assert arrays['conv_dw_1/kernel'][row, column, channel, 0] == depthwise[row, column, 0, channel]
    assert arrays['conv_preds/kernel'][0, 0, 17, 2] == classifier[17, 2]
    assert arrays['conv_pw_1_bn/gamma'][3] == block['pointwise']['norm']['scale'][3]
    assert arrays['conv_pw_1_bn/beta'][3] == block['pointwise']['norm']['bias'][3]
    statistics = variables['batch_stats']['block_00']['pointwise']['norm']
    assert arrays['conv_pw_1_bn/moving_mean'][3] == statistics['mean'][3]
    assert arrays['conv_pw_1_bn/moving_variance'][3] == statistics['var'][3]


# Keras's layer, and its name in the `.h5` files that Keras publishes (tf.keras and keras-applications of 2018 to 2020).
PUBLISHED = {
    'tf_mobilenetv2_035': {
        'Conv1': 'Conv1',
        'bn_Conv1': 'bn_Conv1',
        'expanded_conv_depthwise': 'mobl0_conv_0_depthwise',
        'expanded_conv_project_BN': 'bn0_conv_0_bn_project',
        'block_12_expand': 'mobl12_conv_12_expand',
        'block_16_depthwise_BN': 'bn16_conv_16_bn_depthwise',
        'Conv_1_bn': 'Conv_1_bn',
        'predictions': 'Logits',
    },
    'tf_mobilenetv3_small_075': {
        'conv': 'Conv',
        'conv_bn': 'Conv/BatchNorm',
        'expanded_conv_depthwise': 'expanded_conv/depthwise',
        'expanded_conv_squeeze_excite_conv': 'expanded_conv/squeeze_excite/Conv',
        'expanded_conv_3_squeeze_excite_conv_1': 'expanded_conv_3/squeeze_excite/Conv_1',
        'expanded_conv_10_expand_bn': 'expanded_conv_10/expand/BatchNorm',
        'expanded_conv_10_project': 'expanded_conv_10/project',
        'conv_1_bn': 'Conv_1/BatchNorm',
        'conv_2': 'Conv_2',
        'logits': 'Logits',
    },
}


def published(name, layer):
    """The published file's name of any of Keras's layers, by rewriting it."""
    if 'v2' in name:
        layer = layer.replace('expanded_conv_', 'block_0_').replace('predictions', 'Logits')
        if layer.startswith('block_'):
            _, number, *kind = layer.split('_')
            norm = kind[-1] == 'BN'
            return f'bn{number}_conv_{number}_bn_{kind[0]}' if norm else f'mobl{number}_conv_{number}_{kind[0]}'
        return layer
    layer = layer.replace('squeeze_excite_conv', 'squeeze_excite/Conv').replace('_bn', '/BatchNorm')
    for part in ('expand', 'depthwise', 'project', 'squeeze_excite'):
        layer = layer.replace(f'_{part}', f'/{part}').replace('/expanded', '_expanded')
    return layer[0].upper() + layer[1:] if layer[:5] in ('conv', 'conv_', 'conv/', 'logit') else layer


@pytest.mark.parametrize('name', PUBLISHED)
def test_names_of_the_published_files(name):
    for layer, wanted in PUBLISHED[name].items():
        assert published(name, layer) == wanted
    model, variables = create(name)
    renamed = {
        f'{published(name, path.rpartition("/")[0])}/{path.rpartition("/")[2]}': array
        for path, array in to_keras(variables, model).items()
    }
    assert {path.rpartition('/')[0] for path in renamed} >= set(PUBLISHED[name].values())
    assert_same(from_keras(renamed, model), variables)


def by_class(arrays):
    """Keras's variables named by class and number among the layers of that class."""
    counts, named = {}, {}
    renamed = {}
    for path, array in arrays.items():
        layer, _, leaf = path.rpartition('/')
        if layer not in named:
            kind = 'depthwise_conv2d' if 'depthwise' in layer or '_dw_' in layer else 'conv2d'
            kind = 'batch_normalization' if leaf == 'gamma' else 'dense' if layer == 'predictions' else kind
            counts[kind] = counts.get(kind, -1) + 1
            named[layer] = f'{kind}_{counts[kind]}' if counts[kind] else kind
        renamed[f'{named[layer]}/{leaf}'] = array
    return renamed


@pytest.mark.parametrize(
    'name',
    [
        pytest.param('tf_mobilenetv1_025', marks=pytest.mark.thorough),
        'tf_mobilenetv2_035',
        'tf_mobilenetv3_small_075',
    ],
)
def test_names_by_class_and_number(name):
    model, variables = create(name)
    renamed = by_class(to_keras(variables, model))
    assert {'conv2d/kernel', 'depthwise_conv2d_3/kernel', 'batch_normalization_9/gamma'} <= renamed.keys()
    assert_same(from_keras(renamed, model), variables)


@pytest.mark.parametrize('name', ['tf_mobilenetv1_025', 'tf_mobilenetv2_035'])
def test_a_head_of_ones_own(name):
    """What transfer learning makes: the network without its top, and a dense layer that Keras named itself."""
    model, variables = create(name)
    arrays = to_keras(variables, model)
    top = 'conv_preds' if 'v1' in name else 'predictions'
    arrays['dense_4/kernel'] = arrays.pop(f'{top}/kernel').reshape(-1, 3)
    arrays['dense_4/bias'] = arrays.pop(f'{top}/bias')
    assert_same(from_keras(arrays, model), variables)
    arrays['dense_5/kernel'] = arrays['dense_4/kernel']
    with pytest.raises(ValueError, match=rf'missing \(2\): {top}/kernel, .*unexpected \(3\): .*dense_5/kernel'):
        from_keras(arrays, model)


def test_without_its_top():
    model, variables = create('tf_mobilenetv2_035', num_classes=0)
    arrays = to_keras(variables, model)
    assert 'predictions/kernel' not in arrays
    assert_same(from_keras(arrays, model), variables)
    larger, initial = create('tf_mobilenetv2_035')
    got = from_keras(arrays, larger, excuse=['predictions/*'], initial=initial)
    assert_same(got, {**variables, 'params': {**variables['params'], 'classifier': initial['params']['classifier']}})


def test_a_v3_without_its_top_lacks_the_head_convolution():
    model, initial = create('tf_mobilenetv3_small_075', num_classes=0)
    arrays = {name: array + 1 for name, array in to_keras(initial, model).items() if not name.startswith('conv_2/')}
    with pytest.raises(ValueError, match=r'missing \(2\): conv_2/kernel, conv_2/bias'):
        from_keras(arrays, model)
    got = from_keras(arrays, model, excuse=['conv_2/*'], initial=initial)
    assert (got['params']['head_conv']['kernel'] == initial['params']['head_conv']['kernel']).all()
    assert (got['params']['stem']['conv']['kernel'] == initial['params']['stem']['conv']['kernel'] + 1).all()


def test_all_that_does_not_fit_is_named():
    model, variables = create('tf_mobilenetv1_025')
    arrays = to_keras(variables, model)
    arrays['conv_dw_3/kernel'] = arrays['conv_dw_3/kernel'].swapaxes(2, 3)
    arrays['conv1_bn/beta'] = arrays['conv1_bn/beta'].astype(np.int32)
    arrays['conv_other/kernel'] = arrays.pop('conv_pw_13/kernel')
    with pytest.raises(ValueError, match='the tensors do not fit MobileNetV1; by the names of Keras') as raised:
        from_keras(arrays, model)
    for words in (
        'missing (1): conv_pw_13/kernel',
        'unexpected (1): conv_other/kernel',
        'conv_dw_3/kernel is (3, 3, 1, 32) instead of (3, 3, 32, 1)',
        'conv1_bn/beta is int32',
    ):
        assert words in str(raised.value)


def test_types_and_channels():
    model = flaxmobile.create_model('tf_mobilenetv1_025', num_classes=3)
    variables = random_variables(model, (1, 64, 64, 5))
    half = {name: array.astype(jnp.bfloat16) for name, array in to_keras(variables, model).items()}
    got = from_keras(half, model)
    assert got['params']['stem']['conv']['kernel'].shape == (3, 3, 5, 8)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(got)} == {'float32'}


def test_networks_that_keras_has_not():
    model = flaxmobile.create_model('mobilenetv1_100h')
    with pytest.raises(
        ValueError, match='Keras has no names for these of MobileNetV1: batch_stats/head_conv/norm/mean, '
    ):
        to_keras(random_variables(model, (1, 64, 64, 3)), model)
    with pytest.raises(ValueError, match=r'Keras has no MobileNetV4.*; it has MobileNetV1, MobileNetV2, MobileNetV3'):
        from_keras({}, flaxmobile.create_model('mobilenetv4_conv_small'))
