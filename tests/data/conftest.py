from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('tensorflow_datasets')


@pytest.fixture
def picture() -> np.ndarray:
    """Smooth colours in which every place differs, 60 high and 40 wide."""
    rows, columns = np.mgrid[:60, :40]
    return np.stack([rows * 4, columns * 6, (rows + columns) * 2], -1).astype(np.uint8)
