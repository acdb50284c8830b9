from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from flaxmobile.layers import ConvNorm, Dense, InvertedResidual
from flaxmobile.tasks.losses import cross_entropy
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.freezing import NOTHING, frozen_norms, frozen_parameters, merge, trained
from flaxmobile.training.optimizer import make_optimizer
from flaxmobile.training.step import loss_and_gradients


class Small(nn.Module):
    """The blocks and the names of the zoo in a network that compiles quickly."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        values = ConvNorm(features=8, kernel_size=3, strides=2, name='stem')(images, train=train)
        values = InvertedResidual(features=8, expansion_ratio=2, squeeze_excite=True, name='block_00')(
            values, train=train
        )
        values = InvertedResidual(features=16, expansion_ratio=2, name='block_01')(values, train=train).mean((1, 2))
        return Dense(self.num_classes, name='classifier')(values) if self.num_classes else values


MODEL = Small()
LABELS = {'classifier'}
SHAPES = jax.eval_shape(MODEL.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
IMAGES = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
TARGETS = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]


def named(*patterns: str) -> set[str]:
    return {'/'.join(path) for path in frozen_parameters(SHAPES['params'], patterns, LABELS)}


def test_what_a_pattern_names() -> None:
    every = set(flatten_dict(SHAPES['params'], sep='/'))
    assert named('stem') == {'stem/conv/kernel', 'stem/norm/scale', 'stem/norm/bias'}
    assert named('block_00') == named('block_00*') == {name for name in every if name.startswith('block_00/')}
    assert named('stem', 'block_0*') == {name for name in every if name.startswith(('stem', 'block_0'))}
    assert named('*/norm') == {name for name in every if '/norm/' in name}
    assert named('*squeeze_excite*bias') == {name for name in every if 'squeeze_excite' in name and 'bias' in name}
    assert named('backbone') == {name for name in every if not name.startswith('classifier')}
    assert named() == set()


def test_patterns_that_cannot_be() -> None:
    with pytest.raises(
        ValueError, match=r"'steem' names no parameter. Did you mean stem.*top are block_00, .*classifier"
    ):
        named('stem', 'steem')
    with pytest.raises(ValueError, match='nothing is left to train'):
        named('backbone', 'classifier')
    with pytest.raises(ValueError, match='freeze must be a tuple'):
        TrainConfig(model='a', dataset='b', freeze='stem')  # type: ignore[arg-type]


def test_a_norm_is_frozen_with_all_of_its_parameters() -> None:
    def norms(*patterns: str) -> set[str]:
        frozen = frozen_parameters(SHAPES['params'], patterns, LABELS)
        return {'/'.join(path) for path in frozen_norms(SHAPES['params'], SHAPES, frozen)}

    assert norms('stem') == {'stem/norm'}
    assert norms('stem/norm/scale') == set()
    assert norms('stem/norm/scale', 'stem/norm/bias') == {'stem/norm'}
    assert norms('stem/conv') == set()


def random_variables() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 1, leaf.shape), leaf.dtype), SHAPES)


def test_gradients_are_those_of_the_rest() -> None:
    """With its BatchNorms on their running statistics the frozen part is a constant function of the images."""
    variables = random_variables()
    params = variables['params']
    frozen = frozen_parameters(params, ('backbone',), LABELS)
    (_, (logits, statistics)), gradients = jax.jit(loss_and_gradients, static_argnums=(0, 5, 6))(
        MODEL, variables, IMAGES, TARGETS, jax.random.key(0), cross_entropy, frozen
    )
    features = np.asarray(jax.jit(MODEL.clone(num_classes=0).apply)(variables, IMAGES), np.float64)
    kernel, bias = (np.asarray(params['classifier'][name], np.float64) for name in ('kernel', 'bias'))
    expected = features @ kernel + bias
    powers = np.exp(expected - expected.max(axis=1, keepdims=True))
    slope = (powers / powers.sum(axis=1, keepdims=True) - TARGETS) / len(IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-3)
    assert gradients.keys() == {'classifier'}
    np.testing.assert_allclose(gradients['classifier']['kernel'], features.T @ slope, rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_equal(statistics, {'batch_stats': variables['batch_stats']})


def test_only_frozen_statistics_stand_still() -> None:
    variables = random_variables()
    frozen = frozen_parameters(variables['params'], ('stem', 'block_00'), LABELS)
    (_, (_, after)), gradients = jax.jit(loss_and_gradients, static_argnums=(0, 5, 6))(
        MODEL, variables, IMAGES, TARGETS, jax.random.key(0), cross_entropy, frozen
    )
    before, after = (flatten_dict(state['batch_stats'], sep='/') for state in (variables, after))
    assert before.keys() == after.keys()
    still = {name for name in before if np.array_equal(before[name], after[name])}
    assert still == {name for name in before if name.startswith(('stem', 'block_00'))}
    assert 'stem' not in gradients
    assert 'block_01' in gradients


def flops(frozen: Any) -> float:
    variables = random_variables()
    arguments = (variables, IMAGES, TARGETS, jax.random.key(0))

    def step(*arguments: Any) -> Any:
        return loss_and_gradients(MODEL, *arguments, cross_entropy, frozen)

    return jax.jit(step).lower(*arguments).cost_analysis()['flops']


def test_what_is_frozen_costs_no_backward_pass() -> None:
    """Forward and two backward products for each multiplication, against the forward pass alone."""
    assert flops(frozen_parameters(SHAPES['params'], ('backbone',), LABELS)) < 0.45 * flops(NOTHING)


@pytest.mark.parametrize('optimizer', ['rmsprop', 'sgd', 'adamw', 'lamb'])
def test_the_optimizer_holds_nothing_for_what_is_frozen(optimizer: str) -> None:
    params = {
        'stem': {'kernel': jnp.ones((7, 7))},
        'block_00': {'kernel': jnp.ones(5)},
        'classifier': {'kernel': jnp.ones(3)},
    }
    frozen = frozenset({('stem', 'kernel')})
    config = TrainConfig(
        model='a', dataset='b', optimizer=optimizer, weight_decay=0.1, layer_decay=0.5, clip_gradient_norm=1.0
    )  # type: ignore[arg-type]
    rule = make_optimizer(config.optimizer_plan, 4, tuple(params))
    training = trained(params, frozen)
    state = rule.init(training)
    assert (7, 7) not in {leaf.shape for leaf in jax.tree.leaves(state)}
    changes, _ = jax.jit(rule.update)(training, state, training)
    after = merge(params, optax.apply_updates(training, changes))
    np.testing.assert_array_equal(after['stem']['kernel'], params['stem']['kernel'])
    assert np.all(np.asarray(after['block_00']['kernel']) != 1)
