"""The training loss, in float32 at least, whatever the network computes in."""

import jax
import jax.numpy as jnp


def smooth_targets(labels: jax.Array, num_classes: int, label_smoothing: float) -> jax.Array:
    """Turn labels `[B]` into probabilities `[B, num_classes]`, a share of `label_smoothing` spread over all classes.

    Source: Szegedy et al. 2015 (1512.00567), section 7.
    """
    return (1 - label_smoothing) * jax.nn.one_hot(labels, num_classes) + label_smoothing / num_classes


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross entropy `[B]`, in nats, of logits `[B, K]` against target probabilities `[B, K]`.

    Raises:
        ValueError: the network has another number of classes than the targets.
    """
    if logits.shape != targets.shape:
        raise ValueError(
            f'the network answers {logits.shape} and the targets are {targets.shape}: give both the same classes'
        )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
