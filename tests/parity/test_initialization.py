"""What each convention initialises to, against networks that timm and torchvision initialised themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest
import torch
import torchvision
from timm.models._efficientnet_blocks import EdgeResidual, MobileAttention
from timm.models._efficientnet_builder import efficientnet_init_weights

from flaxmobile import layers
from flaxmobile.weights import from_torch

pytestmark = pytest.mark.parity
ENOUGH = 400


def drawn_alike(ours, theirs):
    """Both have the same spread and reach: standard deviations within five standard errors of each other."""
    kurtosis = np.mean((theirs - theirs.mean()) ** 4) / theirs.var() ** 2
    error = np.sqrt((kurtosis - 1) / 4 * 2 / theirs.size)
    return abs(ours.std() / theirs.std() - 1) <= 5 * error and abs(ours.mean()) <= 5 * ours.std() / ours.size**0.5


@pytest.mark.parametrize(
    ('name', 'make'),
    [
        ('mobilenetv3_small_050', lambda: peers.timm_twin('mobilenetv3_small_050')),
        ('tv_mobilenetv3_small_100', torchvision.models.mobilenet_v3_small),
    ],
)
def test_kernels_are_spread_as_the_peer_s(name, make):
    torch.manual_seed(0)
    model = peers.create(name)
    theirs = from_torch(make().state_dict(), model)['params']
    ours = peers.jit(model.init, optimized=False)(jax.random.key(0, impl='rbg'), jnp.zeros((1, 32, 32, 3)))['params']
    checked = 0
    for (path, our), their in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        our, their = np.asarray(our, np.float64), np.asarray(their, np.float64)
        if path[-1].key == 'kernel' and our.size >= ENOUGH:
            assert drawn_alike(our, their), (jax.tree_util.keystr(path), our.std(), their.std())
            checked += 1
        elif path[-1].key in ('scale', 'bias') and 'norm' in jax.tree_util.keystr(path):
            np.testing.assert_array_equal(our, their)
    assert checked > 20


BLOCKS = {
    'attention': (
        lambda: MobileAttention(256, 256, num_heads=4, key_dim=64, value_dim=64, kv_stride=2, use_multi_query=True),
        layers.MultiQueryAttention(heads=4, key_features=64, key_strides=2, convention='torch'),
    ),
    'grouped': (
        lambda: EdgeResidual(256, 256, group_size=64, exp_ratio=4),
        layers.FusedInvertedBottleneck(features=256, group_size=64, convention='torch'),
    ),
}


@pytest.mark.parametrize('case', BLOCKS)
def test_blocks_are_spread_as_timm_s(case):
    make, block = BLOCKS[case]
    torch.manual_seed(0)
    network = make()
    efficientnet_init_weights(network)
    theirs = peers.variables_like(block, peers.weights_of(network), channels=256)['params']
    ours = peers.jit(block.init, optimized=False)(jax.random.key(0), jnp.zeros((1, 4, 4, 256)))['params']
    for (path, our), their in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        if path[-1].key == 'kernel':
            our, their = np.asarray(our, np.float64), np.asarray(their, np.float64)
            assert drawn_alike(our, their), (jax.tree_util.keystr(path), our.std(), their.std())
        else:
            np.testing.assert_array_equal(our, their)
