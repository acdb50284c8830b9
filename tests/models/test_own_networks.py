"""Networks of a user's own: blocks of ours with fields of their own, and blocks of theirs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from test_taps import KEY, Own, shape_of_maps

from flaxmobile.layers import ConvNorm, InvertedResidual
from flaxmobile.models.network import variable_shapes


class Unnormalised(Own):
    """A network of one's own one of whose blocks says its norm: none, but a bias."""

    def stages(self):
        return [[ConvNorm(features=16, norm=None, use_bias=True), ConvNorm(features=16)]]


def test_a_block_keeps_the_norm_that_it_says():
    params = variable_shapes(Unnormalised())['params']
    assert (params['block_00'].keys(), params['block_00']['conv'].keys()) == ({'conv'}, {'kernel', 'bias'})
    assert (params['block_01'].keys(), params['block_01']['conv'].keys()) == ({'conv', 'norm'}, {'kernel'})


class UsersBlock(nn.Module):
    """Of a user: no block of ours, with a number that is called as our blocks' method."""

    width: int
    expansion: int = 4

    @nn.compact
    def __call__(self, images, *, train=False):
        return nn.Conv(self.width, (1, 1), name='expand')(images)


class OtherName(InvertedResidual):
    """Of a user: it says that it has an expansion, and has a layer of another name."""

    @nn.compact
    def __call__(self, images, *, train=False):
        return self.conv_norm('widen', features=self.features)(images, train=train)


def test_a_user_s_block_is_held_to_what_it_says():
    class Users(Own):
        blocks = (UsersBlock(16, parent=None),)

        def stages(self):
            return [self.blocks]

    images = jnp.zeros((1, 32, 32, 3))
    assert Users().tap_names == ('stem', 'block_00')
    assert shape_of_maps(Users(), ('block_00',), images) == [(1, 16, 16, 16)]
    Users.blocks = (UsersBlock(24, parent=None),)
    with pytest.raises(ValueError, match=r'^Users: block_00 returns 24 channels, and 16 by its field `features` or'):
        jax.eval_shape(Users().init, KEY, images)
    Users.blocks = (OtherName(16, parent=None),)
    assert shape_of_maps(Users(), ('block_00',), images) == [(1, 16, 16, 16)]
    with pytest.raises(ValueError, match=r'^OtherName: block_00/expand is to be tapped, and no layer of that name'):
        shape_of_maps(Users(), ('block_00/expand',), images)


@pytest.mark.filterwarnings('ignore:Explicitly requested dtype')
def test_shapes_of_variables_are_the_caller_s_own_and_go_by_the_types_that_jax_has():
    class Listed(nn.Module):
        sizes: list[int]  # which has no hash

        @nn.compact
        def __call__(self, images):
            return nn.Dense(self.sizes[0], param_dtype=jnp.float64)(images)

    for model in (Listed([3]), nn.Dense(3, param_dtype=jnp.float64)):
        variable_shapes(model)['params'].clear()
        assert {leaf.dtype for leaf in jax.tree.leaves(variable_shapes(model))} == {jnp.dtype('float32')}
        with jax.enable_x64(True):
            assert {leaf.dtype for leaf in jax.tree.leaves(variable_shapes(model))} == {jnp.dtype('float64')}
