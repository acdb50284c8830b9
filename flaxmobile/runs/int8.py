"""A trained float network made one to be trained for int8: its ranges are those of training images."""

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import closing

import jax

from flaxmobile.messages import printable
from flaxmobile.parallel.mesh import replicate
from flaxmobile.quantization import float_network, quantized_variables
from flaxmobile.training.loop import TrainingImages, placed_batches
from flaxmobile.training.step import Learner
from flaxmobile.weights import Model
from flaxmobile.weights.class_names import label_positions


def to_be_quantized(loaded: Model, learner: Learner, images: TrainingImages, count: int) -> Model:
    """The loaded float network, BatchNorm folded, with the ranges of the first training images.

    Args:
        loaded: knows every class that is to be learnt.
        learner: what is trained, of a `Quantized`.
        images: the data to train on.
        count: the images at least to find ranges on; whole batches are taken.

    Raises:
        ValueError: a class is missing, or there are values that are not finite.
    """
    try:
        label_positions(learner.task.classes, loaded.labels)
    except ValueError as error:
        raise ValueError(
            f'init: {printable(error)}; quantisation-aware training begins with a trained classifier'
        ) from error

    def batches() -> Iterator[jax.Array]:
        needed = -(-count // images.batch_size)
        with closing(placed_batches(dataclasses.replace(images, workers=0), learner, 0)) as placed:
            for batch in itertools.islice(placed, needed):
                yield learner.task.preprocessing.normalize(batch['image'])

    network, variables = float_network(learner.model), replicate(dict(loaded.variables), learner.mesh)
    return dataclasses.replace(
        loaded, module=learner.model, variables=quantized_variables(network, variables, batches())
    )
