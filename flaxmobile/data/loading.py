"""Data sets by name."""

from collections.abc import Collection
from pathlib import Path

from flaxmobile.data.dataset import Dataset
from flaxmobile.messages import listing, nearest, printable, unknown

OWN_IMAGES = 'images'
"""The folder that a config for images of one's own names until it is told another."""


def load_dataset(
    name: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    download: bool = False,
    version: str | None = None,
    seed: int = 0,
    max_unreadable: float = 0.01,
) -> Dataset:
    """Open a labelled set of images.

    Args:
        name: `fashion_mnist_mini` (comes with the package) or `fashion_mnist`, prepared when first asked for; the TFDS
            name of a prepared set, as `cifar10` or `imagenet_resized/32x32`; or a folder, laid out as
            `root/class/image` or `root/split/class/image`, or prepared by TFDS.
        split: as TFDS writes it: `train`, `train[:90%]`, `test[100:200]`, `train+validation`.
        data_dir: where TFDS keeps its sets (its default: `TFDS_DATA_DIR`, or `tensorflow_datasets` in the home folder).
        download: fetch and prepare a TFDS set that is not there yet.
        version: of a TFDS set, as `3.0.2` or `3.*.*` (default: the newest that is prepared).
        seed: what the order of a folder, and its division where it has no folders of splits, are drawn from.
        max_unreadable: the share of images that may be unreadable (one image always may, unless it is 0).

    Raises:
        ValueError: no such data set or split, or no labelled images in it.
        FileNotFoundError: the data set is known and not prepared, or the folder is not there.
        ModuleNotFoundError: the set is prepared as tfrecord and TensorFlow is not installed.
    """
    if not 0 <= max_unreadable <= 1:
        raise ValueError(f'max_unreadable is {max_unreadable}: it has to be from 0 to 1')
    folder = Path(name).expanduser()
    if not (is_path := _is_path(name)):
        from flaxmobile.data import tfds_sets

        dataset = tfds_sets.open_tfds(
            name,
            split,
            data_dir=tfds_sets.data_folder(data_dir),
            download=download,
            version=version,
            max_unreadable=max_unreadable,
        )
        if dataset is not None:
            return dataset
    if name and folder.is_dir():
        return _open_folder(folder, split, seed, max_unreadable)
    if is_path:
        raise FileNotFoundError(f'there is no folder {name}')
    if name == OWN_IMAGES:
        raise FileNotFoundError(
            f'there is no folder {folder.absolute()}: dataset=FOLDER names the one with your images'
        )
    raise ValueError(_no_such(name, folder.absolute(), tfds_sets.known_names()))


def _no_such(name: str, folder: Path, known: Collection[str]) -> str:
    """Say that there is neither such a folder nor such a data set, and which come nearest."""
    beside = [each.name for each in folder.parent.iterdir() if each.is_dir()] if folder.parent.is_dir() else []
    if name and (alike := nearest(name, beside)):
        return f'there is no folder {printable(folder)} and no data set of that name. Did you mean {listing(alike)}?'
    if name and not nearest(name, known):
        return (
            f'there is no folder {printable(folder)}, and of the {len(known)} data sets that are known none has a name '
            f"like '{printable(name)}'"
        )
    return unknown('data set', name, known) + f'. Nor is there a folder {printable(folder)}'


def is_plain_folder(name: str, *, data_dir: str | Path | None = None) -> bool:
    """Whether `load_dataset` takes a name for a folder that TFDS did not prepare: of a bare name it asks TFDS first."""
    folder = Path(name).expanduser()
    if not name or not folder.is_dir() or (folder / 'dataset_info.json').is_file():
        return False
    if _is_path(name):
        return True
    from flaxmobile.data import tfds_sets

    return not tfds_sets.is_known(name, tfds_sets.data_folder(data_dir))


def _is_path(name: str) -> bool:
    return Path(name).expanduser().is_absolute() or name.startswith(('.', '~'))


def _open_folder(folder: Path, split: str, seed: int, max_unreadable: float) -> Dataset:
    if (folder / 'dataset_info.json').is_file():
        import tensorflow_datasets as tfds

        from flaxmobile.data.tfds_sets import open_builder

        return open_builder(tfds.builder_from_directory(folder), folder.name, split, max_unreadable=max_unreadable)
    from flaxmobile.data.folders import open_folder

    return open_folder(folder, split, seed=seed, max_unreadable=max_unreadable)
