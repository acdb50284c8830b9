"""Data sets in folders: `root/class/image` or `root/split/class/image`."""

import hashlib
import os
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from flaxmobile.data.dataset import RandomAccessDataset
from flaxmobile.data.kinds import identify, suffixes
from flaxmobile.data.sample import Sample
from flaxmobile.data.splits import split_ranges
from flaxmobile.messages import listing, printable

_TEST_SHARE = 0.2
_SAMPLED = 16  # Files whose content is part of what tells a folder from another one with the same names,
_SAMPLED_BYTES = 2**16  # and how much of each, besides its size.
_LAYOUT = 'root/class/image.jpg or root/split/class/image.jpg is expected'
_STRAY = 'images in no class folder'

Files = dict[str, list[Path]]  # The images of each class.
PassedOver = dict[str, list[Path]]  # Files that are not taken, by the reason.


class Found(NamedTuple):
    """What a folder holds besides folders and hidden files.

    Attributes:
        images: those that Pillow reads.
        unread: images of kinds that it does not read, each with its kind.
        others: files that are no images, by the reason.
    """

    images: list[Path]
    unread: dict[Path, str]
    others: PassedOver


class FolderExamples:
    """Images of a folder, in a fixed order."""

    def __init__(self, root: Path, files: list[tuple[Path, int]]) -> None:
        self._root, self._files = root, files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        path, label = self._files[index]
        return Sample(path, label, printable(path.relative_to(self._root), None))


def open_folder(root: Path, split: str, *, seed: int, max_unreadable: float) -> RandomAccessDataset:
    """Open a folder of images.

    The classes are the names of the folders in Unicode's form NFC, sorted. Folders of splits are told from folders of
    classes by what they hold: folders or images. Without folders of splits, a fifth of each class is `test` and the
    rest `train`, drawn by `seed`. Within a split the images lie in an order drawn by `seed`, in which the classes are
    spread evenly: any slice has about the proportions of the whole. Hidden files are passed over, and so are files that
    are no images, which a warning counts and names.

    Args:
        root: the folder.
        split: as `train`, `train[:90%]` or `test`.
        seed: what the division and the order are drawn from.
        max_unreadable: the share of images that may be unreadable.

    Raises:
        ValueError: the folder is not laid out so, holds an empty class, a single one, two that have one name, images of
            a kind that is not read, or no such split.
    """
    passed_over: PassedOver = defaultdict(list)
    splits, drawn = _splits(root, passed_over), 0
    if len(splits) == 1 and '' in splits:
        drawn = sum(len(files) for files in splits[''].values())
        splits = _divide(root, splits[''], seed)
    classes = sorted({label for files in splits.values() for label in files})
    if len(classes) < 2:
        raise ValueError(
            f'{printable(root)} has the one class {printable(classes[0])!r}, and two are needed; {_LAYOUT}'
        )
    labels = {name: label for label, name in enumerate(classes)}
    orders = {name: _spread(root, files, seed) for name, files in splits.items()}
    parts = tuple(split_ranges(split, {name: len(order) for name, order in orders.items()}))
    chosen = [
        (path, labels[_normal(path.parent.name)])
        for name, part in parts
        for path in orders[name][part.start : part.stop]
    ]
    for told in (tell_passed_over(root, passed_over), _tell_classes(root, splits, classes)):
        if told:
            warnings.warn(told, stacklevel=4)  # Where load_dataset was called.
    dataset = RandomAccessDataset(str(root), split, tuple(classes), FolderExamples(root, chosen), max_unreadable)
    dataset.parts, dataset.drawn_from = parts, drawn
    names = b'\n'.join(os.fsencode(path.relative_to(root)) for path, _ in chosen)
    contents = _sample([path for path, _ in chosen[:_SAMPLED]])
    dataset.identity = f'names {hashlib.sha256(names).hexdigest()[:16]}, contents {contents}'
    return dataset


def find_images(root: Path) -> Found:
    """What a folder and all folders within hold, as data sets see it: hidden ones are passed over, links followed."""
    found = Found([], {}, defaultdict(list))
    waiting, seen = [root], set()
    while waiting:
        folder = waiting.pop()
        if (place := os.path.realpath(folder)) in seen:
            continue
        seen.add(place)
        here = _look_in(folder)
        found.images.extend(here.images)
        found.unread.update(here.unread)
        for reason, paths in here.others.items():
            found.others[reason] += paths
        waiting += _folders(folder)
    found.images.sort()
    return found


def tell_passed_over(root: Path, passed_over: PassedOver) -> str:
    """Say which files of a folder are not taken, and how many there are; '' where all are."""
    told = [
        f'{reason}: {len(paths):,} ({listing([path.relative_to(root) for path in paths], 5)})'
        for reason, paths in passed_over.items()
    ]
    return f'{printable(root)}: passed over {"; ".join(told)}' if told else ''


def by_kind(unread: Mapping[Path, str]) -> PassedOver:
    """Images that are not read (`Found.unread`), by the reason."""
    kinds = groupby(sorted(unread, key=lambda path: (unread[path], path)), key=lambda path: unread[path])
    return {f'images of a kind that is not read, {kind}': list(paths) for kind, paths in kinds}


