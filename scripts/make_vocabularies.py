"""Make `flaxmobile/weights/vocabularies` from the class lists that timm and torchvision carry.

    python scripts/make_vocabularies.py

A line is a WordNet synset and a name. ImageNet-1k has torchvision's names. Elsewhere a name is the first lemma of the
synset, all its lemmas where another class begins with the same, and these with the synset where that is not enough.
"""

import lzma
from collections import Counter
from pathlib import Path

from timm.data import ImageNetInfo
from torchvision.models import MobileNet_V2_Weights

from flaxmobile.weights.class_names import FOLDER

TIMM_SUBSETS = ('imagenet-12k', 'imagenet-21k-miil')


def unique_names(synsets: list[str], lemmas: list[str]) -> list[str]:
    """A name for each synset that no other has."""
    first = [lemma.split(', ')[0] for lemma in lemmas]
    counts, whole = Counter(first), Counter(lemmas)
    return [
        short if counts[short] == 1 else full if whole[full] == 1 and counts[full] == 0 else f'{full} ({synset})'
        for synset, short, full in zip(synsets, first, lemmas, strict=True)
    ]


def write(folder: Path, vocabulary: str, synsets: list[str], names: list[str]) -> None:
    """Write one vocabulary into the package."""
    assert len(set(names)) == len(set(synsets)) == len(names)
    text = ''.join(f'{synset}\t{name}\n' for synset, name in zip(synsets, names, strict=True))
    path = folder / f'{vocabulary}.txt.xz'
    temporary = path.with_suffix('.tmp')
    temporary.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    temporary.replace(path)
    print(f'{path}: {len(names):,} classes, {path.stat().st_size:,} bytes')


def main() -> None:
    """Write all of them."""
    synsets = ImageNetInfo('imagenet-1k').label_names()
    write(FOLDER, 'imagenet-1k', synsets, MobileNet_V2_Weights.IMAGENET1K_V1.meta['categories'])
    for subset in TIMM_SUBSETS:
        info = ImageNetInfo(subset)
        synsets = info.label_names()
        lemmas = [info.label_name_to_description(synset, detailed=False) for synset in synsets]
        write(FOLDER, subset, synsets, unique_names(synsets, lemmas))


if __name__ == '__main__':
    main()
