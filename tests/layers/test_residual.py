"""Sums and gates are found by name, and naming them moved no draw of stochastic depth."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile import layers

SHAPE = (6, 4, 4, 8)
CAPTURE = {'capture_intermediates': True, 'mutable': ['batch_stats', 'intermediates']}


class Blocks(nn.Module):
    """Blocks as the networks name them, from the third one on."""

    blocks: Sequence[nn.Module]

    @nn.compact
    def __call__(self, values):
        for index, block in enumerate(self.blocks, 2):
            values = block.copy(name=f'block_{index:02d}')(values, train=True)
        return values


CHAINS = {
    'inverted': [
        layers.InvertedResidual(8, expansion_ratio=2, stochastic_depth_rate=0.36),
        layers.InvertedResidual(16),
        layers.InvertedResidual(16, squeeze_excite=True, stochastic_depth_rate=0.72),
    ],
    'universal': [
        layers.MultiQueryAttention(2, 8, 2, stochastic_depth_rate=1.8 / 7),
        layers.UniversalInvertedBottleneck(8, 2, stochastic_depth_rate=2.7 / 7),
        layers.MultiQueryAttention(2, 8, stochastic_depth_rate=3.6 / 7),
        layers.FusedInvertedBottleneck(8, 2, stochastic_depth_rate=4.5 / 7),
    ],
}
# By block, the examples that keep their branch, as they were drawn before the sums had names.
KEPT = {
    'inverted': {'block_02': '001101', 'block_04': '011000'},
    'universal': {'block_02': '101101', 'block_03': '101110', 'block_04': '011110', 'block_05': '110001'},
}


@functools.cache
def captured(chain):
    """By path, what each module gave, and the images."""
    model, images = Blocks(CHAINS[chain]), np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    variables = random_variables(model, SHAPE)
    run = jax.jit(functools.partial(model.apply, **CAPTURE, rngs={'dropout': jax.random.key(7)}))
    return {path.removesuffix('/__call__'): value[0] for path, value in flat(run(variables, images)).items()}, images


def flat(outputs):
    return flatten_dict(outputs[1]['intermediates'], sep='/')


@pytest.mark.parametrize('chain', CHAINS)
def test_stochastic_depth_draws_what_it_drew(chain):
    outputs, _ = captured(chain)
    drawn = {path.split('/')[0]: values for path, values in outputs.items() if path.endswith('/stochastic_depth')}
    kept = {block: ''.join(str(int(example.any())) for example in np.asarray(drawn[block])) for block in drawn}
    assert kept == KEPT[chain]


@pytest.mark.parametrize('chain', CHAINS)
def test_a_sum_is_that_of_input_and_branch(chain):
    outputs, images = captured(chain)
    for block in KEPT[chain]:
        before = outputs.get(f'block_{int(block[-2:]) - 1:02d}', images)
        want = before + outputs[f'{block}/stochastic_depth']
        np.testing.assert_allclose(outputs[f'{block}/residual'], want, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(outputs[block], outputs[f'{block}/residual'])


def test_a_gate_is_the_product_of_map_and_gates():
    outputs, _ = captured('inverted')
    gates = outputs['block_04/squeeze_excite/expand']
    assert 0 <= gates.min() < gates.max() <= 1
    want = outputs['block_04/depthwise'] * gates
    np.testing.assert_allclose(outputs['block_04/squeeze_excite/gate'], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(outputs['block_04/squeeze_excite'], outputs['block_04/squeeze_excite/gate'])


def test_the_sum_of_an_ordinary_residual_block_is_before_its_activation():
    block, images = layers.ResidualBlock(3), np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype(np.float32)
    apply = jax.jit(functools.partial(block.apply, **CAPTURE))
    outputs, captures = apply(random_variables(block, images.shape), images)
    total = captures['intermediates']['residual']['__call__'][0]
    assert np.min(total) < 0
    np.testing.assert_array_equal(outputs, np.maximum(total, 0))


# By the papers' tables: blocks of stride 1 whose input has as many channels, and rows with SE, from 0.
@pytest.mark.parametrize(
    ('name', 'sums', 'gates'),
    [
        pytest.param('mobilenetv2_100', [2, 4, 5, 7, 8, 9, 11, 12, 14, 15], [], marks=pytest.mark.thorough),
        ('mobilenetv3_small_100', [2, 4, 5, 7, 9, 10], [0, 3, 4, 5, 6, 7, 8, 9, 10]),
        pytest.param(
            'mobilenetv3_large_100',
            [0, 2, 4, 5, 7, 8, 9, 11, 13, 14],
            [3, 4, 5, 10, 11, 12, 13, 14],
            marks=pytest.mark.thorough,
        ),
        ('mobilenetv4_hybrid_medium', [2, *range(4, 15), *range(16, 31)], []),
    ],
)
def test_each_sum_and_gate_of_a_network_is_found(name, sums, gates):
    model, images = flaxmobile.create_model(name), jnp.zeros((1, 32, 32, 3))
    init = functools.partial(model.init_with_output, capture_intermediates=True, mutable=True)
    outputs = jax.eval_shape(init, jax.random.key(0), images)
    paths = [path.removesuffix('/__call__') for path in flat(outputs)]
    for ending, blocks in (('residual', sums), ('stochastic_depth', sums), ('squeeze_excite/gate', gates)):
        want = [f'block_{block:02d}/{ending}' for block in blocks]
        assert sorted(path for path in paths if path.endswith(ending)) == want
    names = {part for path in flatten_dict(outputs[1]['params']) for part in path}
    assert not names & {'residual', 'stochastic_depth', 'gate'}
