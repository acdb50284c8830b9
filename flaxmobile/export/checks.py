"""What an exported file answers in its own runtime, beside what the model in float32 answers in JAX."""

import dataclasses
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from flaxmobile.export.extras import distribution_of
from flaxmobile.export.program import Program
from flaxmobile.files import write_whole
from flaxmobile.messages import listing, printable
from flaxmobile.weights import Model

TOLERANCE = 2e-4
"""Largest error of a float32 file that is written. In docs/exports.md all are below 5e-5."""
FLOAT16_TOLERANCE = 3e-2
"""The same of a file with float16 weights that computes in float32; below 2e-3 is usual, and 2e-2 was seen."""
LEAST = 1e-30
"""Probabilities are compared down to this: below lie numbers that some runtimes make 0."""
BATCH = 25
"""Images that the model answers at once."""
NOISE_IMAGES = 2
"""Images of seeded noise that a file is run on where none are given."""

LOW_AGREEMENT = 0.9
"""Of an int8 file, the share of equal first answers below which it is warned of."""
GREAT_ERROR = 0.2
"""Of an int8 file without first answers to compare, the error above which it is warned of."""


@dataclasses.dataclass(frozen=True)
class Int8Check:
    """What there is to say of an int8 file besides.

    Attributes:
        share: the share of its operations that compute in int8.
        images: how many images it was compared on; 0 where nothing was compared.
        held_out: whether none of those was among the images that it was calibrated on; None of a model that was trained
            for int8, which was not calibrated, and with which it is compared as that rounds in JAX.
        agreement: the share of the images whose first answer is the model's in JAX; None where nothing was compared,
            of noise, and of a network without classes.
    """

    share: float
    images: int = 0
    held_out: bool | None = False
    agreement: float | None = None


@dataclasses.dataclass(frozen=True)
class Check:
    """What there is to say of an exported file.

    Attributes:
        path: of the file.
        size: of the file, in bytes.
        operations: how often each operation of the format is in the file, the most frequent first; empty for JAX, whose
            file has a program for each platform.
        runtime: what the file was run in, 'ai-edge-litert 2.3.0'; None where that is not installed, or does not run
            here, as Core ML: then nothing was compared.
        error: the largest difference from what the model in float32 answers in JAX, as a share of its largest answer;
            of probabilities, that of their logarithms where it is larger. None where nothing was compared.
        partitions: how many pieces of the graph LiteRT's XNNPACK takes; None elsewhere. It takes the whole graph where
            there is one and `left_out` is empty.
        left_out: how often each operation is in the graph that XNNPACK does not take and LiteRT's own kernels compute;
            the `CAST` of uint8 images is not counted. Empty elsewhere.
        int8: what there is to say of an int8 file besides; None of others.
    """

    path: Path
    size: int
    operations: Mapping[str, int]
    runtime: str | None
    error: float | None
    partitions: int | None = None
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    int8: Int8Check | None = None


@dataclasses.dataclass(frozen=True)
class Session:
    """A file that takes float32 images, opened in its runtime on one thread.

    Attributes:
        answers: from images, `[images, height, width, channels]`, to what it answers to each by itself, float32.
        compute: computes one image, `[height, width, channels]`: what there is to time.
    """

    answers: Callable[[np.ndarray], np.ndarray]
    compute: Callable[[np.ndarray], object]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """How a file of one format is run here.

    Attributes:
        package: the usual distribution of what runs it.
        module: what is imported of it.
        run: from the file's bytes and a batch of images to what it answers, and the number of XNNPACK's partitions.
        left_out: from the file's bytes to the operations that XNNPACK does not take; None where there is no XNNPACK.
    """

    package: str
    module: str
    run: Callable[[bytes, np.ndarray], tuple[np.ndarray, int | None]]
    left_out: Callable[[bytes], Mapping[str, int]] | None = None

    @property
    def version(self) -> str | None:
        """Distribution and version; None where it is not installed."""
        if importlib.util.find_spec(self.module) is None:
            return None
        return ' '.join(distribution_of(self.module, self.package))


