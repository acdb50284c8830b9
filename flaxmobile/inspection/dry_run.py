"""Dry run: what a config would do, in words and as a picture. Nothing is trained and no image is read."""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from flaxmobile.data.splits import split_ranges
from flaxmobile.files import write_whole
from flaxmobile.models.network import variable_shapes
from flaxmobile.parallel.mesh import make_mesh
from flaxmobile.runs.locating import locate
from flaxmobile.runs.parts import describe_size, make_learner, make_task
from flaxmobile.runs.splits import load_splits
from flaxmobile.training.checks import steps_per_epoch, without_update
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.freezing import trained
from flaxmobile.training.optimizer import decay_mask, layer_factors, learning_rate_schedule
from flaxmobile.training.state import ema_decay_at
from flaxmobile.training.step import Learner

POINTS = 600
_BARS = '▁▂▃▄▅▆▇█'
_IMAGENET = {'train': 1_281_167, 'validation': 50_000}


class Images(NamedTuple):
    """How many images and classes there are to train on, and how that is known."""

    number: int
    classes: int
    known: str


class Plan(NamedTuple):
    """A config with what follows from it: the `shapes` of the network's variables, by collection."""

    config: TrainConfig
    images: Images
    learner: Learner
    shapes: dict[str, Any]
    steps_per_epoch: int
    size: str

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.total_steps(self.steps_per_epoch)


def plan_run(config: TrainConfig, picture: Path, *, name: str, images: int | None = None) -> str:
    """Draw the schedules of a run, and return a description of what it would do.

    Args:
        config: the configuration of the run.
        picture: the PNG to write; an existing file is replaced.
        name: the name of the config.
        images: the number of training images; None: that of the data set. ImageNet's is known without its files.

    Raises:
        OSError: the data set is not here and its number of images is not known, or the weights to start from are not
            here.
        ValueError: the configuration or the data does not fit.
    """
    from flaxmobile.drawing import png
    from flaxmobile.runs.plots import schedules

    plan = make_plan(config, images)
    steps = np.unique(np.linspace(0, plan.total_steps - 1, POINTS).round().astype(int))
    rates, decays = values_at(plan, steps)
    spans = None if decays is None else 1 / (1 - decays)
    write_whole(picture, png(schedules(steps / plan.steps_per_epoch, rates, spans, chances(config))))
    parts = ['\n'.join(part) for part in (_summary(plan), _decay_table(plan), _schedule_table(plan, rates))]
    ending = f'the schedules as a picture: {picture}'
    return '\n\n'.join([f'{name}: what it would do; nothing is trained', *parts, ending])


def make_plan(config: TrainConfig, images: int | None) -> Plan:
    """All that can be known of a run beforehand. Raises as `plan_run` does."""
    for source in (config.init, config.teacher):
        if source is not None:
            locate(source)
    found = count_images(config, images)
    steps = steps_per_epoch(config.optimizer_plan, config.batch_size, found.number)
    task = make_task(config, tuple(map(str, range(found.classes))))
    learner = make_learner(config, task, steps, make_mesh())
    shapes = variable_shapes(learner.model, config.preprocessing.channels)
    return Plan(config, found, learner, shapes, steps, describe_size(learner, shapes['params']))


def count_images(config: TrainConfig, given: int | None = None) -> Images:
    """The training images and classes of a config: `given`, or those of the data set, or ImageNet's published number.

    Raises:
        FileNotFoundError: the data set is not here, its size not known, and nothing given.
        ValueError: there is no such data set or split; `given` is less than 1.
    """
    if given is None:
        try:
            train = load_splits(dataclasses.replace(config.data_plan, download=False)).train
        except FileNotFoundError as error:
            if re.split('[/:]', config.dataset)[0] != 'imagenet2012':
                raise FileNotFoundError(f'{error}. Or say how many training images there are: images=N') from None
            parts = split_ranges(config.train_split, _IMAGENET)
            return Images(sum(len(part) for _, part in parts), 1000, 'as published; the set is not here')
        return Images(len(train), len(train.classes), 'counted')
    if given < 1:
        raise ValueError(f'images is {given}: it has to be 1 or more')
    from flaxmobile.data.tfds_sets import known_classes

    classes = known_classes(config.dataset, config.data_dir)
    return Images(given, classes or 1000, 'images as given' + ('' if classes else ', classes assumed'))


