"""Fashion-MNIST as TFDS data sets that are prepared with neither TensorFlow nor a network.

Xiao, Rasul and Vollgraf, arXiv:1708.07747; 28x28 grey images of ten classes; MIT licence (see `fashion_mnist_mini/`).
"""

import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from flaxmobile.data.idx import read_idx

CLASSES = (
    'T-shirt/top',
    'Trouser',
    'Pullover',
    'Dress',
    'Coat',
    'Sandal',
    'Shirt',
    'Sneaker',
    'Bag',
    'Ankle boot',
)
EMBEDDED = Path(__file__).parent / 'fashion_mnist_mini' / 'pixels_and_labels.xz'
EMBEDDED_SIZES = {'train': 10_000, 'test': 2_000}
DEBIAN_FOLDER = Path('/usr/share/datasets/fashion-mnist')
_FILE_PREFIXES = {'train': 'train', 'test': 't10k'}


class Labelled(NamedTuple):
    """Pixels uint8 [n, 28, 28] and labels uint8 [n]."""

    images: np.ndarray
    labels: np.ndarray


def read_embedded() -> dict[str, Labelled]:
    """The 12,000 images that come with the package, by split."""
    content = np.frombuffer(lzma.decompress(EMBEDDED.read_bytes()), np.uint8)
    count = sum(EMBEDDED_SIZES.values())
    images, labels = content[: count * 784].reshape(count, 28, 28), content[count * 784 :]
    cut = EMBEDDED_SIZES['train']
    return {'train': Labelled(images[:cut], labels[:cut]), 'test': Labelled(images[cut:], labels[cut:])}


def idx_files(folder: Path) -> list[Path]:
    """Where the four files of the full set are to be found in `folder`."""
    return [
        folder / f'{prefix}-{part}-ubyte.gz'
        for prefix in _FILE_PREFIXES.values()
        for part in ('images-idx3', 'labels-idx1')
    ]


def read_full(folder: Path) -> dict[str, Labelled]:
    """The 70,000 images, by split, from the original four files."""
    arrays = [read_idx(path) for path in idx_files(folder)]
    return {'train': Labelled(*arrays[:2]), 'test': Labelled(*arrays[2:])}


class _FashionMnistBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    VERSION = tfds.core.Version('1.0.0')

    def _read(self) -> dict[str, Labelled]:
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    'image': tfds.features.Image(shape=(28, 28, 1)),
                    'label': tfds.features.ClassLabel(names=list(CLASSES)),
                }
            ),
            supervised_keys=('image', 'label'),
            homepage='https://github.com/zalandoresearch/fashion-mnist',
            license='MIT',
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        return {split: self._generate_examples(part) for split, part in self._read().items()}

    def _generate_examples(self, part: Labelled) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(*part, strict=True)):
            # Encoded here, because TFDS needs TensorFlow to encode an array.
            content = io.BytesIO()
            Image.fromarray(image).save(content, 'PNG')
            content.seek(0)
            yield index, {'image': content, 'label': int(label)}


class FashionMnistMini(_FashionMnistBuilder, skip_registration=True):  # type: ignore[call-arg]
    """10,000 training and 2,000 test images out of the package, as many of each class."""

    def _read(self) -> dict[str, Labelled]:
        return read_embedded()


class FashionMnist(_FashionMnistBuilder, skip_registration=True):  # type: ignore[call-arg]
    """60,000 training and 10,000 test images from the original files in `folder`."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._folder = folder
        super().__init__(**options)

    def _read(self) -> dict[str, Labelled]:
        return read_full(self._folder)