def _look_in(folder: Path) -> Found:
    images, unread, others, by_suffix = [], {}, defaultdict(list), suffixes()
    for entry in _entries(folder):
        if entry.is_dir():
            continue
        path = Path(entry.path)
        kind = identify(entry.path, by_suffix) if entry.is_file() else None
        if kind is None:
            reason = 'files that are no images' if entry.is_file() else 'links or devices that lead to no file'
            others[reason].append(path)
        elif kind.is_read:
            images.append(path)
        else:
            unread[path] = kind.name
    return Found(images, unread, others)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith('.')), key=lambda entry: entry.name)


def _folders(root: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(root) if entry.is_dir()]


def _splits(root: Path, passed_over: PassedOver) -> dict[str, Files]:
    """The images by split and class; where the folders are those of classes, of one split without a name."""
    folders = _folders(root)
    if not folders:
        raise ValueError(f'{printable(root)} holds no folders; {_LAYOUT}')
    _pass_over(_look_in(root), passed_over)
    with_folders = [folder for folder in folders if _folders(folder)]
    if not with_folders:
        return {'': _classes(folders, passed_over)}
    splits = {}
    for folder in folders:
        if folder not in with_folders:
            raise ValueError(
                f'{printable(folder)} holds no folders, and {printable(with_folders[0].name)} beside it does; {_LAYOUT}'
            )
        found = _look_in(folder)
        if images := [*found.images, *found.unread]:
            raise ValueError(
                f'{printable(folder)} holds folders and images ({printable(images[0].name)}) side by side; {_LAYOUT}'
            )
        _pass_over(found, passed_over)
        for class_folder in _folders(folder):
            if nested := _folders(class_folder):
                raise ValueError(f'{printable(nested[0])} lies too deep: {_LAYOUT}')
    for name, folder in _named(folders).items():
        splits[name] = _classes(_folders(folder), passed_over)
    for name, files in splits.items():
        if extra := sorted(set(files) - set(splits.get('train', files))):
            raise ValueError(
                f'{printable(root / name)} has classes that train has not: {_with_near(extra, splits["train"])}'
            )
    return splits


def _pass_over(found: Found, passed_over: PassedOver) -> None:
    for reason, paths in found.others.items():
        passed_over[reason] += paths
    if images := [*found.images, *found.unread]:
        passed_over[_STRAY] += images


def _named(folders: Iterable[Path]) -> dict[str, Path]:
    """Folders by their names in the form NFC, whichever way they are written."""
    named: dict[str, Path] = {}
    for folder in folders:
        try:
            folder.name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f'the name of the folder {printable(folder)} is not UTF-8, so it cannot be that of a class: rename it '
                '(for Latin-1, convmv -f latin1 -t utf8 does)'
            ) from None
        other = named.setdefault(_normal(folder.name), folder)
        if other != folder:
            raise ValueError(
                f'{printable(folder.parent)} has two folders of one name, which Unicode writes in two ways: '
                f'{other.name!a} and {folder.name!a}. Put their images in one'
            )
    return named


def _normal(name: str) -> str:
    return unicodedata.normalize('NFC', name)


def _classes(folders: Iterable[Path], passed_over: PassedOver) -> Files:
    files = {}
    for name, folder in _named(folders).items():
        found = _look_in(folder)
        if found.unread:
            kinds = ', '.join(f'{count:,} {kind}' for kind, count in Counter(found.unread.values()).items())
            raise ValueError(
                f'{printable(folder)} holds images of kinds that are not read: {kinds} '
                f'({listing([path.name for path in found.unread], 5)}). Convert them to JPEG or PNG, or remove them'
            )
        if not found.images:
            held = [path.name for paths in found.others.values() for path in paths]
            holds = f', only {len(held):,} other files ({listing(held, 5)})' if held else ''
            raise ValueError(f'the class folder {printable(folder)} holds no images{holds}: fill it or remove it')
        files[name] = found.images
        for reason, paths in found.others.items():
            passed_over[reason] += paths
    return files


def _alike(name: str) -> str:
    return ' '.join(unicodedata.normalize('NFKC', name).casefold().split())


def _with_near(names: Collection[str], others: Iterable[str]) -> str:
    near = {_alike(other): other for other in others}
    return listing(
        [f'{name!r} (there is {near[_alike(name)]!r})' if _alike(name) in near else repr(name) for name in names]
    )


def _tell_classes(root: Path, splits: Mapping[str, Files], classes: list[str]) -> str:
    """Say which classes differ in case or spaces alone, and which splits lack some; '' where that is not so."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        spellings[_alike(name)].append(name)
    told = []
    if alike := [' and '.join(map(repr, names)) for names in spellings.values() if len(names) > 1]:
        told.append(f'classes that differ in nothing but case or spaces: {listing(alike)}')
    for split, files in splits.items():
        if missing := [name for name in classes if not files.get(name)]:
            told.append(
                f'{printable(split)} has no images of {len(missing):,} of the {len(classes):,} classes: '
                f'{_with_near(missing, files)}'
            )
    return f'{printable(root)}: {"; ".join(told)}' if told else ''


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
    name = f'{seed}/{path.relative_to(root).as_posix()}'
    # A hash, so that an image that is added leaves the others where they are, on any machine.
    return hashlib.blake2b(name.encode(errors='surrogateescape'), digest_size=8).digest()


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
