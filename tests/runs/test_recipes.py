"""The configs for ImageNet against their sources: steps and rates worked by hand, and two steps of every one."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_run import TinyNet

from benchmarks.random_variables import random_variables
from flaxmobile.data import load_dataset
from flaxmobile.inspection.dry_run import count_images
from flaxmobile.ops import standard
from flaxmobile.parallel.mesh import make_mesh, replicate, shard_batch
from flaxmobile.runs.parts import make_task
from flaxmobile.tasks.distillation import Distillation
from flaxmobile.training import state as states
from flaxmobile.training.checks import steps_per_epoch
from flaxmobile.training.config import TrainConfig, list_configs, load_config
from flaxmobile.training.optimizer import learning_rate_schedule, make_optimizer
from flaxmobile.training.step import make_train_step

IMAGENET = [name for name in list_configs() if name.startswith('imagenet')]
CLASSES = 4

# 1,281,167 images, of which 99 % are 1,268,355. Over batches of 256: 4,954.5; 768: 1,651.5; 1,024: 1,238.6;
# 2,048: 619.3; 4,096: 309.7; 16,384: 77.4. Times the epochs of the source.
STEPS = {
    'imagenet_mobilenetv1': (1652, 120 * 1652),
    'imagenet_mobilenetv1_timm': (310, 3600 * 310),
    'imagenet_mobilenetv2': (1652, 420 * 1652),
    'imagenet_mobilenetv2_timm': (1652, 450 * 1652),
    'imagenet_mobilenetv2_torchvision': (4955, 300 * 4955),
    'imagenet_mobilenetv2_torchvision_v2': (1239, 600 * 1239),
    'imagenet_mobilenetv3_large': (310, 1000 * 310),
    'imagenet_mobilenetv3_large_timm': (1239, 600 * 1239),
    'imagenet_mobilenetv3_large_torchvision': (1239, 600 * 1239),
    'imagenet_mobilenetv3_small': (310, 1000 * 310),
    'imagenet_mobilenetv3_small_timm': (619, 450 * 619),
    'imagenet_mobilenetv3_small_torchvision': (1239, 600 * 1239),
    'imagenet_mobilenetv4_conv_large': (77, 500 * 77),
    'imagenet_mobilenetv4_conv_medium': (310, 500 * 310),
    'imagenet_mobilenetv4_conv_small': (310, 9623 * 310),
    'imagenet_mobilenetv4_conv_small_distilled': (310, 2400 * 310),
    'imagenet_mobilenetv4_conv_small_timm': (310, 2400 * 310),
    'imagenet_mobilenetv4_hybrid_medium': (77, 500 * 77),
}


@pytest.fixture(autouse=True)
def without_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'none'))


@pytest.mark.parametrize('name', IMAGENET)
def test_steps(name: str) -> None:
    config = load_config(name)
    images = count_images(config)
    assert (images.number, images.classes) == (1_268_355, 1000)
    steps = steps_per_epoch(config.optimizer_plan, config.batch_size, images.number)
    assert (steps, config.total_steps(steps)) == STEPS[name]


def rate(name: str, epoch: float) -> float:
    """The learning rate of the first step after so many epochs."""
    steps = STEPS[name][0]
    return float(learning_rate_schedule(load_config(name).optimizer_plan, steps)(math.ceil(epoch * steps)))


@pytest.mark.parametrize(
    ('name', 'epoch', 'expected'),
    [
        ('imagenet_mobilenetv2', 0, 0.36),  # 0.045 for each of 8 GPUs; 0.98 every 2.5 epochs.
        ('imagenet_mobilenetv2', 2.6, 0.36 * 0.98),
        ('imagenet_mobilenetv2', 100.1, 0.36 * 0.98**40),
        ('imagenet_mobilenetv2_timm', 24.1, 0.048 * 0.97**10),  # Every 2.4 epochs.
        ('imagenet_mobilenetv2_timm', 2.5, 0.048 * 0.97**2 / 2),  # Half of the warm-up, to what the decay has at 5.
        ('imagenet_mobilenetv2_torchvision', 299.5, 0.045 * 0.98**299),  # StepLR(1, 0.98).
        ('imagenet_mobilenetv3_large', 31, 0.1 * 0.99**10),  # Decays by 1 % every 3 epochs.
        ('imagenet_mobilenetv3_small', 999, 0.1 * 0.99**333),
        ('imagenet_mobilenetv3_large_timm', 240.5, 0.064 * 0.973**100),
        ('imagenet_mobilenetv3_large_torchvision', 1.99, 0.064),  # StepLR(2, 0.973).
        ('imagenet_mobilenetv3_large_torchvision', 2.01, 0.064 * 0.973),
        ('imagenet_mobilenetv3_small_torchvision', 301, 0.064 * 0.973**150),
        ('imagenet_mobilenetv3_small_timm', 225, 5e-3 / 2),
        ('imagenet_mobilenetv4_conv_medium', 250, 0.004 / 2),
        ('imagenet_mobilenetv4_hybrid_medium', 375, 0.016 * (1 - math.sqrt(0.5)) / 2),
        ('imagenet_mobilenetv4_conv_small', 9623 / 3, 0.002 * 3 / 4),
    ],
)
def test_learning_rates_by_hand(name: str, epoch: float, expected: float) -> None:
    # Whole updates: a staircase and a cosine move by less than this within one.
    np.testing.assert_allclose(rate(name, epoch), expected, rtol=5e-3)


def test_torchvisions_cosine() -> None:
    """Its references: linear from 1 % over 5 epochs, then a cosine over the other 595, an epoch at a time."""
    for epoch in range(600):
        warm = 0.01 + 0.99 * epoch / 5
        theirs = 0.5 * warm if epoch < 5 else 0.25 * (1 + math.cos(math.pi * (epoch - 5) / 595))
        ours = rate('imagenet_mobilenetv2_torchvision_v2', epoch)
        assert abs(ours - theirs) < (0.01 if epoch < 5 else 0.008) * 0.5, epoch


def test_torchvisions_average_spans_as_much() -> None:
    """1.092e-3 of the difference once in 32 steps (references/classification/train.py): as much is left after 1,280."""
    config = load_config('imagenet_mobilenetv2_torchvision_v2')
    alpha = 2e-5 * 8 * 128 * 32 / 600
    assert config.ema_decay is not None
    np.testing.assert_allclose(config.ema_decay ** (32 * 40), (1 - alpha) ** 40, rtol=1e-3)


def test_authors_steps_of_mobilenetv4() -> None:
    """The YAML files' steps: 3,002,368, 156,000 and 39,000, of which 1,560 warm up, but for the images held out."""
    for name, total, warmup in (
        ('conv_small', 3_002_368, 1560),
        ('conv_medium', 156_000, 1560),
        ('conv_large', 39_000, 1560),
        ('hybrid_medium', 39_000, 1560),
    ):
        config, (steps, ours) = load_config(f'imagenet_mobilenetv4_{name}'), STEPS[f'imagenet_mobilenetv4_{name}']
        assert 0.98 < ours / total <= 1
        assert 0.98 < config.warmup_epochs * steps / warmup <= 1


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos of noise in each of four classes."""
    folder, rng = tmp_path_factory.mktemp('images'), np.random.default_rng(0)
    for number in range(CLASSES):
        (folder / 'train' / str(number)).mkdir(parents=True)
        for image in range(3):
            pixels = rng.integers(0, 256, (40, 56, 3), np.uint8)
            Image.fromarray(pixels).save(folder / 'train' / str(number) / f'{image}.jpg')
    return folder


def shrunk(config: TrainConfig, folder: Path) -> TrainConfig:
    """All that the config says, of eight small images a step."""
    grey = config.preprocessing.channels == 1
    return config.with_options(
        dataset=str(folder),
        train_split='train',
        batch_size=8,
        image_size=28 if grey else 32,
        train_image_size=None if config.augmentation.train_image_size is None else 24,
    )


WHOLE = (  # The quickest of three generations, one of them taught; all train a tiny network above.
    'imagenet_mobilenetv1',
    'imagenet_mobilenetv3_small_torchvision',
    'imagenet_mobilenetv4_conv_small_distilled',
)


@pytest.mark.slow
@pytest.mark.parametrize('name', list_configs())
def test_two_steps_of_a_small_network(name: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Augmented, mixed and taught as it says, by its optimiser at its rates."""
    monkeypatch.setattr(TrainConfig, 'build_model', lambda _, num_classes: TinyNet(num_classes))
    moved = after_two_steps(name, images, monkeypatch)
    assert len(moved) == 6
    # In front of a BatchNorm the gradient by a bias is nothing but rounding.
    assert [path for path, has_moved in moved.items() if not has_moved] in ([], ["['stem']['bias']"])


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in WHOLE else pytest.mark.thorough) for name in list_configs()]
)
def test_two_steps(name: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert np.mean(list(after_two_steps(name, images, monkeypatch).values())) > 0.9


def after_two_steps(name: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Whether each parameter has moved; every number of the steps is finite.

    In XLA's own operations, without optimisation and from variables that need no program: a third of the time.
    """
    monkeypatch.setattr(states, 'initial_variables', lambda model, _, shape: random_variables(model, shape))
    config = shrunk(load_config(name), images)
    model, mesh = config.build_model(CLASSES), make_mesh(jax.devices()[:1])
    data = load_dataset(config.dataset, config.train_split)
    batches = data.train_batches(8, config.preprocessing, config.augmentation, seed=0)
    optimizer = make_optimizer(config.optimizer_plan, 2)
    side = config.preprocessing.image_size
    shape = (1, side, side, config.preprocessing.channels)
    state = replicate(states.create_state(model, optimizer, jax.random.key(0), shape, config.ema_decay), mesh)
    variables, seen = jax.tree.map(np.asarray, state.variables), config.preprocessing
    teacher = Distillation(model, variables, seen, (3, 2, 1, 0), seen, 0.5, 1.0) if config.teacher else None
    task = make_task(config, tuple(map(str, range(CLASSES))), teacher)
    step = make_train_step(model, optimizer, task, ema_decay=config.ema_decay, seed=0, mesh=mesh)
    more = (task.variables,) if config.teacher else ()
    before = jax.tree.map(np.asarray, state.params)
    compiled: Any = None
    for _ in range(2):
        batch = shard_batch(next(batches), mesh)
        if compiled is None:
            quickly = {'xla_backend_optimization_level': 0}
            compiled = jax.jit(standard(step)).lower(state, batch, *more).compile(compiler_options=quickly)
        state, metrics = compiled(state, batch, *more)
        assert all(np.isfinite(value) for value in metrics.values())
        assert metrics['loss'] > 0
    assert int(state.step) == 2
    leaves = zip(jax.tree.leaves_with_path(before), jax.tree.leaves(state.params), strict=True)
    return {jax.tree_util.keystr(path): bool(np.any(old != new)) for (path, old), new in leaves}
