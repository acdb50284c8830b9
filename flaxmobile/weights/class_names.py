"""What the classes of ImageNet are called: the vocabularies of published weights, from WordNet."""

import functools
import lzma
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxmobile.messages import listing, printable, unknown

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


def check_classes(classes: Any, count: int) -> tuple[str, ...]:
    """The names of the classes of a model with `count` logits.

    Raises:
        ValueError: they are no list of texts, no two alike, one for each logit.
    """
    if not isinstance(classes, list | tuple):
        raise ValueError(f'classes is {printable(repr(classes))}, and has to be a list of names')
    for name in classes:
        if not isinstance(name, str):
            raise ValueError(f'classes holds {printable(repr(name))}, and has to hold names')
    if len(classes) != count:
        raise ValueError(f'names {len(classes)} classes for {printable(count, 20)} logits')
    seen = set[str]()
    for name in classes:
        if name in seen:
            raise ValueError(f"classes names '{printable(name)}' twice")
        seen.add(name)
    return tuple(classes)


def synsets(classes: Sequence[str]) -> tuple[str, ...]:
    """The WordNet ids of `classes` where they are a vocabulary's names; otherwise none."""
    for name, count in VOCABULARIES.items():
        if len(classes) == count and vocabulary(name).names == tuple(classes):
            return vocabulary(name).synsets
    return ()


def in_order(names: Sequence[str], order: Sequence[str]) -> tuple[str, ...] | None:
    """`names` in the order of the same names, where accents may be written otherwise; None where they are others."""
    known = {unicodedata.normalize('NFC', name): name for name in names}
    wanted = [unicodedata.normalize('NFC', name) for name in order]
    return tuple(known[name] for name in wanted) if sorted(known) == sorted(wanted) else None


def label_positions(data_classes: Sequence[str], labels: Sequence[str] | None) -> np.ndarray:
    """The model's number for each class of a data set, int32 [data classes], by name or by ImageNet's WordNet id.

    Args:
        data_classes: the names of the data set's classes.
        labels: the model's, in the order of its logits; None where they are not known, and then there is no match: a
            folder called `3` is not the fourth class.

    Raises:
        ValueError: the model does not know some of the classes, or the names of its own.
    """
    if labels is None:
        raise ValueError(
            f"the names of the model's classes are not known, so those of the data set ({listing(data_classes, 5)}) "
            'are not found among them. In Python, with model = flaxmobile.load(path), '
            "dataclasses.replace(model, labels=[...]).save('named.safetensors') writes a file that has them"
        )
    named = [*synsets(labels), *labels]
    positions = {name: number % len(labels) for number, name in enumerate(named)}
    # The folders of an older run may have written accents as characters of their own, which no longer is so.
    positions = {unicodedata.normalize('NFC', name): number for name, number in positions.items()} | positions
    foreign = [name for name in data_classes if name not in positions]
    if foreign:
        raise ValueError(
            f'the model does not know {len(foreign)} of the {len(data_classes)} classes of the data set '
            f'({listing(foreign, 5)}); it knows {listing(labels, 5)}'
        )
    return np.array([positions[name] for name in data_classes], np.int32)
