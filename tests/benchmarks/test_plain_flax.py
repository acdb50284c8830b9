"""The plain networks are the same networks: the same variables, logits, statistics."""

from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import flaxmobile
from benchmarks.plain_flax import PlainNetwork
from benchmarks.random_variables import random_variables
from benchmarks.runner import NETWORKS


def every_network():
    """Each under one convention or the other, in turn; `make thorough` has both."""
    for number, name in enumerate(NETWORKS):
        for place, convention in enumerate(('torch', 'tensorflow')):
            marks = [pytest.mark.thorough] if (number + place) % 2 else []
            yield pytest.param(name, convention, marks=marks)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'convention'), list(every_network()))
def test_the_same_variables_and_outputs(name, convention):
    model = flaxmobile.create_model(name, num_classes=10, convention=convention, dropout_rate=0.0)
    plain, images = PlainNetwork(model), np.random.default_rng(0).normal(size=(3, 64, 64, 3)).astype(np.float32)
    variables = random_variables(model, images.shape)
    shapes = jax.eval_shape(plain.init, jax.random.key(0), images)
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(lambda leaf: leaf.shape, variables)
    for train in (False, True):
        ours, theirs = (outputs(network, variables, images, train) for network in (model, plain))
        close(theirs[0], ours[0])
        for path, statistics in flatten_dict(theirs[1]).items():
            close(statistics, flatten_dict(ours[1])[path])


def outputs(network, variables, images, train):
    return jax.jit(partial(network.apply, train=train, mutable=['batch_stats']))(variables, images)


def close(got, wanted):
    got, wanted = np.asarray(got), np.asarray(wanted)
    assert np.max(np.abs(got - wanted)) <= 1e-4 * np.max(np.abs(wanted))
