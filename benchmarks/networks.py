"""What all contenders share: our network of a case, its variables, images and labels, the same in every process."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flaxmobile
from benchmarks.worker import Case
from flaxmobile.data import Preprocessing
from flaxmobile.models.network import MobileNet, variable_shapes

IMAGE_SIZE = 224
PREPROCESSING = Preprocessing(IMAGE_SIZE)


def network(case: Case) -> MobileNet:
    """Ours, without dropout, which draws differently in every library."""
    return flaxmobile.create_model(case.network, convention=case.convention, dropout_rate=0.0)


def random_variables(model: MobileNet, seed: int = 0) -> dict[str, Any]:
    """Kernels of variance 2 / fan in; factors, variances, means and biases that are neither 0 nor 1."""
    generator = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name == 'kernel':
            values = generator.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif name in ('scale', 'var'):
            values = generator.uniform(0.5, 1.5, size=leaf.shape)
        else:
            values = 0.2 * generator.normal(size=leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    variables: dict[str, Any] = jax.tree.map_with_path(draw, variable_shapes(model))
    return variables


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
