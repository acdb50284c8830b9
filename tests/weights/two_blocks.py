"""A small network that timm and torchvision have names for, its variables, and its state dict by timm's names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from flaxmobile.models import MobileNetV3Small
from flaxmobile.models.network import variable_shapes
from flaxmobile.weights import to_torch


class TwoBlocks(MobileNetV3Small):
    table = (MobileNetV3Small.table[0], MobileNetV3Small.table[1][:1])


def filled(model, channels=3, seed=0):
    """Variables of the model, drawn from a normal distribution."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.array(rng.normal(size=leaf.shape), leaf.dtype), variable_shapes(model, channels)
    )


def assert_same_bits(got, want):
    got, want = flatten_dict(got, sep='/'), flatten_dict(want, sep='/')
    assert got.keys() == want.keys()
    for name, values in want.items():
        assert got[name].dtype == values.dtype, name
        assert got[name].shape == values.shape, name
        assert np.asarray(got[name]).tobytes() == np.asarray(values).tobytes(), name


def message(call):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - every test reads the message
        call()
    return str(caught.value)


@pytest.fixture(scope='module')
def model():
    return TwoBlocks(width_multiplier=0.25, num_classes=3, convention='torch')


@pytest.fixture(scope='module')
def variables(model):
    return filled(model)


@pytest.fixture
def arrays(model, variables):
    return to_torch(variables, model, 'timm')
