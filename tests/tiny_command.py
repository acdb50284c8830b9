"""The command `flaxmobile` on the tiny network and images, for tests that need it in a process of its own.

`TINY_PAUSE` are seconds that a step takes longer, `TINY_BOUND` those after which a silent process counts as dead;
`TINY_MISSING` is the number of a process that finds no images, `TINY_SEED` of one with a seed of its own.
"""

import os
import sys
import time
from typing import Any

import jax
import pytest
from tiny_run import blobs, use_tiny

from flaxmobile.cli import main
from flaxmobile.parallel import processes as distributed
from flaxmobile.runs import splits
from flaxmobile.training.metrics import Window


def paused(self: Window, metrics: Any, *, add: Any = Window.add) -> None:
    time.sleep(float(os.environ.get('TINY_PAUSE', 0)))
    add(self, metrics)


def found(name: str, split: str, **options: object) -> Any:
    if os.environ.get('TINY_MISSING') == str(jax.process_index()):
        raise FileNotFoundError(f'{name} is not prepared here')
    return blobs(name, split, **options)


if __name__ == '__main__':
    patches = pytest.MonkeyPatch()
    use_tiny(patches)
    patches.setattr(splits, 'load_dataset', found)
    patches.setattr(Window, 'add', paused)
    if 'TINY_BOUND' in os.environ:
        patches.setattr(distributed, 'BOUND', int(os.environ['TINY_BOUND']))
    words = sys.argv[1:]
    if os.environ.get('TINY_SEED') == os.environ['JAX_PROCESS_ID']:
        words += ['--seed', '7']
    main(words)
