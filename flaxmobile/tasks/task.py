"""The protocol `Task`: all that training, evaluation and reports know of what a network learns."""

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
"""The mean of the loss over images, which every task minimises."""


class Best(NamedTuple):
    """How the best checkpoint is picked: by the highest or the lowest value of a measure on the validation images."""

    measure: Measure
    highest: bool = True


class Scores(NamedTuple):
    """What an evaluation step computes of a batch, on the device.

    Attributes:
        sums: scalars and arrays that are added up over the batches. `count` is the number of images whose mask is True;
            the others do not count in any sum.
        rows: arrays `[B, ...]` with an entry for every image, whatever its mask. The names `mask` and `index` are
            taken: `evaluate` adds these rows from the batch.
    """

    sums: dict[str, jax.Array]
    rows: dict[str, jax.Array]


class Result(Protocol):
    """The result of an evaluation over a data set."""

    @property
    def metrics(self) -> dict[str, float]:
        """The figures by name, in the order of the task's `measured`."""
        ...


class Gallery(Protocol):
    """Keeps the images that a result may show. Each process keeps those of its own part of the batch."""

    def add(self, images: np.ndarray, rows: Rows, first: int) -> None:
        """Consider `images`, uint8 `[n, height, width, channels]`. They belong to `rows[first:first + n]`."""
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
    """The layers whose last axis is the classes, by their names at the top of the parameters. Another task, or other
    classes, cannot take their parameters over by position."""
    pictures: ClassVar[tuple[str, ...]]
    """The files of all pictures that a report may have."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the network's outputs."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How every image is resized, cropped and normalised."""
        ...

    @property
    def variables(self) -> Any:
        """Variables of further networks (a teacher's), an argument of the training step; None if there are none."""
        ...

    def prepare(self, batch: Batch, key: jax.Array, variables: Any) -> tuple[jax.Array, Any]:
        """In a training step: make images `[B, H, W, C]`, normalised and mixed, and targets (any tree) of a batch.

        Args:
            batch: what `shard_batch` gave: `image` uint8 `[B, H, W, C]`, and the labels.
            key: for random draws; a function of the seed and the step alone.
            variables: the task's `variables`, as the step was given them.
        """
        ...

    def loss(self, outputs: Any, targets: Any) -> jax.Array:
        """In a training step: the loss of each image, `[B]`."""
        ...

    def log(self, outputs: Any, targets: Any) -> dict[str, jax.Array]:
        """In a training step: a scalar for each of `logged`."""
        ...

    def check_data(self, classes: Sequence[str]) -> None:
        """Before an evaluation: check that the task can score labels that number these classes, in this order.

        Raises:
            ValueError: they are other classes, or in another order.
        """
        ...

    def score(self, outputs: Any, batch: Batch) -> Scores:
        """In an evaluation step: score the outputs for a batch, which has `mask`, bool `[B]`, as well."""
        ...

    def gallery(self, pictures: int) -> Gallery:
        """An empty gallery for `pictures` examples of each kind."""
        ...

    def summarise(self, rows: Rows, sums: Mapping[str, np.ndarray], gallery: Any) -> Result:
        """The result over a data set, from the rows of all its images, in its order, and the sums over all batches.

        All processes call this at once, with the same rows and sums.
        """
        ...

    @staticmethod
    def predict(outputs: Any) -> Any:
        """On the device: the predictions `[B, ...]` that outputs of a network of this task stand for."""
        ...

    def shown(self) -> tuple[Measure, ...]:
        """The columns of a report's table: some of `measured`, in order."""
        ...

    def results(self, result: Any) -> dict[str, Any]:
        """Further entries of `results.json` beside the figures, as plain values for JSON."""
        ...

    def sections(self, result: Any) -> Iterable[str | Picture]:
        """The parts of a report on the test images, in order: Markdown, or pictures."""
        ...
