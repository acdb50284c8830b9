import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxmobile.training.config import TrainConfig
from flaxmobile.training.optimizer import decay_mask, layer_factors, make_optimizer

STEPS_PER_EPOCH = 4
BASE = TrainConfig(model='mobilenetv1_025', dataset='cifar10', learning_rate=0.1, schedule='constant', epochs=20)
DECAYING = ['stem/conv/kernel', 'classifier/kernel']
DEPTHWISE = 'block_01/depthwise/conv/kernel'


def make_params(dtype: str = 'float32') -> dict[str, Any]:
    generator = np.random.default_rng(0)
    norm = {'scale': generator.normal(1, 0.1, 4), 'bias': generator.normal(0, 0.1, 4)}
    params = {
        'stem': {'conv': {'kernel': generator.normal(size=(3, 3, 2, 4))}, 'norm': norm},
        'block_01': {'depthwise': {'conv': {'kernel': generator.normal(size=(3, 3, 1, 4))}, 'norm': norm}},
        'classifier': {'kernel': generator.normal(size=(4, 5)), 'bias': generator.normal(size=5)},
    }
    return jax.tree.map(lambda array: array.astype(dtype), params)


def flatten(tree: Any) -> dict[str, np.ndarray]:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {'/'.join(entry.key for entry in path): np.asarray(leaf) for path, leaf in flat}


def make_gradients(steps: int, dtype: str = 'float32') -> list[dict[str, Any]]:
    generator = np.random.default_rng(1)
    return [
        jax.tree.map(lambda leaf: generator.normal(size=leaf.shape).astype(dtype), make_params()) for _ in range(steps)
    ]


def run(config: TrainConfig, gradients: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """Parameters after each step."""
    optimizer = make_optimizer(config.optimizer_plan, STEPS_PER_EPOCH)
    params = jax.tree.map(jnp.asarray, make_params(gradients[0]['classifier']['bias'].dtype))
    state, update, history = optimizer.init(params), jax.jit(optimizer.update), []
    for gradient in gradients:
        changes, state = update(gradient, state, params)
        params = optax.apply_updates(params, changes)
        history.append(flatten(params))
    return history


def assert_follows(config: TrainConfig, make_rule: Any, steps: int = 6) -> None:
    """Compare with `make_rule(weight_decay)`, an update of one parameter."""
    gradients = make_gradients(steps, 'float64')
    with jax.enable_x64(True):
        result = run(config, gradients)[-1]
    mask = flatten(decay_mask(make_params(), config.decay_depthwise))
    for name, value in flatten(make_params('float64')).items():
        rule = make_rule(config.weight_decay if mask[name] else 0.0)
        for step, gradient in enumerate(gradients):
            value = rule(step, value, flatten(gradient)[name])
        np.testing.assert_allclose(result[name], value, rtol=1e-6, atol=1e-7, err_msg=name)


def test_decay_mask():
    norms = {name for name in flatten(make_params()) if not name.endswith('kernel')}
    for decayed, expected in (
        ((False, False), {*DECAYING}),
        ((True, False), {*DECAYING, DEPTHWISE}),
        ((False, True), {*DECAYING, *norms}),
        ((True, True), {*flatten(make_params())}),
    ):
        mask = flatten(decay_mask(make_params(), *decayed))
        assert {name for name, decays in mask.items() if decays} == expected


def test_decay_mask_of_later_networks():
    """MobileNetV4 has depthwise kernels of other names, and a scale of each channel that is no kernel."""
    kernel = np.zeros(3)
    params = {
        'block_00': {
            'depthwise_start': {'conv': {'kernel': kernel}},
            'expand': {'conv': {'kernel': kernel}},
            'layer_scale': {'gamma': kernel},
            'attention': {
                'key': {'depthwise': {'conv': {'kernel': kernel}}, 'project': {'kernel': kernel}},
                'query': {'project': {'kernel': kernel}},
            },
        }
    }
    mask = flatten(decay_mask(params, False))
    assert {name.removeprefix('block_00/') for name, decays in mask.items() if decays} == {
        'expand/conv/kernel',
        'attention/key/project/kernel',
        'attention/query/project/kernel',
    }


def test_layer_factors_by_hand():
    """Three blocks: the head 1, then 1/2, 1/4, 1/8, and the stem 1/16; what is frozen is counted too."""
    layers = ('classifier', 'head_conv', 'block_02', 'block_01', 'block_00', 'stem')
    assert layer_factors(layers, 0.5) == dict(zip(layers, (1, 1, 0.5, 0.25, 0.125, 0.0625), strict=True))
    assert layer_factors(('stem', 'block_10', 'block_02', 'classifier'), 0.1)['block_02'] == pytest.approx(1e-9)


@pytest.mark.parametrize(
    'optimizer',
    [
        'rmsprop',
        'sgd',
        'lamb',
        *(pytest.param(name, marks=pytest.mark.thorough) for name in ('torch_rmsprop', 'adamw')),
    ],
)
def test_layer_decay_scales_the_rate(optimizer: str):
    """Each layer as if it were trained alone, at its own rate: block_01 of 0 to 1 at a half, the stem at an eighth."""
    gradients = make_gradients(5)
    common = {'optimizer': optimizer, 'weight_decay': 0.1, 'schedule': 'exponential', 'decay_rate': 0.5}
    decayed = run(dataclasses.replace(BASE, layer_decay=0.5, **common), gradients)
    for layer, factor in {'classifier': 1, 'block_01': 1 / 2, 'stem': 1 / 8}.items():
        alone = run(dataclasses.replace(BASE, learning_rate=0.1 * factor, **common), gradients)
        for ours, theirs in zip(decayed, alone, strict=True):
            for name in (name for name in ours if name.startswith(layer)):
                np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_layer_decay_counts_frozen_blocks():
    """With the last block frozen the one before is still two from the head: sgd of one step, 0.1 * 0.5**2."""
    params = {layer: {'kernel': jnp.zeros(2)} for layer in ('block_00', 'classifier')}
    config = dataclasses.replace(BASE, optimizer='sgd', layer_decay=0.5)
    optimizer = make_optimizer(config.optimizer_plan, STEPS_PER_EPOCH, ('stem', 'block_00', 'block_01', 'classifier'))
    gradients = jax.tree.map(jnp.ones_like, params)
    changes, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(changes['block_00']['kernel'], -0.025, rtol=1e-6)
    np.testing.assert_allclose(changes['classifier']['kernel'], -0.1, rtol=1e-6)


def test_rmsprop_is_tensorflows():
    """ms starts at 1 and averages squares; mom = momentum * mom + rate * g / sqrt(ms + epsilon); w -= mom."""
    config = dataclasses.replace(
        BASE,
        schedule='exponential',
        decay_rate=0.5,
        decay_epochs=0.5,
        epsilon=0.01,
        weight_decay=0.1,
        rmsprop_decay=0.8,
    )

    def make_rule(weight_decay: float) -> Any:
        ms, mom = 1.0, 0.0

        def rule(step: int, value: np.ndarray, gradient: np.ndarray) -> np.ndarray:
            nonlocal ms, mom
            gradient = gradient + weight_decay * value
            ms = 0.8 * ms + 0.2 * gradient**2
            mom = 0.9 * mom + 0.1 * 0.5 ** (step // 2) * gradient / np.sqrt(ms + 0.01)
            return value - mom

        return rule

    assert_follows(config, make_rule)


def test_rmsprop_first_update_by_hand():
    """g = 2, ms = 0.9 + 0.1 * 4 = 1.3, so the bias moves by 0.1 * 2 / sqrt(1.3 + 0.001)."""
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 2.0), make_params())
    moved = flatten(make_params())['classifier/bias'] - run(BASE, [gradient])[0]['classifier/bias']
    np.testing.assert_allclose(moved, 0.1 * 2 / math.sqrt(1.301), rtol=1e-5)


