"""optax optimisers and learning-rate schedules as the papers used them."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxmobile.training.plans import OptimizerPlan

_EPSILON = {'rmsprop': 1e-3, 'torch_rmsprop': 1e-8, 'sgd': 0.0, 'adamw': 1e-8, 'lamb': 1e-6}


def learning_rate_schedule(plan: OptimizerPlan, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate at a step, counted from 0. A step is a batch; all steps of one update have the same rate.

    The decay counts whole updates from the start of training. During a warm-up of n updates the rate is 1/n, 2/n, ...
    of the rate that the decay gives at the end of the warm-up.
    """

    def updates(epochs: float) -> int:
        return round(epochs * steps_per_epoch / plan.accumulation_steps)

    total, warmup = max(1, updates(plan.epochs)), updates(plan.warmup_epochs)
    period, milestones = max(1, updates(plan.decay_epochs)), tuple(map(updates, plan.milestones))

    def decay(update: jax.Array) -> jax.Array:
        match plan.schedule:
            case 'constant':
                return jnp.ones(())
            case 'cosine':
                return (1 + jnp.cos(jnp.pi * jnp.minimum(update / total, 1))) / 2
            case 'exponential':
                return jnp.power(plan.decay_rate, update // period)
            case 'step':
                return jnp.power(plan.decay_rate, sum((update >= milestone) for milestone in milestones))

    def schedule(step: Any) -> jax.Array:
        update = jnp.asarray(step) // plan.accumulation_steps
        warm = jnp.minimum((update + 1) / max(1, warmup), 1)
        return plan.learning_rate * warm * decay(jnp.maximum(update, warmup))

    return schedule


def decay_mask(params: Any, decay_depthwise: bool, decay_norms: bool = False) -> Any:
    """Which parameters get weight decay, as a tree of bools.

    Kernels get it; depthwise kernels only with `decay_depthwise`. All other parameters get it only with `decay_norms`.
    A kernel is depthwise if a component of its path begins with `depthwise`.
    """

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        names = [getattr(entry, 'key', getattr(entry, 'name', None)) for entry in path]
        depthwise = any(str(name).startswith('depthwise') for name in names)
        return decay_norms if names[-1] != 'kernel' else decay_depthwise or not depthwise

    return jax.tree_util.tree_map_with_path(decays, params)


def layer_factors(layers: Collection[str], layer_decay: float) -> dict[str, float]:
    """The factor of the learning rate of each layer, by the layer's name at the top of the parameters.

    The factor is `layer_decay ** distance`. The distance is 1 for the last block, 2 for the one before, n for the first
    of n blocks, n + 1 for the stem, and 0 for all other layers (head convolution, classifier). This is the rule of BEiT
    (2106.08254, appendix) with a block of a MobileNet in place of a block of a transformer.
    """
    numbers = {layer: int(found[1]) for layer in layers if (found := re.fullmatch(r'block_(\d+)', layer))}
    blocks = max(numbers.values(), default=-1) + 1
    distances = {layer: blocks - numbers[layer] if layer in numbers else 0 for layer in layers}
    return {
        layer: layer_decay ** (blocks + 1 if layer == 'stem' else distance) for layer, distance in distances.items()
    }


def make_optimizer(
    plan: OptimizerPlan, steps_per_epoch: int, layers: Collection[str] = ()
) -> optax.GradientTransformation:
    """The optimizer of a plan. Its `update` is called once a step.

    - Clipping is applied to the gradient before weight decay is added.
    - Weight decay is an L2 term of the gradient for rmsprop, torch_rmsprop and sgd, as in the papers and in torch. For
      adamw and lamb it is added to the update.
    - lamb scales by its trust ratio only the parameters that get weight decay, as timm does.
    - rmsprop is TensorFlow's: squares start at 1, epsilon is under the root, the learning rate is inside the momentum.
      torch_rmsprop is torch's: squares start at 0, epsilon is added to the root, the learning rate multiplies the
      momentum.

    Args:
        plan: the optimiser, its schedule and how long it runs.
        steps_per_epoch: training batches an epoch.
        layers: names at the top of the network's parameters, for `layer_decay`. Without them the layers are those that
            are trained; give them if some are frozen.
    """
    schedule = learning_rate_schedule(plan, steps_per_epoch)

    def mask(params: Any) -> Any:
        return decay_mask(params, plan.decay_depthwise, plan.decay_norms)

    weight_decay = optax.add_decayed_weights(plan.weight_decay, mask)
    learning_rate = optax.scale_by_learning_rate(lambda update: schedule(update * plan.accumulation_steps))
    if plan.layer_decay is not None:
        learning_rate = optax.chain(learning_rate, _scale_layers(layers, plan.layer_decay))
    momentum = optax.trace(plan.momentum)
    epsilon = _EPSILON[plan.optimizer] if plan.epsilon is None else plan.epsilon
    adam = optax.scale_by_adam(b1=plan.momentum, eps=epsilon)
    match plan.optimizer:
        case 'rmsprop':
            squares = optax.scale_by_rms(plan.rmsprop_decay, eps=epsilon, initial_scale=1.0, eps_in_sqrt=True)
            parts = [weight_decay, squares, learning_rate, momentum]
        case 'torch_rmsprop':
            squares = optax.scale_by_rms(plan.rmsprop_decay, eps=epsilon, initial_scale=0.0, eps_in_sqrt=False)
            parts = [weight_decay, squares, momentum, learning_rate]
        case 'sgd':
            parts = [weight_decay, momentum, learning_rate]
        case 'adamw':
            parts = [adam, weight_decay, learning_rate]
        case 'lamb':
            parts = [adam, weight_decay, optax.masked(optax.scale_by_trust_ratio(), mask), learning_rate]
    if plan.clip_gradient_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(plan.clip_gradient_norm))
    optimizer = optax.chain(*parts)
    if plan.accumulation_steps == 1:
        return optimizer
    return optax.MultiSteps(optimizer, plan.accumulation_steps).gradient_transformation()


def _scale_layers(layers: Collection[str], layer_decay: float) -> optax.GradientTransformation:
    def scale(updates: Mapping[str, Any], _: Any) -> Any:
        factors = layer_factors(layers or updates, layer_decay)
        return {layer: optax.tree.scale(factors[layer], changes) for layer, changes in updates.items()}

    return optax.stateless(scale)
