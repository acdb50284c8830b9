"""A contact sheet of the images that a recipe gives the network, in evaluation and in training."""

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from flaxmobile.data import Augmentation, Dataset
from flaxmobile.drawing import INK, MUTED, png, short, show
from flaxmobile.files import write_whole
from flaxmobile.runs.splits import load_split
from flaxmobile.training.config import TrainConfig

VARIANTS = 6


class Column(NamedTuple):
    """One batch of the images shown.

    Attributes:
        images: uint8 `[count, height, width, channels]`.
        heading: what kind of images these are.
        captions: the caption of each image.
        note: a line about all of them.
    """

    images: np.ndarray
    heading: str
    captions: Sequence[str]
    note: str = ''


def write_preview(config: TrainConfig, output: Path, *, name: str, count: int) -> None:
    """Write the contact sheet of the first `count` training images that `config` names, as a PNG.

    Args:
        config: the recipe.
        output: the file to write; an existing one is replaced.
        name: of the config, for the title.
        count: how many images, 1 or more.

    Raises:
        ValueError: `output` does not end in .png, there is no image to be shown, or the data do not fit the recipe.
    """
    if output.suffix.lower() != '.png':
        raise ValueError(f'{output} does not end in .png: the picture is a PNG')
    if count < 1:
        raise ValueError(f'images is {count}: it has to be 1 or more')
    originals, columns = read_columns(config, count)
    title = f'{short(Path(name).stem, 60)}: {config.model}'
    write_whole(output, png(contact_sheet(title, recipe(config), originals, columns)))


def recipe(config: TrainConfig) -> list[str]:
    """How training images are varied, in words."""
    augmentation = config.augmentation
    low, high = (100 * share for share in augmentation.crop_scale)
    words = [f'crops of {low:g} to {high:g} % of the area' if low < high else f'crops of {low:g} % of the area']
    if augmentation.flip:
        words.append('half mirrored')
    if augmentation.auto_augment == 'randaugment':
        words.append(_rand_augment(augmentation))
    elif augmentation.auto_augment:
        words.append({'autoaugment': 'AutoAugment', 'trivialaugment': 'TrivialAugment'}[augmentation.auto_augment])
    if augmentation.color_jitter:
        words.append(f'colour jitter {augmentation.color_jitter:g}')
    if augmentation.random_erasing:
        words.append(f'random erasing of {100 * augmentation.random_erasing:g} %')
    words += [
        f'{method} of Beta({alpha:g}, {alpha:g})'
        for method, alpha in (('Mixup', config.mixup_alpha), ('CutMix', config.cutmix_alpha))
        if alpha
    ]
    if augmentation.repeated_augmentation > 1:
        words.append(f'each {augmentation.repeated_augmentation} times in a batch')
    interpolation = augmentation.train_interpolation or config.preprocessing.interpolation
    return [*words, 'bilinear or bicubic' if interpolation == 'random' else interpolation]


def _rand_augment(augmentation: Augmentation) -> str:
    magnitude, deviation = augmentation.randaugment_magnitude, augmentation.randaugment_magnitude_std
    strength = f'0 to {magnitude:g}' if deviation > 100 else f'{magnitude:g}' + f' ± {deviation:g}' * (deviation > 0)
    increasing = ', increasing' if augmentation.randaugment_increasing else ''
    return f'RandAugment of {augmentation.randaugment_layers} layers, magnitude {strength}{increasing}'


