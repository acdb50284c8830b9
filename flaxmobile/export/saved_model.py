"""A model as a SavedModel of TensorFlow, by orbax-export."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxmobile.export.checks import TOLERANCE, answer_of, largest_error
from flaxmobile.export.description import describe, to_json
from flaxmobile.export.extras import needed
from flaxmobile.export.jax_artifact import PLATFORMS
from flaxmobile.export.program import Program, in_float32, make_program
from flaxmobile.messages import printable
from flaxmobile.weights import Model

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
) -> float:
    """Write a model as a SavedModel, a folder that TensorFlow loads: whole, or not at all.

    It takes batches of any size, on a CPU, NVIDIA's GPUs and TPUs, and has one signature, 'serving_default', from
    'image' to 'logits', 'probabilities' or 'embedding'. It computes in float32. What the model is and how images are
    prepared for it lies in it as JSON, `assets.extra/flaxmobile.json`.

    Args:
        model: what to export.
        path: of the folder to write, which is not there yet.
        image_size: side of the images in pixels; None: the model's own.
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32 images, normalised already.
        softmax: answer probabilities in place of logits.

    Returns:
        The largest difference of what it answers to seeded noise from what the model answers in JAX, as a share of the
        largest answer.

    Raises:
        FileExistsError: something lies at `path`.
        ModuleNotFoundError: the packages of `flaxmobile[saved-model]` are not installed.
        ValueError: a bad size, softmax without classes, or the SavedModel answers otherwise than the model.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f'{printable(path, None)} is already there: name a folder that is not')
    for module in ('tensorflow', 'orbax.export'):
        needed(module, 'a SavedModel', 'saved-model')
    model = in_float32(model)
    program = make_program(model, image_size=image_size, uint8_input=uint8_input, softmax=softmax, standard=False)
    answer = answer_of(model, program, None)
    description = describe(
        model, program, {'format': 'saved_model', 'platforms': list(PLATFORMS), 'jax': jax.__version__}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f'.{path.name}.', dir=path.parent))
    try:
        _save(program, beside / 'model')
        said = beside / 'model' / DESCRIPTION
        said.parent.mkdir()
        said.write_text(to_json(description))
        error = largest_error(_run(beside / 'model', answer.inputs), answer.outputs)
        if not error <= TOLERANCE:
            raise ValueError(
                f'{printable(path, None)} was not written: TensorFlow answers otherwise than the model in JAX. The '
                f'error is {error:.2g} of the largest answer, and {TOLERANCE:.2g} is allowed'
            )
        (beside / 'model').rename(path)
    finally:
        shutil.rmtree(beside)
    return error


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
