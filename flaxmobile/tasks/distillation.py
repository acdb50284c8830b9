"""Distillation: a network learns from the outputs of a frozen teacher, beside the labels or in their place.

Sources: Hinton et al. 2015 (1503.02531), section 2, for the loss; Qin et al. 2024 (2404.10518), section 8, for
MobileNetV4, and Beyer et al. 2021 (2106.05237): the teacher sees what the student sees, augmented and mixed.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from flaxmobile.data import Preprocessing
from flaxmobile.models.inference import forward
from flaxmobile.tasks.losses import cross_entropy


@dataclasses.dataclass(frozen=True)
class Distillation:
    """What a training step needs of a teacher.

    Args:
        model: the teacher.
        variables: the teacher's variables. The compiled step is given them as an argument and uses that argument only.
        preprocessing: the teacher's. The student's images are resized to its size and normalised by it.
        columns: the teacher's class number of each class of the student.
        seen: the student's preprocessing, by which the images of a batch are normalised.
        weight: share of the divergence from the teacher in the loss, 0 to 1.
        temperature: divides the logits of both.
    """

    model: nn.Module
    variables: Any
    preprocessing: Preprocessing
    columns: tuple[int, ...]
    seen: Preprocessing
    weight: float
    temperature: float

    def answers(self, variables: Any, images: jax.Array) -> jax.Array:
        """The teacher's logits `[B, K]` in the student's order of classes, for images normalised for the student."""
        logits = forward(self.model, variables, self._prepare(images), platform=None)
        return jax.lax.stop_gradient(logits[:, jnp.array(self.columns)])

    def _prepare(self, images: jax.Array) -> jax.Array:
        theirs, ours = self.preprocessing, self.seen
        if theirs.image_size != images.shape[1]:
            shape = (len(images), theirs.image_size, theirs.image_size, images.shape[3])
            images = jax.image.resize(images, shape, 'cubic' if theirs.interpolation == 'bicubic' else 'linear')
        mean, std, new_mean, new_std = map(jnp.asarray, (ours.mean, ours.std, theirs.mean, theirs.std))
        return (images * std + mean - new_mean) / new_std


def distillation_loss(
    logits: jax.Array, targets: jax.Array, answers: jax.Array, weight: float, temperature: float
) -> jax.Array:
    """`(1 - weight) * cross entropy + weight * temperature**2 * KL(teacher || student)`, `[B]`, in nats.

    The divergence is that of the softmax of logits divided by the temperature, whose gradient falls with its square.

    Args:
        logits: the student's, `[B, K]`.
        targets: probabilities, `[B, K]`.
        answers: the teacher's logits, `[B, K]`.
        weight: 0 to 1.
        temperature: above 0.
    """
    student, teacher = (
        jax.nn.log_softmax(values.astype(jnp.promote_types(values.dtype, jnp.float32)) / temperature)
        for values in (logits, answers)
    )
    divergence = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
    return (1 - weight) * cross_entropy(logits, targets) + weight * temperature**2 * divergence