def check_images(program: Program, images: np.ndarray | None, what: str = 'images') -> np.ndarray:
    """The images to compare on, uint8 `[images, height, width, channels]`: those given, or seeded noise.

    Args:
        program: which takes them.
        images: the pixels.
        what: they are called in a message.

    Raises:
        ValueError: they have another type or shape than the program takes.
    """
    wanted = program.image.shape[1:]
    if images is None:
        return np.random.default_rng(0).integers(0, 256, (NOISE_IMAGES, *wanted), np.uint8)
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != wanted or not len(images):
        shape = ', '.join(map(str, wanted))
        raise ValueError(
            f'{what} are {printable(images.dtype)} {list(images.shape)}: give pixels, uint8 [images, {shape}]'
        )
    return images


def write_checked(
    path: Path,
    content: bytes,
    operations: Mapping[str, int],
    *,
    answer: 'Answer',
    runtime: Runtime,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
    int8: Int8Check | None = None,
) -> Check:
    """Run an exported file before it is written, and write it if it answers as the model does.

    Args:
        path: where to write.
        content: the file's bytes.
        operations: how often each operation is in it.
        answer: what the model answers.
        runtime: what runs it.
        tolerance: the largest error, see `Check`; an int8 file may have any.
        overwrite: replace a file that is there.
        int8: what is known already of an int8 file.

    Raises:
        FileExistsError: `path` is there by now, and `overwrite` is not set.
        ValueError: the runtime does not run the file, or it answers otherwise than the model. It is not written.
    """
    version, error, partitions = runtime.version, None, None
    left_out: Mapping[str, int] = {}
    if version is None:
        warnings.warn(
            f'{printable(path, None)} was not compared with JAX: {runtime.package} is not installed, which runs it',
            stacklevel=3,
        )
    else:
        got, partitions = answers_in(path, content, answer.inputs, runtime)
        error = answer.error(got)
        if int8 is not None and np.isfinite(error):
            int8 = dataclasses.replace(int8, images=len(got), agreement=answer.agreement(got))
        elif not error <= tolerance:
            raise wrong_answers(path, version, error, tolerance)
        left_out = runtime.left_out(content) if runtime.left_out else {}
        for told in (_pieces(partitions, left_out), _disagreement(int8, error)):
            if told:
                warnings.warn(f'{printable(path, None)}: {told}', stacklevel=3)
    write_whole(path, content, overwrite=overwrite)
    return Check(path, len(content), most_frequent_first(operations), version, error, partitions, left_out, int8)


def most_frequent_first(operations: Mapping[str, int]) -> dict[str, int]:
    """How often each operation is in a file, in the order of `Check`."""
    return dict(sorted(operations.items(), key=lambda item: (-item[1], item[0])))


def wrong_answers(path: Path, version: str | None, error: float, tolerance: float) -> ValueError:
    """What is raised in place of writing a file that answers otherwise than the model."""
    return ValueError(
        f'{printable(path, None)} was not written: in {version} it answers otherwise than the model in float32 in JAX. '
        f'The error is {error:.2g} of the largest answer, and {tolerance:.2g} is allowed'
    )


def answers_in(path: Path, content: bytes, images: np.ndarray, runtime: Runtime) -> tuple[np.ndarray, int | None]:
    """What a runtime answers of a file that is to be written to `path`, and the number of XNNPACK's partitions.

    Raises:
        ValueError: it does not run the file.
    """
    try:
        return runtime.run(content, images)
    except Exception as error:  # Each runtime has its own.
        raise ValueError(
            f'{printable(path, None)} was not written: {runtime.version} does not run it: {printable(error)}'
        ) from error


def checked_error(path: Path, answer: 'Answer', runtime: Runtime, tolerance: float) -> float:
    """The error of a folder that is to be written to `path`, which `runtime` knows the place of.

    Raises:
        ValueError: the runtime does not run it, or it answers otherwise than the model.
    """
    got, _ = answers_in(path, b'', answer.inputs, runtime)
    error = answer.error(got)
    if not error <= tolerance:
        raise wrong_answers(path, runtime.version, error, tolerance)
    return error


