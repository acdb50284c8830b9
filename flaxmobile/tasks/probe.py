"""How good the features of a network are: nearest neighbours and a linear classifier on them, the network unchanged."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxmobile.data import Dataset, Preprocessing
from flaxmobile.data.splits import overlap
from flaxmobile.messages import listing
from flaxmobile.parallel.mesh import replicate, shard_batch
from flaxmobile.tasks.losses import cross_entropy
from flaxmobile.tasks.task import Measure

NEIGHBOURS, TEMPERATURE = 20, 0.07
PENALTIES = tuple(10.0**power for power in range(1, -6, -1))
HELD_OUT = 5
MOST_UPDATES, GRADIENT_TOLERANCE = 1000, 1e-5
_ROWS_AT_ONCE = 1024


class Embeddings(NamedTuple):
    """What a network makes of a data set: `vectors` float32 [images, features], `labels` int32 [images]."""

    vectors: np.ndarray
    labels: np.ndarray


class Linear(NamedTuple):
    """A linear classifier of standardised vectors: `kernel` [features, classes], `bias` [classes]."""

    kernel: jax.Array
    bias: jax.Array


class Probe(NamedTuple):
    """Shares of the test images that were told right, the chosen penalty of the linear classifier, and the counts."""

    linear_accuracy: float
    knn_accuracy: float
    penalty: float
    train_images: int
    test_images: int


MEASURED = (
    Measure('linear_accuracy', 'linear probe', 'share'),
    Measure('knn_accuracy', 'nearest neighbours', 'share'),
    Measure('penalty', 'penalty', 'amount'),
    Measure('train_images', 'training images', 'count'),
    Measure('test_images', 'test images', 'count'),
)
"""The fields of a `Probe`."""


def probe(
    model: nn.Module,
    variables: Any,
    preprocessing: Preprocessing,
    train: Dataset,
    test: Dataset,
    batch_size: int,
    mesh: Mesh,
) -> Probe:
    """Fit nearest neighbours and a linear classifier to the features of `train`, and test both on those of `test`.

    Features are what the classifier would have been given; images are prepared as for evaluation, not augmented.

    Args:
        model: a network of the library; its own classes do not matter.
        variables: its variables.
        preprocessing: how its images are prepared.
        train: labelled images to fit.
        test: images of the same classes.
        batch_size: over all processes, shared evenly by the devices of `mesh`.
        mesh: the devices.

    Raises:
        ValueError: the classes differ, the two share images, or none can be read.
    """
    if train.classes != test.classes:
        raise ValueError(
            f'the classes of {train.name} ({train.split}) and of {test.name} ({test.split}) differ: '
            f'{listing(train.classes, 5)} and {listing(test.classes, 5)}'
        )
    if shared := overlap(train, test):
        raise ValueError(f'{shared:,} images of {test.split!r} are also in {train.split!r}: take parts that share none')
    fitted, tested = (embed(model, variables, preprocessing, images, batch_size, mesh) for images in (train, test))
    penalty, predictions = linear_probe(fitted, tested.vectors, len(train.classes))
    neighbours = nearest_neighbours(fitted, tested.vectors, len(train.classes))
    return Probe(
        linear_accuracy=float(np.mean(predictions == tested.labels)),
        knn_accuracy=float(np.mean(neighbours == tested.labels)),
        penalty=penalty,
        train_images=len(fitted.labels),
        test_images=len(tested.labels),
    )


def embed(
    model: Any, variables: Any, preprocessing: Preprocessing, images: Dataset, batch_size: int, mesh: Mesh
) -> Embeddings:
    """The features of every image that can be read, in the order of the split; on every process those of all.

    Raises:
        ValueError: no image can be read.
    """
    headless: Any = model.clone(num_classes=0)  # Which a network without `embed` has too.
    replicated, sharded = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec('data')))

    @functools.partial(jax.jit, in_shardings=(replicated, sharded), out_shardings=replicated)
    def step(variables: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        features: Any = headless.apply(variables, preprocessing.normalize(batch['image']))
        return features.astype(jnp.float32)

    variables = replicate(variables, mesh)
    vectors, labels, indices = [], [], []
    processes = {'process_index': jax.process_index(), 'process_count': jax.process_count()}
    for batch in images.evaluation_batches(batch_size // jax.process_count(), preprocessing, **processes):
        facts = {name: batch[name] for name in ('label', 'mask', 'index')}
        found = multihost_utils.process_allgather(facts | {'vector': step(variables, shard_batch(batch, mesh))}, True)
        vectors.append(found['vector'][found['mask']])
        labels.append(found['label'][found['mask']])
        indices.append(found['index'][found['mask']])
    if not sum(map(len, labels)):
        raise ValueError(f'{images.name} ({images.split}) holds no image that can be read')
    order = np.argsort(np.concatenate(indices), kind='stable')
    return Embeddings(np.concatenate(vectors)[order], np.concatenate(labels)[order].astype(np.int32))


def nearest_neighbours(fitted: Embeddings, vectors: np.ndarray, num_classes: int) -> np.ndarray:
    """The class of each vector by its 20 nearest fitted ones, int [vectors].

    Near is a high cosine; each neighbour votes for its class with weight `exp(cosine / 0.07)`: Wu et al. 2018
    (1805.01978, section 3.4), and the same in DINO (2104.14294).
    """
    ours, theirs = _unit(fitted.vectors), _unit(vectors)
    count = min(NEIGHBOURS, len(ours))
    classes = np.eye(num_classes)[fitted.labels]
    found = []
    for start in range(0, len(theirs), _ROWS_AT_ONCE):
        cosines = theirs[start : start + _ROWS_AT_ONCE] @ ours.T
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        weights = np.exp(np.take_along_axis(cosines, nearest, axis=1).astype(np.float64) / TEMPERATURE)
        found.append(np.einsum('vn,vnc->vc', weights, classes[nearest]).argmax(axis=1))
    return np.concatenate(found)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def linear_probe(fitted: Embeddings, vectors: np.ndarray, num_classes: int) -> tuple[float, np.ndarray]:
    """The chosen penalty, and the class of each vector by logistic regression on the fitted ones, int [vectors].

    The penalty is the one of `PENALTIES` with the highest accuracy on a fifth of the fitted images, drawn evenly from
    the classes, after a fit of the others (of equals, that of the lowest cross entropy); then all are fitted.
    """
    held_out = _held_out(fitted.labels)
    kept = Embeddings(fitted.vectors[~held_out], fitted.labels[~held_out])
    trials, standardised = _standardise(kept.vectors, fitted.vectors[held_out])
    labels = fitted.labels[held_out]
    scores = []
    linear = None
    for penalty in PENALTIES if held_out.any() else ():  # The greatest first: each fit starts from the one before.
        linear = fit_linear(trials, kept.labels, num_classes, penalty, linear)
        logits = jnp.asarray(standardised @ linear.kernel + linear.bias)
        loss = cross_entropy(logits, jax.nn.one_hot(labels, num_classes)).mean()
        scores.append((float(np.mean(np.argmax(logits, axis=1) == labels)), -float(loss), penalty))
    penalty = max(scores)[-1] if scores else 1.0
    ours, theirs = _standardise(fitted.vectors, vectors)
    linear = fit_linear(ours, fitted.labels, num_classes, penalty)
    return penalty, np.argmax(theirs @ np.asarray(linear.kernel) + np.asarray(linear.bias), axis=1)


def _held_out(labels: np.ndarray) -> np.ndarray:
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        chosen[np.random.default_rng(0).permutation(np.flatnonzero(labels == label))[HELD_OUT - 1 :: HELD_OUT]] = True
    return chosen


def _standardise(fitted: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, deviation = fitted.mean(axis=0), fitted.std(axis=0)
    # What hardly varies carries no information, and dividing by it would make much of rounding.
    scale = np.where(deviation > 1e-6 * np.abs(mean) + 1e-12, deviation, np.inf)
    return (fitted - mean) / scale, (vectors - mean) / scale


def fit_linear(
    vectors: np.ndarray, labels: np.ndarray, num_classes: int, penalty: float, start: Linear | None = None
) -> Linear:
    """Multinomial logistic regression by L-BFGS on all vectors at once, until its gradient's norm is below 1e-5.

    It minimises the mean cross entropy in nats plus `penalty / 2` times the sum of the squared kernel; the bias is
    free. (scikit-learn's `C` is `1 / (penalty * images)`.)

    Args:
        vectors: [images, features], standardised.
        labels: int [images].
        num_classes: of the classifier.
        penalty: 0 or more.
        start: where to start from; None: zeros.
    """
    zeros = Linear(jnp.zeros((vectors.shape[1], num_classes), vectors.dtype), jnp.zeros(num_classes, vectors.dtype))
    return _fit(vectors, jax.nn.one_hot(labels, num_classes), penalty, zeros if start is None else start)


@jax.jit
def _fit(inputs: jax.Array, targets: jax.Array, penalty: jax.Array, start: Linear) -> Linear:
    optimizer = optax.lbfgs()

    def objective(linear: Linear) -> jax.Array:
        loss = cross_entropy(inputs @ linear.kernel + linear.bias, targets).mean()
        return loss + penalty / 2 * jnp.sum(linear.kernel**2)

    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry: tuple[Linear, Any]) -> tuple[Linear, Any]:
        linear, state = carry
        value, gradient = value_and_grad(linear, state=state)
        changes, state = optimizer.update(gradient, state, linear, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(linear, changes), state

    def unfinished(carry: tuple[Linear, Any]) -> jax.Array:
        count = optax.tree.get(carry[1], 'count')
        gradient = optax.tree.norm(optax.tree.get(carry[1], 'grad'))
        return (count == 0) | ((count < MOST_UPDATES) & (gradient > GRADIENT_TOLERANCE))

    return jax.lax.while_loop(unfinished, step, (start, optimizer.init(start)))[0]
