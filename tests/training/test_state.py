from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import Linear, Normalized

from flaxmobile.training.state import TrainState, create_state, update_ema

SHAPE = (1, 4, 4, 1)


def state_after(step: int, value: float, average: float, opt_state: Any = ()) -> TrainState:
    leaves = {'params': {'w': jnp.full(2, value)}, 'model_state': {'batch_stats': {'mean': jnp.full(3, 10 * value)}}}
    ema = {'params': {'w': jnp.full(2, average)}, 'batch_stats': {'mean': jnp.full(3, 10 * average)}}
    return TrainState(step=jnp.array(step), opt_state=opt_state, ema=ema, **leaves)


def test_a_fresh_state():
    model, key = Normalized(), jax.random.key(3)
    state = create_state(model, optax.sgd(0.1, momentum=0.9), key, SHAPE, 0.99)
    chex.assert_trees_all_close(state.variables, dict(model.init(key, jnp.zeros(SHAPE))), rtol=1e-5)
    chex.assert_trees_all_equal(state.evaluation_variables, state.variables)
    chex.assert_tree_all_finite(state)
    assert state.step == 0
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(pointers)) == len(pointers)


def test_without_an_average_the_variables_are_evaluated():
    state = create_state(Linear(), optax.sgd(0.1), jax.random.key(0), SHAPE, None)
    assert state.ema is None
    assert state.model_state == {}
    assert state.variables.keys() == {'params'}
    chex.assert_trees_all_equal(state.evaluation_variables, state.variables)


@pytest.mark.parametrize(('step', 'expected'), [(1, 0.1), (2, 2 / 11), (9, 9 / 18), (1000, 0.9)])
def test_average_warms_up_to_its_decay(step: int, expected: float):
    """After the first update the decay is (1 + 0) / (10 + 0), after the second 2 / 11, and so on up to 0.9."""
    average = update_ema(state_after(step, value=0.0, average=1.0), 0.9)
    np.testing.assert_allclose(average['params']['w'], expected, rtol=1e-6)
    np.testing.assert_allclose(average['batch_stats']['mean'], 10 * expected, rtol=1e-6)


def test_average_of_three_updates_by_hand():
    """0 -> 0.9 * 1 = 0.9 -> 0.9 * 2/11 + 2 * 9/11 = 1.8 -> 1.8 * 3/12 + 3 * 9/12 = 2.7."""
    state = state_after(0, value=0.0, average=0.0)
    for step, expected in ((1, 0.9), (2, 1.8), (3, 2.7)):
        state = state_after(step, value=float(step), average=0.0).replace(ema=state.ema)
        state = state.replace(ema=update_ema(state, 0.999))
        np.testing.assert_allclose(state.ema['params']['w'], expected, rtol=1e-6)


def test_average_moves_once_an_update():
    optimizer, params = optax.MultiSteps(optax.sgd(1.0), 2), {'w': jnp.zeros(2)}
    opt_state, seen = optimizer.init(params), []
    for step in range(1, 5):
        _, opt_state = optimizer.update(params, opt_state, params)
        average = update_ema(state_after(step, value=0.0, average=1.0, opt_state=opt_state), 0.9)
        seen.append(float(average['params']['w'][0]))
    np.testing.assert_allclose(seen, [1, 0.1, 1, 2 / 11], rtol=1e-6)


def test_a_counter_has_no_average():
    """Its share of a step would be cut down to 0, so that it stood still."""
    state = state_after(1, value=0.0, average=1.0)
    state = state.replace(
        model_state={**state.model_state, 'counts': {'seen': jnp.array(7), 'ready': jnp.array(True)}},
        ema={**state.ema, 'counts': {'seen': jnp.array(0), 'ready': jnp.array(False)}},
    )
    average = update_ema(state, 0.9)
    assert (int(average['counts']['seen']), bool(average['counts']['ready'])) == (7, True)
    assert average['counts']['seen'].dtype == jnp.int32
    np.testing.assert_allclose(average['params']['w'], 0.1, rtol=1e-6)
