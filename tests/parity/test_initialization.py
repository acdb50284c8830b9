"""What each convention initialises to, against networks that timm and torchvision initialised themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest
import torch
import torchvision

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
    theirs = peers.variables_like(model, peers.weights_of(make()))['params']
    ours = jax.jit(model.init)(jax.random.key(0, impl='rbg'), jnp.zeros((1, 32, 32, 3)))['params']
    checked = 0
    for (path, our), their in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        our, their = np.asarray(our, np.float64), np.asarray(their, np.float64)
        if path[-1].key == 'kernel' and our.size >= ENOUGH:
            assert drawn_alike(our, their), (jax.tree_util.keystr(path), our.std(), their.std())
            checked += 1
        elif path[-1].key in ('scale', 'bias') and 'norm' in jax.tree_util.keystr(path):
            np.testing.assert_array_equal(our, their)
    assert checked > 20