def read_columns(config: TrainConfig, count: int) -> tuple[Column, list[Column]]:
    """The first training images as in evaluation, and `VARIANTS` training batches of them.

    The batches come from `Dataset.train_batches` and `Mixing`, as in training. Each holds every image once.
    """
    dataset = first_images(config, count)
    count = len(dataset)
    shown = next(dataset.evaluation_batches(count, config.preprocessing))
    augmentation = dataclasses.replace(config.augmentation, repeated_augmentation=VARIANTS)
    varied = next(dataset.train_batches(count * VARIANTS, config.preprocessing, augmentation, seed=config.seed))
    order = np.argsort(varied['index'][::VARIANTS], kind='stable')
    images, labels, places = (
        varied[name].reshape(count, VARIANTS, *varied[name].shape[1:])[order] for name in ('image', 'label', 'index')
    )
    names = [short(dataset.classes[label]) for label in labels[:, 0]]
    size = f'{config.preprocessing.image_size} pixels'
    originals = Column(shown['image'][places[:, 0]], 'in evaluation', names, size)
    return originals, [mix(images[:, place], names, config, place) for place in range(VARIANTS)]


def first_images(config: TrainConfig, count: int) -> Dataset:
    """The first `count` images of the training split, or all of them, as a data set."""
    name, part = next((name, part) for name, part in load_split(config.data_plan, config.train_split).parts if part)
    return load_split(config.data_plan, f'{name}[{part.start}:{min(part.stop, part.start + count)}]')


def mix(images: np.ndarray, names: Sequence[str], config: TrainConfig, step: int) -> Column:
    """A batch as the network sees it: normalised, mixed where the recipe says so, and turned back into pixels."""
    heading = f'in training, {images.shape[1]} pixels'
    mixing = dataclasses.replace(config.mixing, distance=1)
    if not mixing:
        return Column(images, heading, [''] * len(images))
    key = jax.random.fold_in(jax.random.key(config.seed), step)
    mixed, _ = mixing(config.preprocessing.normalize(images), jnp.eye(len(images)), key)
    mixture = mixing.draw(key, *images.shape[1:3])
    share = round(100 * float(mixture.share))
    captions = [shares(own, other, share) for own, other in zip(names, np.roll(names, mixing.distance), strict=True)]
    pixels = config.preprocessing.denormalize(np.asarray(mixed))
    heading += ': a batch in each column, mixed with the image above'
    return Column(pixels, heading, captions, 'CutMix' if mixture.cutmix else 'Mixup')


def shares(own: str, other: str, percent: int) -> str:
    """The share of each class in a mixed image, a line for each."""
    parts = {own: 100} if own == other else {own: percent, other: 100 - percent}
    return '\n'.join(f'{part} % {name}' for name, part in parts.items() if part)


def contact_sheet(title: str, words: Sequence[str], originals: Column, variants: Sequence[Column]) -> Figure:
    """Lay out a row for each image: as evaluation shows it, then its variants."""
    side, gap, between = 1.3, 0.08, 0.3
    caption = 0.2 + 0.14 * max(text.count('\n') for column in variants for text in column.captions)
    lines = textwrap.wrap('\N{NO-BREAK SPACE}· '.join(word.replace(' ', '\N{NO-BREAK SPACE}') for word in words), 120)
    width = side + between + len(variants) * (side + gap) - gap
    top = 0.92 + 0.2 * len(lines)
    height = top + len(originals.images) * (side + caption + gap)
    figure = Figure(figsize=(width, height))

    def write(x: float, y: float, text: str, **style: Any) -> None:
        how: dict[str, Any] = {'va': 'top', 'color': MUTED, 'fontsize': 9, 'parse_math': False} | style
        figure.text(x / width, 1 - y / height, text, **how)

    write(0, 0, title, fontsize=13, color=INK, fontweight='bold')
    write(0, 0.3, '\n'.join(lines), linespacing=1.4)
    headings = 0.45 + 0.2 * len(lines)
    for number, column in enumerate((originals, *variants)):
        x = number and between + number * (side + gap)
        if number < 2:
            write(x, headings, column.heading, color=INK, fontsize=10, fontweight='bold')
        write(x, headings + 0.22, column.note)
        for row, (image, text) in enumerate(zip(column.images, column.captions, strict=True)):
            y = top + row * (side + caption + gap)
            show(figure.add_axes((x / width, 1 - (y + side) / height, side / width, side / height)), image)
            write(x, y + side + 0.04, text, fontsize=8, linespacing=1.2, color=MUTED if number else INK)
    return figure
