"""Sums and gates are found by name, and naming them moved no draw of stochastic depth."""

import functools

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks.random_variables import random_variables
from flaxmobile import layers
from flaxmobile.models import MobileNetV2, MobileNetV3Small, MobileNetV4HybridMedium
from flaxmobile.models.mobilenetv4 import Fused, Mqa, Uib

SHAPE = (6, 32, 32, 3)
KEY = jax.random.key(7)


class FirstBlocks(MobileNetV2):
    """Five blocks, of which the third and the last add their input."""

    def block_specs(self):
        return super().block_specs()[:5]


class FirstGates(MobileNetV3Small):
    """Six blocks, gates in the first and the last three, sums in the third and the last two."""

    table = MobileNetV3Small.table[:6]


class Universal(MobileNetV4HybridMedium):
    """Attention and universal blocks, each of which adds its input but for the first two."""

    table = (
        Fused(3, 4, 16, 2),
        Uib(3, 5, 2, 24, 2),
        Mqa(2, 8, 2),
        Uib(0, 3, 2, 24),
        Mqa(2, 8, 1),
        Uib(3, 0, 2, 24),
    )


# By block, the examples that keep their branch, as they were drawn before the sums had names.
KEPT = {
    FirstBlocks: {'block_00': '111111', 'block_02': '001101', 'block_04': '011000'},
    FirstGates: {'block_02': '101101', 'block_04': '011110', 'block_05': '110001'},
    Universal: {'block_02': '101101', 'block_03': '101110', 'block_04': '011110', 'block_05': '110001'},
}
GATED = {FirstBlocks: [], FirstGates: ['block_00', 'block_03', 'block_04', 'block_05'], Universal: []}


@functools.cache
def captured(network):
    model = network(num_classes=3, width_multiplier=0.25, stochastic_depth_rate=0.9)
    images = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    variables = random_variables(model, SHAPE)

    @jax.jit
    def run(variables, images):
        options = {'mutable': ['batch_stats', 'intermediates'], 'capture_intermediates': True}
        return model.apply(variables, images, train=True, **options, rngs={'dropout': KEY})[1]['intermediates']

    return flatten_dict(run(variables, images), sep='/')


def at(network, ending):
    """By the path before `ending`, what the module there gave."""
    ending = f'/{ending}/__call__'
    return {path.removesuffix(ending): value[0] for path, value in captured(network).items() if path.endswith(ending)}


@pytest.mark.parametrize('network', KEPT)
def test_stochastic_depth_draws_what_it_drew(network):
    drawn = at(network, 'stochastic_depth')
    assert {
        block: ''.join(str(int(np.any(example != 0))) for example in branch) for block, branch in drawn.items()
    } == KEPT[network]


@pytest.mark.parametrize('network', KEPT)
def test_each_sum_is_found_by_name(network):
    sums, branches, outputs = at(network, 'residual'), at(network, 'stochastic_depth'), captured(network)
    assert sums.keys() == KEPT[network].keys()
    for block, total in sums.items():
        before = f'block_{int(block[-2:]) - 1:02d}' if block != 'block_00' else 'stem'
        np.testing.assert_array_equal(total, outputs[f'{block}/__call__'][0])
        want = outputs[f'{before}/__call__'][0] + branches[block]
        np.testing.assert_allclose(total, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('network', KEPT)
def test_each_gate_is_found_by_name(network):
    products, gates, images = (
        at(network, f'squeeze_excite/{name}') if name else at(network, 'depthwise') for name in ('gate', 'expand', '')
    )
    assert sorted(products) == GATED[network]
    for block, product in products.items():
        want = images[block] * jax.nn.hard_sigmoid(gates[block])
        np.testing.assert_allclose(product, want, rtol=1e-5, atol=1e-6)


def test_the_sum_of_an_ordinary_residual_block_is_before_its_activation():
    block, images = layers.ResidualBlock(3), np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype(np.float32)
    outputs, captures = block.apply(
        random_variables(block, images.shape), images, capture_intermediates=True, mutable=['intermediates']
    )
    total = captures['intermediates']['residual']['__call__'][0]
    assert np.min(total) < 0
    np.testing.assert_array_equal(outputs, np.maximum(total, 0))


def test_names_add_no_variables():
    model = FirstGates(num_classes=3, width_multiplier=0.25)
    paths = {part for path in flatten_dict(random_variables(model, SHAPE)) for part in path}
    assert not paths & {'residual', 'gate'}
