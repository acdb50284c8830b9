"""What is learnt, as far as training, evaluation and reports have to know it: the protocol `Task`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import jax
import numpy as np

from flaxmobile.data.preprocessing import Preprocessing

Batch = Mapping[str, jax.Array]
Rows = dict[str, np.ndarray]
"""Arrays by name, each with an entry for each image."""


class Measure(NamedTuple):
    """A figure that a task measures.

    Attributes:
        name: in records and results: 'accuracy_top5'.
        title: in tables: 'top 5'.
        kind: what it may be: a 'share' from 0 to 1, shown in per cent; a 'count', a whole number from 0; an 'amount'
            from 0; any 'number'.
    """

    name: str
    title: str
    kind: Literal['share', 'count', 'amount', 'number']

    def in_table(self, value: float) -> str:
        """The figure as a table shows it: '87.50%', '1,234', '0.5123'."""
        return format(value, {'share': '.2%', 'count': ',.0f'}.get(self.kind, '.4f'))

    def in_line(self, value: float) -> str:
        """The figure with its title, as lines of a run show it: 'accuracy 87.50 %', 'loss 0.5123'."""
        shown = f'{100 * value:5.2f} %' if self.kind == 'share' else self.in_table(value)
        return f'{self.title} {shown}'


LOSS = Measure('loss', 'loss', 'number')
"""What every task lowers: the mean of its loss over images."""


class Best(NamedTuple):
    """What picks the best checkpoint: the highest or the lowest value of a measure on the validation images."""

    measure: Measure
    highest: bool = True


class Scores(NamedTuple):
    """What an evaluation step computes of a batch, on the device.

    Attributes:
        sums: what adds up over the batches, with `count`, the images whose mask is True; those without count nowhere.
        rows: `[B, ...]` each, for every image, masked or not. `mask` and `index` are not among their names: those are
            the batch's, and `evaluate` adds them.
    """

    sums: dict[str, jax.Array]
    rows: dict[str, jax.Array]


class Result(Protocol):
    """What a data set has been summed up to."""

    @property
    def metrics(self) -> dict[str, float]:
        """The figures alone, by the names of the task's `measured`, in their order."""
        ...


class Gallery(Protocol):
    """Keeps the images that a result may show; each process those that it sees."""

    def add(self, images: np.ndarray, rows: Rows, first: int) -> None:
        """Consider `images`, uint8 `[n, height, width, channels]`, which are those of `rows` from `first` on."""
        ...


class Picture(NamedTuple):
    """A picture of a report: the file in the run's folder, what it shows, and the function that draws it."""

    file: str
    title: str
    draw: Callable[[], Any]
    """Gives a matplotlib figure."""


class Task(Protocol):
    """What a network learns, and how its answers are judged.

    Training, evaluation and reports know a task by this alone. What the compiled steps call is pure, and traced once.
    """

    logged: ClassVar[tuple[Measure, ...]]
    """What each training step measures besides the loss."""
    measured: ClassVar[tuple[Measure, ...]]
    """What an evaluation measures: `LOSS`, the measure of `best`, and whatever else."""
    best: ClassVar[Best]
    label_layers: ClassVar[frozenset[str]]
    """The layers, by their names at the top of the parameters, whose last axis is that of the classes. They mean
    something for these classes alone: another task or other classes cannot take them over by position."""
    pictures: ClassVar[tuple[str, ...]]
    """The files of all pictures that a report may have."""

    @property
    def classes(self) -> tuple[str, ...]:
        """What the network tells apart, in the order of its outputs."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How every image is resized, cropped and normalised."""
        ...

    @property
    def variables(self) -> Any:
        """Those of further networks, an argument of the compiled training step; None where there are none."""
        ...

    def prepare(self, batch: Batch, key: jax.Array, variables: Any) -> tuple[jax.Array, Any]:
        """In a training step: images `[B, H, W, C]`, normalised and mixed, and the targets, any tree, of a batch.

        Args:
            batch: what `shard_batch` gave: `image` uint8 `[B, H, W, C]`, and the labels.
            key: for what is drawn; a function of the seed and the step alone.
            variables: those of `variables`, as the step was given them.
        """
        ...

    def loss(self, outputs: Any, targets: Any) -> jax.Array:
        """In a training step: the loss of each image, `[B]`."""
        ...

    def log(self, outputs: Any, targets: Any) -> dict[str, jax.Array]:
        """In a training step: a scalar for each of `logged`."""
        ...

    def check_data(self, classes: Sequence[str]) -> None:
        """Before an evaluation: see that the task can score data whose labels stand for these classes, in this order.

        Raises:
            ValueError: they are other classes, or in another order.
        """
        ...

    def score(self, outputs: Any, batch: Batch) -> Scores:
        """In an evaluation step: how good the outputs are for a batch that has `mask` `[B]` as well."""
        ...

    def gallery(self, pictures: int) -> Gallery:
        """An empty one, for so many examples of a kind."""
        ...

    def summarise(self, rows: Rows, sums: Mapping[str, np.ndarray], gallery: Any) -> Result:
        """What a data set comes to: the rows of all its images, in its order, and the sums over all batches.

        Called on all processes at once, with the same rows and sums.
        """
        ...

    @staticmethod
    def predict(outputs: Any) -> Any:
        """On the device: what is said of images, `[B, ...]`, by any network of the task."""
        ...

    def shown(self) -> tuple[Measure, ...]:
        """Those of `measured` that a report's table has, in its order."""
        ...

    def results(self, result: Any) -> dict[str, Any]:
        """What `results.json` holds besides the figures: plain values, fit for JSON."""
        ...

    def sections(self, result: Any) -> Iterable[str | Picture]:
        """The parts of a report on the test images, in order: Markdown, or pictures."""
        ...