def test_torch_rmsprop():
    """ms starts at 0; mom = momentum * mom + g / (sqrt(ms) + epsilon); w -= rate * mom (torch.optim.RMSprop)."""
    changes = {'schedule': 'exponential', 'decay_rate': 0.5, 'decay_epochs': 0.5, 'epsilon': 0.0316}
    config = dataclasses.replace(BASE, optimizer='torch_rmsprop', weight_decay=0.1, decay_norms=True, **changes)

    def make_rule(_: float) -> Any:
        ms, mom = 0.0, 0.0

        def rule(step: int, value: np.ndarray, gradient: np.ndarray) -> np.ndarray:
            nonlocal ms, mom
            gradient = gradient + 0.1 * value
            ms = 0.9 * ms + 0.1 * gradient**2
            mom = 0.9 * mom + gradient / (np.sqrt(ms) + 0.0316)
            return value - 0.1 * 0.5 ** (step // 2) * mom

        return rule

    assert_follows(dataclasses.replace(config, decay_depthwise=True), make_rule)


def test_sgd():
    config = dataclasses.replace(BASE, optimizer='sgd', schedule='exponential', decay_rate=0.5, weight_decay=0.1)

    def make_rule(weight_decay: float) -> Any:
        buffer = 0.0

        def rule(step: int, value: np.ndarray, gradient: np.ndarray) -> np.ndarray:
            nonlocal buffer
            buffer = 0.9 * buffer + gradient + weight_decay * value
            return value - 0.1 * 0.5 ** (step // 4) * buffer

        return rule

    assert_follows(config, make_rule)


def adam_direction(momentum: float, epsilon: float) -> Any:
    first, second = 0.0, 0.0

    def direction(step: int, gradient: np.ndarray) -> np.ndarray:
        nonlocal first, second
        first = momentum * first + (1 - momentum) * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - momentum ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        return unbiased[0] / (np.sqrt(unbiased[1]) + epsilon)

    return direction


def test_adamw():
    config = dataclasses.replace(BASE, optimizer='adamw', weight_decay=0.2, momentum=0.6, decay_depthwise=True)

    def make_rule(weight_decay: float) -> Any:
        direction = adam_direction(0.6, 1e-8)
        return lambda step, value, gradient: value - 0.1 * (direction(step, gradient) + weight_decay * value)

    assert_follows(config, make_rule)


def test_lamb():
    config = dataclasses.replace(BASE, optimizer='lamb', weight_decay=0.2)

    def make_rule(weight_decay: float) -> Any:
        direction = adam_direction(0.9, 1e-6)

        def rule(step: int, value: np.ndarray, gradient: np.ndarray) -> np.ndarray:
            change = direction(step, gradient) + weight_decay * value
            ratio = np.linalg.norm(value) / np.linalg.norm(change) if weight_decay else 1.0
            return value - 0.1 * ratio * change

        return rule

    assert_follows(config, make_rule)


def test_clipping_leaves_weight_decay_out():
    """Gradients of norm sqrt(n) * 3 are cut to norm 0.5; weight decay comes on top."""
    config = dataclasses.replace(BASE, optimizer='sgd', clip_gradient_norm=0.5, weight_decay=0.1)
    params, gradient = flatten(make_params()), jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), make_params())
    size = sum(leaf.size for leaf in params.values())
    result = run(config, [gradient])[0]
    for name, value in params.items():
        expected = value - 0.1 * (0.5 / math.sqrt(size) + (0.1 * value if name in DECAYING else 0))
        np.testing.assert_allclose(result[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('optimizer', ['rmsprop', 'adamw'])
def test_accumulation_is_a_larger_batch(optimizer: str):
    """Three steps a time, with a rate that changes every second update: the same as updates with the mean gradients."""
    changes = {'optimizer': optimizer, 'weight_decay': 0.1, 'schedule': 'exponential', 'decay_rate': 0.5}
    gradients = make_gradients(12)
    small = dataclasses.replace(BASE, accumulation_steps=3, decay_epochs=1.5, warmup_epochs=0.75, **changes)
    large = dataclasses.replace(BASE, decay_epochs=0.5, warmup_epochs=0.25, **changes)
    means = [jax.tree.map(lambda *leaves: sum(leaves) / 3, *gradients[i : i + 3]) for i in range(0, 12, 3)]
    history = [flatten(make_params()), *run(small, gradients)]
    for update, expected in enumerate(run(large, means), start=1):
        for name, value in expected.items():
            np.testing.assert_allclose(history[3 * update][name], value, rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(history[3 * update - 1][name], history[3 * update - 3][name])


def torch_history(config: TrainConfig, make: Any, gradients: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """The same with a torch optimizer, `make(groups)`, of two groups: with and without weight decay."""
    import torch

    mask = flatten(decay_mask(make_params(), config.decay_depthwise))
    params = {name: torch.tensor(np.asarray(v), requires_grad=True) for name, v in flatten(make_params()).items()}
    groups = [
        {'params': [params[name] for name in params if bool(mask[name]) is decays], 'weight_decay': weight_decay}
        for decays, weight_decay in ((True, config.weight_decay), (False, 0.0))
    ]
    optimizer, history = make(groups), []
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, config.decay_rate)
    for gradient in gradients:
        for name, value in flatten(gradient).items():
            params[name].grad = torch.tensor(value)
        optimizer.step()
        scheduler.step()
        history.append({name: value.detach().numpy().copy() for name, value in params.items()})
    return history


@pytest.mark.parity
@pytest.mark.parametrize('name', ['sgd', 'adamw', 'rmsprop', 'torch_rmsprop', 'lamb'])
def test_against_torch_and_timm(name: str):
    import torch
    from timm.optim import Lamb, RMSpropTF

    makers = {
        'sgd': lambda groups: torch.optim.SGD(groups, 0.1, momentum=0.9),
        'adamw': lambda groups: torch.optim.AdamW(groups, 0.1, eps=1e-8),
        'rmsprop': lambda groups: RMSpropTF(groups, 0.1, alpha=0.9, eps=1e-3, momentum=0.9),
        'torch_rmsprop': lambda groups: torch.optim.RMSprop(groups, 0.1, alpha=0.9, eps=1e-8, momentum=0.9),
        'lamb': lambda groups: Lamb(groups, 0.1, eps=1e-6, max_grad_norm=None),
    }
    config = dataclasses.replace(
        BASE, optimizer=name, weight_decay=0.1, schedule='exponential', decay_epochs=0.5, decay_rate=0.7
    )
    gradients = make_gradients(8)
    for ours, theirs in zip(run(config, gradients), torch_history(config, makers[name], gradients), strict=True):
        for parameter, value in theirs.items():
            np.testing.assert_allclose(ours[parameter], value, rtol=1e-4, atol=1e-5, err_msg=parameter)
