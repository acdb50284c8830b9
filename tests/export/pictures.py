"""Pictures of every kind that a browser and Pillow both read: photos, drawings, grey, with colours of a palette."""

import functools
import io
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from PIL import Image, ImageDraw

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile.data import Preprocessing, prepare_for_evaluation
from flaxmobile.data.fashion_mnist import read_embedded
from flaxmobile.weights import Model

SIZE = 96
LABELS = ('apple', 'grüne Birne', 'cat <b>', '猫', 'dog', 'egg', 'fox, Vulpes vulpes', 'goat', 'hen', 'ibis')
SAMPLES = Path(matplotlib.get_data_path()) / 'sample_data'


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _photo() -> Image.Image:
    return Image.open(SAMPLES / 'grace_hopper.jpg').convert('RGB')


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encoded(_photo().crop((100, 0, 400, 411)), 'JPEG', quality=90, exif=exif)


def _garment(number: int) -> Image.Image:
    return Image.fromarray(read_embedded()['test'].images[number].reshape(28, 28))


def _drawing(width: int, height: int, seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(columns / random.uniform(5, 60) + rows / random.uniform(5, 60)) for _ in range(3)]
    image = Image.fromarray((127 * (1 + np.stack(waves, axis=-1))).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = random.integers(0, width), random.integers(0, height)
        box = (left, top, left + random.integers(5, width), top + random.integers(5, height))
        draw.ellipse([int(corner) for corner in box], fill=tuple(int(value) for value in random.integers(0, 256, 3)))
    return image


def _noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(2).integers(0, 256, (131, 97, 3), np.uint8))


def _fading() -> Image.Image:
    image = _drawing(200, 240, 7).convert('RGBA')
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 200).astype(np.uint8), (240, 1))))
    return image


PICTURES: dict[str, Callable[[], bytes]] = {
    'photo.jpg': lambda: (SAMPLES / 'grace_hopper.jpg').read_bytes(),
    'turned.jpg': _turned,
    'grey.jpg': lambda: _encoded(_photo().convert('L').crop((0, 300, 512, 606)), 'JPEG', quality=80),
    'logo.png': lambda: (SAMPLES / 'Minduka_Present_Blue_Pack.png').read_bytes(),
    'small garment.png': lambda: _encoded(_garment(3), 'PNG'),
    'garment.jpg': lambda: _encoded(_garment(8).resize((301, 207)).convert('RGB'), 'JPEG', quality=75),
    'drawing.png': lambda: _encoded(_drawing(500, 333, 1), 'PNG'),
    'wide.jpg': lambda: _encoded(_drawing(901, 121, 4), 'JPEG', quality=60),
    'palette.png': lambda: _encoded(_drawing(150, 260, 5).quantize(32), 'PNG'),
    'noise.png': lambda: _encoded(_noise(), 'PNG'),
    'fading.png': lambda: _encoded(_fading(), 'PNG'),
}
"""What makes each, by its name."""


@functools.cache
def picture(name: str) -> bytes:
    """The file of that name."""
    return PICTURES[name]()


@functools.cache
def classifier() -> Model:
    """A MobileNetV2 of ten classes whose answers to these pictures differ: BatchNorm has seen them."""
    overrides = {'num_classes': len(LABELS), 'dropout_rate': 0.0}
    network = flaxmobile.create_model('mobilenetv2_035', **overrides)
    preprocessing = Preprocessing(SIZE)
    images = np.stack([prepare_for_evaluation(picture(name), preprocessing) for name in PICTURES])
    variables = random_variables(network, (1, SIZE, SIZE, 3))
    nothing = {**variables, 'batch_stats': jax.tree.map(jnp.zeros_like, variables['batch_stats'])}
    step = jax.jit(lambda values: network.apply(nothing, values, train=True, mutable=['batch_stats']))
    logits, after = step(preprocessing.normalize(images))
    share = 1 - network.convention.momentum  # of the statistics of the batch.
    statistics = jax.tree.map(lambda moved: moved / share, after['batch_stats'])
    variables = {'params': variables['params'], 'batch_stats': statistics}
    last = variables['params']['classifier']
    spread = {'kernel': 3 * last['kernel'], 'bias': 3 * (last['bias'] - logits.mean(axis=0))}
    variables['params'] = {**variables['params'], 'classifier': spread}
    return Model(network, variables, preprocessing, LABELS, 'classification', 'mobilenetv2_035', overrides)


@functools.cache
def probabilities() -> dict[str, np.ndarray]:
    """What that answers to each picture in JAX, as `flaxmobile predict` does."""
    model = classifier()
    found = model.predict(np.stack([prepare_for_evaluation(picture(name), model.preprocessing) for name in PICTURES]))
    return dict(zip(PICTURES, found, strict=True))


def five_best(name: str) -> list[tuple[int, str, float]]:
    """Index, name and probability of the five most probable classes of a picture in JAX."""
    found = probabilities()[name]
    return [(int(index), LABELS[index], float(found[index])) for index in np.argsort(-found, kind='stable')[:5]]


def assert_same_answers(found: list[tuple[int, str, float]], name: str, within: float) -> None:
    """The same five classes in the same order as JAX, with the same probabilities."""
    wanted = five_best(name)
    assert [row[:2] for row in found] == [row[:2] for row in wanted], name
    np.testing.assert_allclose([row[2] for row in found], [row[2] for row in wanted], atol=within, err_msg=name)
