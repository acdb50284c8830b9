"""What all contenders share: our network of a case, its variables, images and labels, the same in every process."""

from typing import Any

import numpy as np

import flaxmobile
from benchmarks.random_variables import random_variables
from benchmarks.worker import Case
from flaxmobile.data import Preprocessing
from flaxmobile.models.network import MobileNet

IMAGE_SIZE = 224
PREPROCESSING = Preprocessing(IMAGE_SIZE)


def network(case: Case) -> MobileNet:
    """Ours, without dropout, which draws differently in every library."""
    return flaxmobile.create_model(case.network, convention=case.convention, dropout_rate=0.0)


def variables_of(model: MobileNet, seed: int = 0) -> Any:
    """Random variables of a network of `network`; by a larger gain V3 large turns rounding into differences of 1e-4."""
    return random_variables(model, (1, IMAGE_SIZE, IMAGE_SIZE, 3), seed=seed, gain=1.5)


def pixels(batch: int) -> np.ndarray:
    """uint8 `[batch, 224, 224, 3]`: coarse patterns, so that images differ by more than noise."""
    coarse = np.random.default_rng(1).integers(0, 256, (batch, IMAGE_SIZE // 16, IMAGE_SIZE // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


def images(batch: int) -> np.ndarray:
    """The same, normalised, float32."""
    return np.asarray(PREPROCESSING.normalize(pixels(batch)))


def labels(batch: int) -> np.ndarray:
    """int32 `[batch]`, of 1000 classes."""
    return np.random.default_rng(2).integers(0, 1000, batch, dtype=np.int32)
