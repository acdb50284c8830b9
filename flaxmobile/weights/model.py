"""A network with its variables and all that is needed to use it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import linen as nn

from flaxmobile.data import Preprocessing
from flaxmobile.models.inference import compiler_options, forward
from flaxmobile.tasks.classification import Classification
from flaxmobile.weights.catalogue import Weight
from flaxmobile.weights.class_names import check_classes

if TYPE_CHECKING:
    from flaxmobile.weights.saving import Layout

CLASSIFICATION = 'classification'
"""The task of a network with classes."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A network with its variables and all that is needed to use it.

    `dataclasses.replace(model, labels=names)` gives the same model with other labels.

    Attributes:
        module: the network: `module.apply(variables, preprocessing.normalize(images))`.
        variables: `{'params': ..., 'batch_stats': ...}`.
        preprocessing: what an image goes through before the network sees it.
        labels: the names of the classes in the order of the logits; None where they are not known.
        task: what the network answers, 'classification'; None for a network without classes.
        name: the registered network, as `create_model` takes it; '' for a module of your own.
        overrides: what else `create_model` was given, fit for JSON.
        weight: the published weight that the variables come from.
        assumed: what the file does not say, and what was taken for it, in words; '' where nothing was assumed.
        started_from: the published weight that the training of the variables started from, by way of other runs too;
            None where none is known.

    Raises:
        ValueError: the labels are not as many different names as the network has classes, or the network has no classes
            and `task` is not None.
    """

    module: nn.Module
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    labels: tuple[str, ...] | None = None
    task: str | None = CLASSIFICATION
    name: str = ''
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    weight: Weight | None = None
    assumed: str = ''
    started_from: Weight | None = None

    def __post_init__(self) -> None:
        if self.task != task_of(self.module):
            raise ValueError(
                f'Model: task is {self.task!r}, and a {type(self.module).__name__} of {self.num_classes:,} classes has '
                f'task={task_of(self.module)!r}'
            )
        if self.labels is not None:
            object.__setattr__(self, 'labels', check_classes(self.labels, self.num_classes))

    @property
    def num_classes(self) -> int:
        """How many classes the network tells apart, 0 where it has no classifier."""
        return num_classes_of(self.module)

    @property
    def title(self) -> str:
        """What it is called: the published weight, the network, or the class of a module of your own."""
        return self.weight.name if self.weight else self.name or type(self.module).__name__

    def predict(self, images: np.ndarray, batch_size: int = 32) -> np.ndarray:
        """The probability of each class, float32 `[images, classes]`, in the order of `labels`.

        Args:
            images: as `data.prepare_for_evaluation` makes them, uint8 `[images, height, width, channels]` of the size
                that `preprocessing` says.
            batch_size: how many go through the network at once.

        Raises:
            ValueError: the images have another type or shape, or the network has no classes.
        """
        _check_images(self, images)
        size = max(1, min(batch_size, len(images)))
        parts = [predict_batch(self, images[start : start + size], size) for start in range(0, len(images), size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.num_classes), np.float32)

    def save(self, path: str | Path, *, layout: 'Layout | None' = None, overwrite: bool = False) -> None:
        """Write the variables, in the format of the suffix: whole, or not at all.

        `.safetensors` is our own format, with network, preprocessing and labels inside, unless `layout` asks for
        another library's names. `.npz` holds arrays by our names or those of `layout`, `.pth` and `.pt` a state dict
        for `torch.load`, `.h5` and `.weights.h5` what Keras's `load_weights` reads; a warning says what these do not
        keep.

        Args:
            path: of the file to write.
            layout: whose names the tensors get: 'timm', 'torchvision' or 'keras'. None: ours where the format is ours
                or NumPy's; in torch's formats the library's that the network comes from.
            overwrite: replace a file that is there.

        Raises:
            FileExistsError: `path` is there, and `overwrite` is not set.
            ValueError: no such suffix or layout, or the library has no such network; the variables are not the
                network's; `name` and `overrides` are of a network that answers otherwise than `module`.
        """
        from flaxmobile.weights.saving import save

        save(path, self, layout=layout, overwrite=overwrite)

    def __repr__(self) -> str:
        """One line: name, parameters, size of the images, classes."""
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.variables['params']))
        side, classes = self.preprocessing.image_size, f'{self.num_classes:,} classes'
        if self.labels is None:
            classes += ' without names' if self.num_classes else ''
        return f'Model({self.title}: {parameters:,} parameters, {side}x{side} pixels, {classes})'


def num_classes_of(module: nn.Module) -> int:
    """How many classes a network tells apart, 0 where it has no classifier."""
    count: int = getattr(module, 'num_classes', 0)
    return count


def task_of(module: nn.Module) -> str | None:
    """What a network answers: the `task` of its `Model`."""
    return CLASSIFICATION if num_classes_of(module) else None


def _check_images(model: Model, images: np.ndarray) -> None:
    if not model.num_classes:
        raise ValueError('this model has no classifier (num_classes=0), so it cannot name anything')
    side, channels = model.preprocessing.image_size, model.preprocessing.channels
    if isinstance(images, str | bytes | Path):
        raise ValueError(
            f'images are pixels, and a {type(images).__name__} was given: '
            'flaxmobile.data.prepare_for_evaluation(path, model.preprocessing) makes an image of a file, and np.stack '
            'a batch of several'
        )
    given = np.shape(images)
    if len(given) != 4 or given[1:] != (side, side, channels):
        raise ValueError(
            f'images are {list(given)}: this model takes uint8 [images, {side}, {side}, {channels}], as '
            'flaxmobile.data.prepare_for_evaluation(image, model.preprocessing) makes each of them'
        )


def predict_batch(model: Model, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Probabilities of at most `batch_size` images, by a program that is compiled for that many, float32."""
    padded = np.pad(images, [(0, batch_size - len(images)), (0, 0), (0, 0), (0, 0)])
    probabilities = probabilities_of(model.module, model.preprocessing)
    return np.asarray(probabilities(model.variables, padded))[: len(images)]


@functools.lru_cache(maxsize=8)
def probabilities_of(module: nn.Module, preprocessing: Preprocessing) -> Callable[[Any, np.ndarray], jax.Array]:
    """The program from variables and uint8 images to probabilities."""
    platform = jax.default_backend()

    def probabilities(variables: Any, batch: jax.Array) -> jax.Array:
        logits = forward(module, variables, preprocessing.normalize(batch), platform=platform)
        return Classification.predict(logits)

    return jax.jit(probabilities, compiler_options=compiler_options(platform))
