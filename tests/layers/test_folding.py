"""BatchNorm folded in modules of every make, in float64, against the module as it stands."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks.random_variables import random_variables
from flaxmobile import layers, ops
from flaxmobile.layers.folding import is_folded
from flaxmobile.models import MobileNetV3Small

SHAPE = (2, 32, 32, 3)


class Backbone(MobileNetV3Small):
    """Squeeze-excite, both activations, blocks with and without expansion, and the epsilon of torch."""

    table = MobileNetV3Small.table[:3]


class Tower(nn.Module):
    """Of a user: its own convolution and BatchNorm by our names, with an activation between them."""

    @nn.compact
    def __call__(self, images):
        values = nn.relu(nn.Conv(8, (3, 3), name='conv')(images))
        return nn.BatchNorm(use_running_average=True, name='norm')(values)


class PreNorm(nn.Module):
    """Of a user: BatchNorm before the convolution, by our names."""

    @nn.compact
    def __call__(self, images):
        values = nn.BatchNorm(use_running_average=True, name='norm')(images)
        return nn.Conv(8, (1, 1), use_bias=False, name='conv')(values)


class Detector(nn.Module):
    """A backbone and two heads that it shares: an epsilon of their own, biases beside norms, norms of other kinds."""

    backbone: MobileNetV3Small

    def setup(self):
        self.tower, self.pre_norm = Tower(), PreNorm()
        fields = {'features': 8, 'kernel_size': 3, 'activation': 'relu'}
        self.shared = layers.ConvNorm(**fields, use_bias=True)
        self.heads = [layers.ConvNorm(**fields), layers.ConvNorm(**fields, norm='rms', use_bias=True)]
        self.boxes = layers.ConvNorm(features=4, norm=None, use_bias=True, activation='linear')

    def __call__(self, images):
        maps = self.backbone.features(images)
        tower = self.pre_norm(self.tower(maps[-1]))
        levels = self.shared(tower), self.shared(ops.average_pool(tower))
        return [self.boxes(head(level)) for level, head in zip(levels, self.heads, strict=True)]


def detector():
    return Detector(Backbone(num_classes=0, width_multiplier=0.35, convention='torch'))


def relative(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    return np.max(np.abs(got - want)) / np.max(np.abs(want))


def folded_and_whole(module, shape=SHAPE):
    """Outputs of the folded module and of the module, and the variables of both, in float64."""
    images = np.random.default_rng(0).normal(size=shape)
    variables = random_variables(module, shape, dtype=np.float64)
    folded = layers.fold_batch_norm(module, variables, images)
    outputs = [jax.tree.leaves(jax.jit(module.apply)(values, images)) for values in (folded, variables)]
    assert all(np.ptp(want) > 0 for want in outputs[1])
    return *outputs, folded, variables


def paths(tree):
    return {'/'.join(path[:-1]) for path in flatten_dict(tree)}


def test_a_detector():
    with jax.enable_x64(True):
        got, want, folded, variables = folded_and_whole(detector())
        assert max(map(relative, got, want)) <= 1e-12
    assert paths(folded['batch_stats']) == {'tower/norm', 'pre_norm/norm'}
    of_heads = {path for path in paths(folded['params']) if not path.startswith('backbone')}
    assert of_heads == {
        *('tower/conv', 'tower/norm', 'pre_norm/conv', 'pre_norm/norm'),
        *('shared/folded', 'heads_0/folded', 'heads_1/conv', 'heads_1/norm', 'boxes/conv'),
    }
    of_backbone = {path for path in paths(folded['params']) if path.startswith('backbone')}
    assert of_backbone == {
        path.removesuffix('conv') + 'folded' if path.endswith('/conv') else path
        for path in paths(variables['params'])
        if path.startswith('backbone') and not path.endswith('/norm')
    } - {path for path in paths(variables['params']) if path.startswith('backbone/head_conv')}


@pytest.mark.parametrize('activation', ['linear', 'hard_swish'])
@pytest.mark.parametrize(
    'fields',
    [
        {'features': 6, 'kernel_size': 3, 'strides': 2},
        {'features': 6, 'kernel_size': 3, 'kind': 'depthwise', 'anti_aliasing': 'blur', 'strides': 2},
        {'features': 6, 'kernel_size': 3, 'groups': 3, 'dilation': 2},
        {'features': 4, 'kind': 'pointwise'},
    ],
)
def test_a_bias_beside_batch_norm_is_folded_into_it(fields, activation):
    layer = layers.ConvNorm(**fields, activation=activation, use_bias=True)
    with jax.enable_x64(True):
        (got,), (want,), folded, _ = folded_and_whole(layer, (2, 7, 6, 3))
        assert relative(got, want) <= 1e-12
    assert paths(folded['params']) == {'folded'}
    assert 'batch_stats' not in folded


def test_folding_by_hand():
    """2 x + 3 has mean 5 and variance 3, and an epsilon of 1: (2 x + 3 - 5) / 2 * 4 + 1 = 4 x - 3."""
    layer = layers.ConvNorm(1, use_bias=True, activation='linear', convention=layers.Convention(epsilon=1.0))
    params = {
        'conv': {'kernel': jnp.full((1, 1, 1, 1), 2.0), 'bias': jnp.asarray([3.0])},
        'norm': {'scale': jnp.asarray([4.0]), 'bias': jnp.asarray([1.0])},
    }
    statistics = {'norm': {'mean': jnp.asarray([5.0]), 'var': jnp.asarray([3.0])}}
    variables = {'params': params, 'batch_stats': statistics}
    folded = layers.fold_batch_norm(layer, variables, jnp.zeros((1, 1, 1, 1)))
    assert jax.tree.map(lambda leaf: leaf.item(), folded) == {'params': {'folded': {'kernel': 4.0, 'bias': -3.0}}}


class Repeated(nn.Module):
    """The same block three times over, its variables stacked; then one that is not."""

    axis: int

    @nn.compact
    def __call__(self, images):
        def block(layer, values):
            return layer(values), None

        fields = {'features': 3, 'kernel_size': 3}
        lift = {'variable_axes': {'params': self.axis, 'batch_stats': 0}, 'split_rngs': {'params': True}, 'length': 3}
        values, _ = nn.scan(block, **lift)(layers.ConvNorm(**fields, name='stacked'), images)
        return layers.ConvNorm(**fields, name='single')(values)


@pytest.mark.parametrize('axis', [0, -1])
def test_what_a_transformation_stacks_stays(axis):
    with jax.enable_x64(True):
        got, want, folded, _ = folded_and_whole(Repeated(axis), (2, 3, 3, 3))
        assert relative(got[0], want[0]) <= 1e-12
    assert paths(folded['params']) == {'stacked/conv', 'stacked/norm', 'single/folded'}
    assert paths(folded['batch_stats']) == {'stacked/norm'}


class Remade(nn.Module):
    """Rematerialised blocks."""

    @nn.compact
    def __call__(self, images):
        return nn.remat(layers.InvertedResidual)(features=3, name='block')(images)


def test_rematerialised_blocks_are_folded():
    with jax.enable_x64(True):
        got, want, folded, _ = folded_and_whole(Remade(), (2, 5, 5, 3))
        assert relative(got[0], want[0]) <= 1e-12
    assert paths(folded['params']) == {f'block/{name}/folded' for name in ('expand', 'depthwise', 'project')}


class Scaled(layers.ConvNorm):
    """Of a user: a ConvNorm that looks into its norm."""

    @nn.compact
    def __call__(self, images, *, train=False):
        values = super().__call__(images, train=train)
        return values * jnp.mean(self.variables['params']['norm']['scale'])


class Inner(nn.Module):
    """Of a user: a ConvNorm with a call of its own, behind a plain one and one that only has other fields."""

    @nn.compact
    def __call__(self, images):
        class Wide(layers.ConvNorm):
            kernel_size: int = 3

        return Scaled(3, name='scaled')(Wide(3, name='wide')(layers.ConvNorm(3, name='plain')(images)))


def test_a_call_of_a_user_s_own_stays():
    with jax.enable_x64(True):
        got, want, folded, _ = folded_and_whole(Inner(), (2, 5, 5, 3))
        assert relative(got[0], want[0]) <= 1e-12
    assert paths(folded['params']) == {'plain/folded', 'wide/folded', 'scaled/conv', 'scaled/norm'}


class TwoBranches(nn.Module):
    """A branch that evaluation does not reach."""

    @nn.compact
    def __call__(self, images, *, both=False):
        outputs = layers.ConvNorm(3, name='first')(images)
        return outputs + layers.ConvNorm(3, name='second')(images) if both or self.is_initializing() else outputs


def test_what_the_inputs_do_not_reach_stays():
    module, images = TwoBranches(), np.ones((1, 2, 2, 3), np.float32)
    variables = random_variables(module, images.shape)
    folded = layers.fold_batch_norm(module, variables, images)
    assert paths(folded['params']) == {'first/folded', 'second/conv', 'second/norm'}
    np.testing.assert_allclose(
        module.apply(folded, images, both=True), module.apply(variables, images, both=True), rtol=1e-5, atol=1e-6
    )
    whole = layers.fold_batch_norm(module, variables, images, both=True)
    assert paths(whole['params']) == {'first/folded', 'second/folded'}


def test_a_module_without_batch_norm_keeps_its_variables():
    module = layers.InvertedResidual(features=3, norm='rms')
    variables = {**random_variables(module, (1, 4, 4, 3)), 'ranges': {'lowest': jnp.ones(3)}}
    assert 'batch_stats' not in variables
    folded = layers.fold_batch_norm(module, variables, jnp.zeros((1, 4, 4, 3)))
    assert jax.tree.structure(folded) == jax.tree.structure(variables)
    assert all(map(lambda one, other: one is other, jax.tree.leaves(folded), jax.tree.leaves(variables)))


def test_other_collections_are_kept():
    layer = layers.ConvNorm(3)
    variables = {**random_variables(layer, (1, 4, 4, 3)), 'ranges': {'lowest': jnp.ones(3)}}
    assert set(layers.fold_batch_norm(layer, variables, jnp.zeros((1, 4, 4, 3)))) == {'params', 'ranges'}


def test_a_part_that_is_folded_is_named():
    module = detector()
    variables = random_variables(module, SHAPE)
    shapes = [jax.ShapeDtypeStruct(SHAPE, jnp.float32)]
    fold = lambda values: layers.fold_batch_norm(module, values, *shapes)  # noqa: E731
    part = {'params': dict(variables['params']), 'batch_stats': dict(variables['batch_stats'])}
    part['params']['shared'] = jax.eval_shape(fold, variables)['params']['shared']
    assert is_folded(part)
    assert not is_folded(variables)
    with pytest.raises(ValueError, match=r'fold_batch_norm: of this Detector is folded already: shared'):
        jax.eval_shape(fold, part)


def test_a_layer_of_another_make_cannot_read_folded_variables():
    """Only a ConvNorm knows `folded`: under any other module an error, not another answer."""
    folded = {'params': {'folded': {'kernel': jnp.ones((3, 3, 3, 8)), 'bias': jnp.ones(8)}}}
    with pytest.raises(Exception, match='conv'):
        Tower().apply(folded, jnp.ones((1, 4, 4, 3)))


def test_folded_layers_cannot_be_trained():
    layer, images = layers.ConvNorm(3), jnp.ones((1, 4, 4, 3))
    folded = layers.fold_batch_norm(layer, random_variables(layer, images.shape), images)
    with pytest.raises(ValueError, match='BatchNorm is folded into the convolution, which cannot be trained'):
        layer.apply(folded, images, train=True, mutable=['batch_stats'])
