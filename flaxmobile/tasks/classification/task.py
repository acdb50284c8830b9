"""Classification as a task: cross entropy against labels, smoothed and mixed, or against a teacher's answers."""

import dataclasses
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxmobile.data.preprocessing import Preprocessing
from flaxmobile.messages import listing
from flaxmobile.rules import Rate, check_fields, plain_values
from flaxmobile.tasks.classification.summary import ACCURACY, ACCURACY_TOP5, COUNT, MEASURED, Evaluation, ExampleGallery
from flaxmobile.tasks.classification.summary import summarise as summed_up
from flaxmobile.tasks.distillation import Distillation, distillation_loss
from flaxmobile.tasks.losses import cross_entropy, smooth_targets
from flaxmobile.tasks.mixing import UNMIXED, Mixing
from flaxmobile.tasks.task import LOSS, Batch, Best, Measure, Picture, Rows, Scores


class Targets(NamedTuple):
    """What a training step compares logits `[B, K]` with.

    Attributes:
        probabilities: of the classes, `[B, K]`, smoothed and mixed.
        answers: the teacher's logits, `[B, K]`; None without a teacher.
    """

    probabilities: jax.Array
    answers: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Classification:
    """One class an image, of a network that answers with a logit for each class.

    Args:
        classes: their names, in the order of the logits.
        preprocessing: how every image is resized, cropped and normalised.
        label_smoothing: share of a training target that is spread evenly over all classes.
        mixing: how the images of a training batch are mixed with one another.
        distillation: the teacher to learn from besides the labels; None: labels alone.
        positions: the number among `classes` of each class of the data that is evaluated; None: the data has the same
            classes in the same order.

    Raises:
        ValueError: there is no class, or the smoothing is not at least 0 and below 1.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    label_smoothing: Rate = 0.0
    mixing: Mixing = UNMIXED
    distillation: Distillation | None = None
    positions: tuple[int, ...] | None = None

    logged: ClassVar[tuple[Measure, ...]] = (ACCURACY,)
    measured: ClassVar[tuple[Measure, ...]] = MEASURED
    best: ClassVar[Best] = Best(ACCURACY, highest=True)
    label_layers: ClassVar[frozenset[str]] = frozenset({'classifier'})
    pictures: ClassVar[tuple[str, ...]] = ('confusion.png', 'predictions.png')

    def __post_init__(self) -> None:
        plain_values(self)
        check_fields(self)
        if not self.classes:
            raise ValueError('Classification: classes must be a tuple of one name or more, not ()')

    @property
    def variables(self) -> Any:
        """The teacher's; None without one."""
        return None if self.distillation is None else self.distillation.variables

    def prepare(self, batch: Batch, key: jax.Array, variables: Any) -> tuple[jax.Array, Targets]:
        """Normalise, smooth and mix `image` uint8 `[B, H, W, C]` and `label` int32 `[B]`, and ask the teacher."""
        images = self.preprocessing.normalize(batch['image'])
        targets = smooth_targets(batch['label'], len(self.classes), self.label_smoothing)
        images, targets = self.mixing(images, targets, key)
        answers = None if self.distillation is None else self.distillation.answers(variables, images)
        return images, Targets(targets, answers)

    def loss(self, outputs: jax.Array, targets: Targets) -> jax.Array:
        """The loss of each image, `[B]`, in nats."""
        taught = self.distillation
        if taught is None or targets.answers is None:
            return cross_entropy(outputs, targets.probabilities)
        return distillation_loss(outputs, targets.probabilities, targets.answers, taught.weight, taught.temperature)

    def log(self, outputs: jax.Array, targets: Targets) -> dict[str, jax.Array]:
        """`accuracy`, which counts as right the class that has most of an image's target."""
        right = jnp.argmax(outputs, axis=-1) == jnp.argmax(targets.probabilities, axis=-1)
        return {ACCURACY.name: jnp.mean(right)}

    def check_data(self, classes: Sequence[str]) -> None:
        """See that labels of data with these classes mean what `positions` says, or the task's own classes.

        Raises:
            ValueError: the classes are others, or in another order; `positions` is for another number of them.
        """
        if self.positions is not None:
            if len(self.positions) != len(classes):
                raise ValueError(
                    f'positions are for {len(self.positions):,} classes and the data has {len(classes):,}: give the '
                    'number among the classes of the task for each class of the data'
                )
        elif [unicodedata.normalize('NFC', name) for name in classes] != [
            unicodedata.normalize('NFC', name) for name in self.classes
        ]:
            raise ValueError(
                f'the data has the classes {listing(classes, 5)} and the task {listing(self.classes, 5)}, or the same '
                'in another order: give positions, as flaxmobile.weights.class_names.label_positions finds them'
            )

    def score(self, outputs: jax.Array, batch: Batch) -> Scores:
        """Numbers of images (`count`, `correct`, `correct_top5`) and the summed cross entropy, not smoothed.

        The rows are `label` and `prediction`, int32, and the probabilities of both, `label_probability` and
        `probability`, float32 at least.
        """
        logits = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
        labels = batch['label'] if self.positions is None else jnp.asarray(self.positions, jnp.int32)[batch['label']]
        mask, probabilities = batch['mask'], jax.nn.softmax(logits)
        loss = cross_entropy(logits, smooth_targets(labels, len(self.classes), 0.0))
        best = jax.lax.top_k(logits, min(5, len(self.classes)))[1] == labels[:, None]
        predictions = jnp.argmax(probabilities, axis=-1).astype(jnp.int32)

        def of(numbers: jax.Array) -> jax.Array:
            return jnp.take_along_axis(probabilities, numbers[:, None], axis=-1)[:, 0]

        return Scores(
            sums={
                'count': jnp.sum(mask),
                'correct': jnp.sum(mask & best[:, 0]),
                'correct_top5': jnp.sum(mask & best.any(axis=-1)),
                'loss': jnp.sum(jnp.where(mask, loss, 0)),
            },
            rows={
                'label': labels,
                'prediction': predictions,
                'probability': of(predictions),
                'label_probability': of(labels),
            },
        )

    def gallery(self, pictures: int) -> ExampleGallery:
        """For so many mistakes and as many right examples."""
        return ExampleGallery(pictures, len(self.classes))

    def summarise(self, rows: Rows, sums: Mapping[str, np.ndarray], gallery: ExampleGallery) -> Evaluation:
        """Accuracy, loss, confusion, and the examples to show."""
        return summed_up(rows, sums, len(self.classes), gallery)

    @staticmethod
    def predict(outputs: jax.Array) -> jax.Array:
        """The probability of each class, `[B, K]`, float32."""
        return jax.nn.softmax(outputs.astype(jnp.float32))

    def shown(self) -> tuple[Measure, ...]:
        """The top 5 only where there are more classes."""
        return (ACCURACY, *([ACCURACY_TOP5] if len(self.classes) > 5 else []), LOSS, COUNT)

    def results(self, result: Evaluation) -> dict[str, Any]:
        """The names of the classes and their confusion."""
        return {'classes': list(self.classes), 'confusion': result.confusion.tolist()}

    def sections(self, result: Evaluation) -> Iterator[str | Picture]:
        """Examples, the confusion as a picture, recall and precision by class, and the classes confused most often."""
        from flaxmobile.tasks.classification import report

        return report.sections(result, self.classes)