def _pieces(partitions: int | None, left_out: Mapping[str, int]) -> str:
    """What there is to say where XNNPACK does not take the whole graph."""
    told = []
    if partitions not in (None, 1):
        told.append(f'XNNPACK takes the graph in {partitions} pieces and not in one, so it will be slow on a CPU')
    if left_out:
        names = listing([f'{count} {name}' for name, count in left_out.items()])
        told.append(f"XNNPACK does not compute {names}, LiteRT's own kernels do")
    return '; '.join(told)


def _disagreement(int8: Int8Check | None, error: float) -> str:
    """What there is to say where an int8 file answers otherwise than it is compared with."""
    if int8 is None:
        return ''
    if int8.agreement is None:
        told = f'the largest error on {int8.images:,} images is {error:.2g} of the largest answer'
        return told if error > GREAT_ERROR else ''
    if int8.agreement >= LOW_AGREEMENT:
        return ''
    share = f'{int8.agreement:.1%} of {int8.images:,} images'
    if int8.held_out is None:
        return f'its first answer is that of the model trained for int8 in JAX on only {share}'
    return (
        f"its first answer is the float model's on only {share}; other images to calibrate on, or another observer, "
        'may do better'
    )


@dataclasses.dataclass(frozen=True)
class Answer:
    """What goes into an exported file, and what the model makes of it in JAX.

    Attributes:
        inputs: a batch of images as the file takes them.
        outputs: the model's answers to them.
        probabilities: whether they are.
        classes: whether an answer is a number for each class, and the images are no noise.
    """

    inputs: np.ndarray
    outputs: np.ndarray
    probabilities: bool = False
    classes: bool = False

    def agreement(self, got: np.ndarray) -> float | None:
        """The share of answers whose first class is the model's; None of a network without classes, and of noise."""
        return float(np.mean(got.argmax(-1) == self.outputs.argmax(-1))) if self.classes else None

    def error(self, got: np.ndarray) -> float:
        """The largest difference from the answers, see `Check`."""
        error = largest_error(got, self.outputs)
        if not self.probabilities or not np.isfinite(error):
            return error
        # A wrong logit hardly changes a small probability, but its logarithm as much as itself.
        given, wanted = (np.log(np.maximum(values, LEAST).astype(np.float64)) for values in (got, self.outputs))
        return max(error, largest_error(given, wanted))


def answer_of(model: Model, program: Program, images: np.ndarray | None) -> Answer:
    """What a model answers in JAX, in the types that it computes in, without anything that the export changed in it.

    Args:
        model: what is exported.
        program: what was made of it, which says the form of its images and what it answers.
        images: see `check_images`.

    Raises:
        ValueError: the images are not right, or the model's answers are no finite numbers.
    """
    pixels = check_images(program, images)
    values = np.asarray(model.preprocessing.normalize(pixels))
    with jax.default_matmul_precision('highest'):
        apply = jax.jit(model.module.apply)
        parts = [apply(model.variables, values[start : start + BATCH]) for start in range(0, len(values), BATCH)]
        outputs = np.concatenate(parts)
        if probabilities := program.outputs == ('probabilities',):
            outputs = np.asarray(jax.nn.softmax(outputs))
    found = np.asarray(outputs, np.float32)
    if not np.isfinite(found).all():
        raise ValueError('the model answers numbers that are not finite, so there is nothing to compare a file with')
    classes = bool(model.num_classes) and images is not None
    return Answer(inputs_of(model, program, pixels), found, probabilities, classes)


def inputs_of(model: Model, program: Program, pixels: np.ndarray) -> np.ndarray:
    """What a file takes of pixels, uint8 `[images, height, width, channels]`: those, or normalised ones."""
    return pixels if program.image.dtype == np.uint8 else np.asarray(model.preprocessing.normalize(pixels))


def largest_error(got: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference as a share of the largest of `wanted`; infinite where the shapes differ."""
    if got.shape != wanted.shape:
        return float('inf')
    scale = np.abs(wanted).max() or 1.0
    return float(np.abs(got.astype(np.float64) - wanted).max() / scale)
