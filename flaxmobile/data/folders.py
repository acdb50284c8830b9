"""Data sets in folders: `root/class/image` or `root/split/class/image`."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from flaxmobile.data.dataset import Example, RandomAccessDataset
from flaxmobile.data.splits import split_ranges

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')
_OTHER_IMAGES = ('.avif', '.bmp', '.gif', '.heic', '.heif', '.jxl', '.tif', '.tiff')
_TEST_SHARE = 0.2
_SAMPLED = 16  # Files whose content is part of what tells a folder from another one with the same names,
_SAMPLED_BYTES = 2**16  # and how much of each, besides its size.
_LAYOUT = 'root/class/image.jpg or root/split/class/image.jpg is expected'

Files = dict[str, list[Path]]  # The images of each class.


class FolderExamples:
    """Images of a folder, in a fixed order."""

    def __init__(self, root: Path, files: list[tuple[Path, int]]) -> None:
        self._root, self._files = root, files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Example:
        path, label = self._files[index]
        return Example(path, label, str(path.relative_to(self._root)))


def open_folder(root: Path, split: str, *, seed: int, max_unreadable: float) -> RandomAccessDataset:
    """Open a folder of images.

    The classes are the names of the folders, sorted. Folders of splits are told from folders of classes by what they
    hold: folders or images. Without folders of splits, a fifth of each class is `test` and the rest `train`, drawn by
    `seed`. Within a split the images lie in an order drawn by `seed`, in which the classes are spread evenly: any slice
    has about the proportions of the whole. Hidden files, and files that are no images, are passed over.

    Args:
        root: the folder.
        split: as `train`, `train[:90%]` or `test`.
        seed: what the division and the order are drawn from.
        max_unreadable: the share of images that may be unreadable.

    Raises:
        ValueError: the folder is not laid out so, holds an empty class or a single one, or has no such split.
    """
    splits = _splits(root, seed)
    classes = sorted({label for files in splits.values() for label in files})
    if len(classes) < 2:
        raise ValueError(f'{root} has the one class {classes[0]!r}, and two are needed; {_LAYOUT}')
    labels = {name: label for label, name in enumerate(classes)}
    orders = {name: _spread(root, files, seed) for name, files in splits.items()}
    parts = tuple(split_ranges(split, {name: len(order) for name, order in orders.items()}))
    chosen = [(path, labels[path.parent.name]) for name, part in parts for path in orders[name][part.start : part.stop]]
    dataset = RandomAccessDataset(str(root), split, tuple(classes), FolderExamples(root, chosen), max_unreadable)
    dataset.parts = parts
    names = b'\n'.join(os.fsencode(path.relative_to(root)) for path, _ in chosen)
    contents = _sample([path for path, _ in chosen[:_SAMPLED]])
    dataset.identity = f'names {hashlib.sha256(names).hexdigest()[:16]}, contents {contents}'
    return dataset


def _splits(root: Path, seed: int) -> dict[str, Files]:
    folders = _folders(root)
    if not folders:
        raise ValueError(f'{root} holds no folders; {_LAYOUT}')
    with_folders = [folder for folder in folders if _folders(folder)]
    if not with_folders:
        return _divide(root, {folder.name: _images(folder) for folder in folders}, seed)
    for folder in folders:
        if folder not in with_folders:
            raise ValueError(f'{folder} holds no folders, and {with_folders[0].name} beside it does; {_LAYOUT}')
        if images := _images(folder, needed=False):
            raise ValueError(f'{folder} holds folders and images ({images[0].name}) side by side; {_LAYOUT}')
    splits = {}
    for folder in folders:
        for class_folder in _folders(folder):
            if nested := _folders(class_folder):
                raise ValueError(f'{nested[0]} lies too deep: {_LAYOUT}')
        splits[folder.name] = {class_folder.name: _images(class_folder) for class_folder in _folders(folder)}
    _check_classes(root, splits)
    return splits


def _check_classes(root: Path, splits: Mapping[str, Files]) -> None:
    for name, files in splits.items():
        if extra := sorted(set(files) - set(splits.get('train', files))):
            raise ValueError(f'{root / name} has classes that train has not: {", ".join(extra[:5])}')


def _folders(root: Path) -> list[Path]:
    with os.scandir(root) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith('.'))


def _images(folder: Path, needed: bool = True) -> list[Path]:
    with os.scandir(folder) as entries:
        paths = sorted(Path(entry.path) for entry in entries if entry.is_file() and not entry.name.startswith('.'))
    images = [path for path in paths if path.suffix.lower() in SUFFIXES]
    other = [path.name for path in paths if path.suffix.lower() in _OTHER_IMAGES]
    if other:
        raise ValueError(
            f'{folder} holds {len(other)} images of a kind that is not read ({other[0]}): '
            f'convert them to {", ".join(SUFFIXES)}, or remove them'
        )
    if needed and not images:
        raise ValueError(f'the class folder {folder} holds no images ({", ".join(SUFFIXES)}): fill it or remove it')
    return images


def _divide(root: Path, files: Files, seed: int) -> dict[str, Files]:
    splits: dict[str, Files] = {'train': {}, 'test': {}}
    for label, paths in files.items():
        paths = sorted(paths, key=lambda path: _draw(root, path, seed))
        tests = max(1, round(_TEST_SHARE * len(paths))) if len(paths) > 1 else 0
        splits['test'][label], splits['train'][label] = paths[:tests], paths[tests:]
    return splits


def _spread(root: Path, files: Files, seed: int) -> list[Path]:
    places = []
    for paths in files.values():
        drawn = sorted((_draw(root, path, seed), path) for path in paths)
        places += [((place + 0.5) / len(drawn), draw, path) for place, (draw, path) in enumerate(drawn)]
    # Classes of one size meet at the same places, where the draw decides which comes first.
    return [path for _, group in groupby(sorted(places), key=lambda place: place[0]) for *_, path in group]


def _draw(root: Path, path: Path, seed: int) -> bytes:
    # A hash, so that an image that is added leaves the others where they are, on any machine.
    return hashlib.blake2b(f'{seed}/{path.relative_to(root).as_posix()}'.encode(), digest_size=8).digest()


def _sample(paths: Sequence[Path]) -> str:
    """A digest of the sizes and the beginnings of files; one that cannot be read counts as empty."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            with open(path, 'rb') as file:
                size, start = os.fstat(file.fileno()).st_size, file.read(_SAMPLED_BYTES)
        except OSError:
            size, start = 0, b''
        digest.update(f'{size} '.encode() + start)
    return digest.hexdigest()[:16]
