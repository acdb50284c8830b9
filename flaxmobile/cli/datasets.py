"""The data set that a subcommand measures a model on."""

import warnings
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

if TYPE_CHECKING:
    from flaxmobile.data import Dataset
    from flaxmobile.runs.description import RunDescription

DataName = Annotated[str | None, arg(metavar='NAME', help='Data set or folder of images; None: the one of the run.')]
TestSplit = Annotated[
    str | None,
    arg(help="Its part, like 'test' or 'train[:10%]'; None: the run's test split, ImageNet's 'validation'."),
]
DataDir = Annotated[str | None, arg(metavar='DIR', help='Where TFDS keeps prepared data sets.')]


def open_test_data(
    run: 'RunDescription | None', title: str, data: str | None, split: str | None, data_dir: str | None, download: bool
) -> 'Dataset':
    """The data set asked for, by what the run was configured with where that is not said.

    A UserWarning says if the images are others than the test images of the run.
    """
    from flaxmobile.data import load_dataset
    from flaxmobile.training.config import TrainConfig

    config: TrainConfig | type[TrainConfig] = run.config if run else TrainConfig  # The class has the defaults.
    name = named_data(run, data, title)
    if run is None and name == 'imagenet2012':
        split = split or 'validation'
    dataset = load_dataset(
        name,
        split or config.test_split,
        data_dir=data_dir or config.data_dir,
        download=download,
        max_unreadable=config.max_unreadable,
    )
    if run and data is split is None:
        _warn_of_other_images(run, dataset)
    return dataset


def named_data(run: 'RunDescription | None', data: str | None, title: str) -> str:
    """The name of the data set: as given, or that of the run."""
    found = data or (run.config.dataset if run else None)
    if found is None:
        raise ValueError(f'say which images {title} is to see: --data imagenet2012, or a folder of images')
    return found


def _warn_of_other_images(run: 'RunDescription', dataset: 'Dataset') -> None:
    from flaxmobile.runs.splits import same_images

    before = run.images.get('test', dataset.fingerprint)
    if not same_images(before, dataset.fingerprint):
        warnings.warn(
            f'these are not the test images of the run: they were {before}, and those of {run.config.dataset} here are '
            f'{dataset.fingerprint}',
            stacklevel=4,
        )


def drawn_of(dataset: 'Dataset') -> str:
    """How much of a folder without splits its part is, where there is one."""
    if not dataset.drawn_from:
        return ''
    return (
        f': {len(dataset):,} of its {dataset.drawn_from:,} images, as it has no folders of splits and a fifth of each '
        'class is test; --split train+test takes all'
    )
