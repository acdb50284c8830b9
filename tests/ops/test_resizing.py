"""Resizing against cases by hand and against `jax.image.resize`; against torch in `parity/test_resizing_peers.py`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmobile import ops

SIZES = [((4, 6), (16, 16)), ((5, 7), (9, 14)), ((17, 9), (5, 9)), ((33, 20), (16, 16)), ((1, 1), (3, 2))]


def test_nearest_by_hand():
    row = jnp.asarray([10.0, 20, 30]).reshape(1, 1, 3, 1)
    for width, want in ((6, [10, 10, 20, 20, 30, 30]), (5, [10, 10, 20, 20, 30]), (2, [10, 20]), (3, [10, 20, 30])):
        np.testing.assert_array_equal(ops.resize_nearest(row, 1, width).ravel(), want)
        np.testing.assert_array_equal(ops.resize_nearest(row.transpose(0, 2, 1, 3), width, 1).ravel(), want)


def test_bilinear_by_hand():
    row = jnp.asarray([0.0, 4, 8]).reshape(1, 1, 3, 1)
    # Half-way pixels lie a quarter of a pixel from the old ones; outside the border goes on.
    np.testing.assert_allclose(ops.resize_bilinear(row, 1, 6).ravel(), [0, 1, 3, 5, 7, 8])
    np.testing.assert_allclose(ops.resize_bilinear(row, 1, 1).ravel(), [4])


@pytest.mark.parametrize(('old', 'new'), SIZES)
def test_bilinear_is_that_of_jax(old, new):
    with jax.enable_x64(True):
        images = np.random.default_rng(0).normal(size=(2, *old, 3))
        want = jax.image.resize(images, (2, *new, 3), 'bilinear', antialias=False)
        got = jax.jit(ops.resize_bilinear, static_argnums=(1, 2))(images, *new)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('resize', [ops.resize_nearest, ops.resize_bilinear])
def test_types_and_sizes_that_stay(resize):
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 6, 2)), jnp.bfloat16)
    np.testing.assert_array_equal(resize(images, 5, 6), images)
    assert resize(images, 8, 3).dtype == jnp.bfloat16