def values_at(plan: Plan, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The learning rate at steps, counted from 0, and the decay of the moving average, if there is one."""
    config = plan.config
    rates = np.asarray(learning_rate_schedule(config.optimizer_plan, plan.steps_per_epoch)(steps))
    if config.ema_decay is None:
        return rates, None
    return rates, np.asarray(ema_decay_at(steps // config.accumulation_steps, config.ema_decay))


def chances(config: TrainConfig) -> dict[str, float]:
    """What happens to a training image by chance, with its probability."""
    both, augmentation = config.mixup_alpha > 0 and config.cutmix_alpha > 0, config.augmentation
    found = {
        'flip': 0.5 * augmentation.flip,
        'RandAugment operation': 0.5 * (augmentation.auto_augment == 'randaugment'),
        'AutoAugment': float(augmentation.auto_augment == 'autoaugment'),
        'TrivialAugment': float(augmentation.auto_augment == 'trivialaugment'),
        'colour jitter': float(augmentation.color_jitter > 0),
        'erasing': augmentation.random_erasing,
        'Mixup': (config.mixup_alpha > 0) / (1 + both),
        'CutMix': (config.cutmix_alpha > 0) / (1 + both),
        'dropout': config.dropout_rate or 0.0,
        'last block skipped': config.stochastic_depth_rate or 0.0,
    }
    return {name: chance for name, chance in found.items() if chance > 0}


def _summary(plan: Plan) -> list[str]:
    config, images, steps = plan.config, plan.images, plan.total_steps
    updates, idle = steps // config.accumulation_steps, without_update(config.accumulation_steps, steps)
    side = config.augmentation.train_image_size
    smaller = f', trained at {side}' if side else ''
    lines = {
        'network': f'{config.model} at {config.preprocessing.image_size} pixels{smaller}: {plan.size}',
        'starts from': config.init or f'random parameters, seed {config.seed}',
        'data': f'{config.dataset} {config.train_split}: {images.number:,} images, {images.classes:,} classes '
        f'({images.known})',
        'length': f'{config.epochs:,g} epochs of {plan.steps_per_epoch:,} steps: {steps:,} steps, {updates:,} updates, '
        f'{steps * config.batch_size:,} images seen' + (idle and f',\n{"":16}{idle}'),
        'batch': _batch(config.batch_size, jax.devices()),
        'by chance': ', '.join(f'{name} {100 * chance:g} %' for name, chance in chances(config).items())
        or 'no changes',
        'loss': _loss(config),
        'optimizer': _optimizer(config),
        'memory': _memory(plan),
    }
    if config.layer_decay is not None:
        factors = layer_factors(plan.shapes['params'], config.layer_decay)
        lines['layers'] = f'rate times {min(factors.values()):.3g} at the stem, rising to 1 at the head'
    return [f'  {title:12}  {line}' for title, line in lines.items()]


def _batch(size: int, devices: list[Any]) -> str:
    counts = dict.fromkeys((len(devices), 8, 32))
    shared = [f'{size // count:,} each on {count}' for count in counts if size % count == 0]
    here = f'{len(devices)} {devices[0].platform} device{"s" if len(devices) > 1 else ""} here'
    return f'{size:,} images a step: ' + ', '.join(shared).replace(f'on {len(devices)}', f'on the {here}', 1)


def _loss(config: TrainConfig) -> str:
    labels = f'cross entropy, labels smoothed by {config.label_smoothing:g}'
    if config.teacher is None:
        return labels
    share, temperature = config.distillation_weight, config.distillation_temperature
    rest = f',\n{"":16}{1 - share:.0%} {labels}' if share < 1 else ''
    return f'{share:.0%} distance to the answers of {config.teacher} at temperature {temperature:g}{rest}'


def _optimizer(config: TrainConfig) -> str:
    """The chain of `make_optimizer`, in its order."""
    decay = f'weight decay {config.weight_decay:g}'
    rate, momentum = f'rate ({config.schedule})', f'momentum {config.momentum:g}'
    epsilon = 'default epsilon' if config.epsilon is None else f'epsilon {config.epsilon:g}'
    squares = f'squares {config.rmsprop_decay:g}, {epsilon}'
    adam = f'Adam {config.momentum:g}, 0.999, {epsilon}'
    chain = {
        'rmsprop': [decay, squares, rate, momentum],
        'torch_rmsprop': [decay, squares, momentum, rate],
        'sgd': [decay, momentum, rate],
        'adamw': [adam, decay, rate],
        'lamb': [adam, decay, 'trust ratio', rate],
    }[config.optimizer]
    if config.clip_gradient_norm is not None:
        chain.insert(0, f'clip to norm {config.clip_gradient_norm:g}')
    if config.accumulation_steps > 1:
        chain.insert(0, f'mean of {config.accumulation_steps} steps')
    return f'{config.optimizer}: ' + ' → '.join(chain)


def _memory(plan: Plan) -> str:
    config, params = plan.config, plan.shapes['params']
    learner = plan.learner
    state = jax.eval_shape(learner.optimizer.init, trained(params, learner.frozen))
    sizes = {
        'parameters': _bytes(params),
        'BatchNorm statistics': _bytes(plan.shapes.get('batch_stats', {})),
        'optimizer': _bytes(state),
        'moving average': 0 if config.ema_decay is None else _bytes(plan.shapes),
    }
    parts = ', '.join(f'{name} {size / 2**20:,.1f}' for name, size in sizes.items() if size)
    total = f'{sum(sizes.values()) / 2**20:,.1f} MiB'
    return f'{total} of state on each device, besides activations:\n{"":16}{parts}'


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _decay_table(plan: Plan) -> list[str]:
    config = plan.config
    reached = f'Weight decay ({config.weight_decay:g})' if config.weight_decay else 'Weight decay (none)'
    rows = [(reached, 'arrays', 'numbers', '')]
    for (pattern, decays, training), sizes in parameter_groups(plan).items():
        words = ['reached' if decays else 'spared', *([] if training else ['frozen'])]
        rows.append((f'  {pattern}', f'{len(sizes):,}', f'{sum(sizes):,}', ', '.join(words)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f'{first:{widths[0]}}  {count:>{widths[1]}}  {numbers:>{widths[2]}}  {words}'.rstrip()
        for first, count, numbers, words in rows
    ]


def parameter_groups(plan: Plan) -> dict[tuple[str, bool, bool], list[int]]:
    """The size of each parameter by (pattern, whether weight decay reaches it, whether it is trained).

    A pattern is a path in which `*` stands for the number of a block, and for scale and bias of a BatchNorm.
    """
    config, params = plan.config, plan.shapes['params']
    mask = flatten_dict(decay_mask(params, config.decay_depthwise, config.decay_norms))
    groups: dict[tuple[str, bool, bool], list[int]] = {}
    for path, leaf in sorted(flatten_dict(params).items(), key=lambda item: _place(item[0])):
        training = path not in plan.learner.frozen
        decays = bool(mask[path]) and training and config.weight_decay > 0
        pattern = re.sub(r'norm/\w+$', 'norm/*', re.sub(r'^block_\d+', 'block_*', '/'.join(path)))
        groups.setdefault((pattern, decays, training), []).append(leaf.size)
    return groups


def _place(path: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    ends = {'stem': 0, 'classifier': 3}
    return ends.get(path[0], 1 if path[0].startswith('block_') else 2), path[1:] if path[0][:6] == 'block_' else path


def _schedule_table(plan: Plan, rates: np.ndarray) -> list[str]:
    config, last = plan.config, plan.total_steps - 1
    epochs = sorted({0.0, config.warmup_epochs, *(share * config.epochs for share in (0.25, 0.5, 0.75, 1))})
    steps = np.array([min(round(epoch * plan.steps_per_epoch), last) for epoch in epochs])
    values, decays = values_at(plan, steps)
    rows = {'epoch': [f'{epoch:,g}' for epoch in epochs], 'learning rate': [f'{value:.3g}' for value in values]}
    if decays is not None:
        rows['EMA decay'] = [f'{value:.6g}' for value in decays]
    lines = [f'{title:14}' + ''.join(f'{cell:>10}' for cell in cells) for title, cells in rows.items()]
    return [*lines, f'{"rate by epoch":14}{"":4}{"".join(_sparkline(rates, 10 * len(epochs) - 4))}']


def _sparkline(values: np.ndarray, width: int) -> Iterator[str]:
    for value in values[np.linspace(0, len(values) - 1, width).round().astype(int)]:
        yield _BARS[min(int(len(_BARS) * value / values.max()), len(_BARS) - 1)]
