"""Make the embedded data set `fashion_mnist_mini` from the files of Debian's package `dataset-fashion-mnist`.

    python scripts/make_fashion_mnist_mini.py [FOLDER]

Of each class every sixth training image (1,000 of 6,000) and every fifth test image (200 of 1,000) is taken, in the
order of the original files. The classes take turns, so that any ten images in a row hold each class once.
"""

import lzma
import sys
from pathlib import Path

import numpy as np

from flaxmobile.data.fashion_mnist import DEBIAN_FOLDER, EMBEDDED, Labelled, read_full

STEPS = {'train': 6, 'test': 5}


def select(part: Labelled, step: int) -> Labelled:
    """Every `step`-th image of each class, the classes taking turns."""
    by_class = [np.flatnonzero(part.labels == label)[::step] for label in range(10)]
    chosen = np.stack(by_class, axis=1).ravel()
    return Labelled(part.images[chosen], part.labels[chosen])


def main() -> None:
    """Write the file into the package."""
    full = read_full(Path(sys.argv[1]) if len(sys.argv) > 1 else DEBIAN_FOLDER)
    parts = [select(full[split], step) for split, step in STEPS.items()]
    pixels = b''.join(part.images.tobytes() for part in parts)
    labels = b''.join(part.labels.tobytes() for part in parts)
    temporary = EMBEDDED.with_suffix('.tmp')
    temporary.write_bytes(lzma.compress(pixels + labels, preset=9 | lzma.PRESET_EXTREME))
    temporary.replace(EMBEDDED)
    print(f'{EMBEDDED}: {EMBEDDED.stat().st_size:,} bytes')


if __name__ == '__main__':
    main()
