"""A model as a SavedModel of TensorFlow, by orbax-export."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxmobile.export.checks import TOLERANCE, Check, Runtime, answer_of, answers_in, wrong_answers
from flaxmobile.export.description import describe, to_json
from flaxmobile.export.extras import needed
from flaxmobile.export.jax_artifact import PLATFORMS
from flaxmobile.export.program import Program, for_any_number, in_float32, make_program
from flaxmobile.files import check_folder
from flaxmobile.messages import printable
from flaxmobile.weights import Model

TENSORFLOW = ('tensorflow', 'tensorflow')
"""Distribution and module that run it."""
SIGNATURE = 'serving_default'
DESCRIPTION = 'assets.extra/flaxmobile.json'
"""Where the folder holds what it says of itself: TensorFlow leaves `assets.extra` to others."""


def to_saved_model(
    model: Model,
    path: str | Path,
    *,
    image_size: int | None = None,
    uint8_input: bool = False,
    softmax: bool = False,
    images: np.ndarray | None = None,
    overwrite: bool = False,
) -> Check:
    """Write a model as a SavedModel, a folder that TensorFlow loads: whole, or not at all.

    It takes batches of any size, on a CPU, NVIDIA's GPUs and TPUs, and has one signature, 'serving_default', from
    'image' to 'logits', 'probabilities' or 'embedding'. It computes in float32. What the model is and how images are
    prepared for it lies in it as JSON, `assets.extra/flaxmobile.json`.

    Args:
        model: what to export.
        path: of the folder to write.
        image_size: side of the images in pixels; None: the model's own.
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32 images, normalised already.
        softmax: answer probabilities in place of logits.
        images: pixels to compare it with the model on, uint8 `[images, height, width, channels]`; None: seeded noise.
        overwrite: replace a SavedModel that is there.

    Returns:
        What was found out about it. Its size is that of all its files.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set, or it is no SavedModel.
        ModuleNotFoundError: the packages of `flaxmobile[saved-model]` are not installed.
        ValueError: a bad size, softmax without classes, a network that goes by the number of images, or the SavedModel
            answers otherwise than the model.
    """
    path = Path(path)
    _check_free(path, overwrite)
    for module in ('tensorflow', 'orbax.export'):
        needed(module, 'a SavedModel', 'saved-model')
    model = in_float32(model)
    program = make_program(model, image_size=image_size, uint8_input=uint8_input, softmax=softmax, standard=False)
    for_any_number(lambda batch: jax.eval_shape(program.function, batch), program.image)
    answer = answer_of(model, program, images)
    description = describe(model, program, {'format': 'saved_model', 'platforms': list(PLATFORMS)})
    with _folder_beside(path) as beside:
        new = beside / 'model'
        _save(program, new)
        said = new / DESCRIPTION
        said.parent.mkdir()
        said.write_text(to_json(description))
        runtime = Runtime(*TENSORFLOW, lambda _, images: (_run(new, images), None))
        got, _ = answers_in(path, b'', answer.inputs, runtime)
        error = answer.error(got)
        if not error <= TOLERANCE:
            raise wrong_answers(path, runtime.version, error, TOLERANCE)
        _publish(new, path, beside / 'before', overwrite)
    size = sum(each.stat().st_size for each in path.rglob('*') if each.is_file())
    return Check(path, size, {}, runtime.version, error)


def _check_free(path: Path, overwrite: bool) -> None:
    """See that the folder may be written, before anything costly."""
    if path.exists() and not overwrite:
        raise FileExistsError(f'{printable(path, None)} is already there: overwrite=True replaces it')
    if path.exists() and not (path / 'saved_model.pb').is_file():
        raise FileExistsError(f'{printable(path, None)} is there and no SavedModel: name a folder that is not there')
    check_folder(path)


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder beside `path` that goes again, and so do the folders on the way to it if something fails."""
    made = [parent for parent in path.absolute().parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        beside = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
        try:
            yield beside
        finally:
            shutil.rmtree(beside)
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):  # Somebody else's files lie in it by now.
                parent.rmdir()
        raise


def _publish(new: Path, path: Path, before: Path, overwrite: bool) -> None:
    """Give a folder its name; what is there is put aside first."""
    if overwrite and path.exists():
        path.rename(before)
    try:
        path.mkdir()  # Renaming by itself would replace an empty folder that appeared meanwhile.
    except FileExistsError:
        _check_free(path, overwrite=False)
        raise
    new.rename(path)


def _save(program: Program, folder: Path) -> None:
    import tensorflow as tf
    from orbax.export import ExportManager, JaxModule, ServingConfig

    def answer(_: Any, images: jax.Array) -> dict[str, jax.Array]:
        return dict(zip(program.outputs, program.function(images), strict=True))

    module = JaxModule(
        {},
        answer,
        input_polymorphic_shape='batch, ...',
        jax2tf_kwargs={'native_serialization_platforms': PLATFORMS},
    )
    image = tf.TensorSpec((None, *program.image.shape[1:]), tf.as_dtype(program.image.dtype), name='image')
    ExportManager(module, [ServingConfig(SIGNATURE, input_signature=[image])]).save(str(folder))


def _run(folder: Path, images: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    (answers,) = loaded.signatures[SIGNATURE](image=tf.constant(images)).values()
    return np.asarray(answers.numpy())
