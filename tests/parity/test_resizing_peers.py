"""Resizing against torch's `interpolate`, and RMS norm against timm's and torch's, in float64."""

import jax
import jax.numpy as jnp
import peers
import pytest
import torch
from timm.layers import RmsNorm2d
from torch.nn import functional

from flaxmobile import ops
from flaxmobile.layers.normalization import RMSNorm

pytestmark = pytest.mark.parity

SIZES = [((4, 6), (16, 16)), ((9, 5), (17, 9)), ((17, 9), (5, 9)), ((33, 20), (16, 16)), ((1, 1), (3, 2))]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize(('mode', 'resize'), [('nearest', ops.resize_nearest), ('bilinear', ops.resize_bilinear)])
@pytest.mark.parametrize(('old', 'new'), SIZES)
def test_resizing(old, new, mode, resize):
    images = peers.images(2, old)
    want = peers.from_torch(functional.interpolate(peers.to_torch(images), size=new, mode=mode))
    assert peers.relative(resize(jnp.asarray(images), *new), want) <= 1e-12


def test_rms_norm():
    images, scale = peers.images(2, (5, 7), channels=6), torch.rand(6, dtype=torch.float64)
    norm = RmsNorm2d(6).double()
    norm.weight.data = scale
    got = RMSNorm().apply({'params': {'scale': scale.numpy()}}, images)
    assert peers.relative(got, peers.from_torch(norm(peers.to_torch(images)))) <= 1e-12
    want = functional.rms_norm(torch.from_numpy(images), (6,), scale, eps=1e-6).numpy()
    assert peers.relative(got, want) <= 1e-12
