"""Networks small enough to work out by hand, with the calls of the zoo's."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxmobile.data.preprocessing import Preprocessing
from flaxmobile.tasks.classification import Classification

PREPROCESSING = Preprocessing(image_size=4, channels=1, mean=(0.5,), std=(0.5,))


def classification(num_classes: int, preprocessing: Preprocessing = PREPROCESSING, **fields: Any) -> Classification:
    """The task of so many classes without names of their own."""
    return Classification(tuple(map(str, range(num_classes))), preprocessing, **fields)


class Linear(nn.Module):
    """Softmax regression on the pixels: no BatchNorm, no dropout."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return nn.Dense(self.num_classes, name='classifier')(images.reshape(len(images), -1))


class Ranged(nn.Module):
    """Softmax regression that keeps its greatest output so far in a collection of its own, `ranges`."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        greatest = self.variable('ranges', 'greatest', jnp.zeros, ())
        logits = nn.Dense(self.num_classes, name='classifier')(images.reshape(len(images), -1))
        if train:
            greatest.value = jnp.maximum(greatest.value, logits.max())
        return logits


class Normalized(nn.Module):
    """BatchNorm of momentum 0.9, dropout and a dense layer on the pixels."""

    num_classes: int = 6
    dropout_rate: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        values = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype, name='norm')(images)
        values = nn.Dropout(self.dropout_rate, deterministic=not train)(values.reshape(len(images), -1))
        return nn.Dense(self.num_classes, dtype=self.dtype, name='classifier')(jnp.tanh(values))
