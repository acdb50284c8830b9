"""What the classes of ImageNet are called: the vocabularies of published weights, from WordNet."""

import functools
import lzma
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxmobile.messages import listing, unknown

FOLDER = Path(__file__).parent / 'vocabularies'
VOCABULARIES = {'imagenet-1k': 1000, 'imagenet-12k': 11821, 'imagenet-21k-miil': 11221}
"""Name of each vocabulary and its number of classes."""


class Vocabulary(NamedTuple):
    """The classes in the order of the logits: a name for each, all different, and its WordNet id, as `n02123045`."""

    names: tuple[str, ...]
    synsets: tuple[str, ...]


@functools.cache
def vocabulary(name: str) -> Vocabulary:
    """The classes of ImageNet-1k, or of a larger choice from ImageNet: timm's 12k or MIIL's 21k.

    Raises:
        ValueError: there is no such vocabulary.
    """
    if name not in VOCABULARIES:
        raise ValueError(unknown('vocabulary', name, VOCABULARIES))
    lines = lzma.decompress((FOLDER / f'{name}.txt.xz').read_bytes()).decode().splitlines()
    synsets, names = zip(*(line.split('\t') for line in lines), strict=True)
    return Vocabulary(names, synsets)


def synsets(classes: Sequence[str]) -> tuple[str, ...]:
    """The WordNet ids of `classes` where they are a vocabulary's names; otherwise none."""
    for name, count in VOCABULARIES.items():
        if len(classes) == count and vocabulary(name).names == tuple(classes):
            return vocabulary(name).synsets
    return ()


def label_positions(data_classes: Sequence[str], model_classes: Sequence[str]) -> np.ndarray:
    """The model's number for each class of a data set, int32 [data classes], by name or by ImageNet's WordNet id.

    Raises:
        ValueError: the model does not know some of the classes.
    """
    named = [*synsets(model_classes), *model_classes]
    positions = {name: number % len(model_classes) for number, name in enumerate(named)}
    # The folders of an older run may have written accents as characters of their own, which no longer is so.
    positions = {unicodedata.normalize('NFC', name): number for name, number in positions.items()} | positions
    foreign = [name for name in data_classes if name not in positions]
    if foreign:
        raise ValueError(
            f'the model does not know {len(foreign)} of the {len(data_classes)} classes of the data set '
            f'({listing(foreign, 5)}); it knows {listing(model_classes, 5)}'
        )
    return np.array([positions[name] for name in data_classes], np.int32)
