"""A model as a SavedModel of TensorFlow, by orbax-export."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxmobile.export.checks import TOLERANCE, Check, Runtime, answer_of, checked_error
from flaxmobile.export.description import describe, to_json
from flaxmobile.export.extras import needed
from flaxmobile.export.jax_artifact import PLATFORMS, PRECISION
from flaxmobile.export.program import Program, for_any_number, in_float32, make_program
from flaxmobile.files import check_folder_of, folder_size, whole_folder
from flaxmobile.weights import Model

TENSORFLOW = ('tensorflow', 'tensorflow')
"""Distribution and module that run it."""
SIGNATURE = 'serving_default'
DESCRIPTION = 'assets.extra/flaxmobile.json'
"""Where the folder holds what it says of itself: TensorFlow leaves `assets.extra` to others."""
FILES = (
    *('saved_model.pb', 'fingerprint.pb', DESCRIPTION),
    *('variables/variables.index', 'variables/variables.data-00000-of-00001'),
)
"""All that is written."""


def to_saved_model(
    model: Model,
    path: str | Path,
    *,
    uint8_input: bool = False,
    softmax: bool = False,
    images: np.ndarray | None = None,
    overwrite: bool = False,
) -> Check:
    """Write a model as a SavedModel, a folder that TensorFlow loads: whole, or not at all.

    It takes batches of any size, on a CPU, NVIDIA's GPUs and TPUs, and has one signature, 'serving_default', from
    'image' to 'logits', 'probabilities' or 'embedding'. It computes in float32, in products and convolutions on
    GPUs and TPUs too. What the model is and how images are prepared for it lies in it as JSON,
    `assets.extra/flaxmobile.json`.

    Args:
        model: what to export.
        path: of the folder to write.
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32 images, normalised already.
        softmax: answer probabilities in place of logits.
        images: pixels to compare it with the model on, uint8 `[images, height, width, channels]`; None: seeded noise.
        overwrite: replace a SavedModel that is there.

    Returns:
        What was found out about it. Its size is that of all its files.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set, or it holds other files than are written.
        ModuleNotFoundError: the packages of `flaxmobile[saved-model]` are not installed.
        ValueError: a bad size, softmax without classes, a network that goes by the number of images, or the SavedModel
            answers otherwise than the model.
    """
    path = Path(path)
    check_folder_of(path, FILES, 'SavedModel', overwrite=overwrite)
    for module in ('tensorflow', 'orbax.export'):
        needed(module, 'a SavedModel', 'saved-model')
    model = in_float32(model)
    program = make_program(model, uint8_input=uint8_input, softmax=softmax, standard=False)
    for_any_number(lambda batch: jax.eval_shape(program.function, batch), program.image)
    answer = answer_of(model, program, images)
    description = describe(model, program, {'format': 'saved_model', 'platforms': list(PLATFORMS)})
    with whole_folder(path, overwrite=overwrite) as new:
        _save(program, new)
        said = new / DESCRIPTION
        said.parent.mkdir()
        said.write_text(to_json(description))
        runtime = Runtime(*TENSORFLOW, lambda _, images: (_run(new, images), None))
        error = checked_error(path, answer, runtime, TOLERANCE)
    return Check(path, folder_size(path), {}, runtime.version, error)


def _save(program: Program, folder: Path) -> None:
    import tensorflow as tf
    from orbax.export import ExportManager, JaxModule, ServingConfig

    def answer(_: Any, images: jax.Array) -> dict[str, jax.Array]:
        return dict(zip(program.outputs, program.function(images), strict=True))

    image = tf.TensorSpec((None, *program.image.shape[1:]), tf.as_dtype(program.image.dtype), name='image')
    with jax.default_matmul_precision(PRECISION):
        module = JaxModule(
            {},
            answer,
            input_polymorphic_shape='batch, ...',
            jax2tf_kwargs={'native_serialization_platforms': PLATFORMS},
        )
        ExportManager(module, [ServingConfig(SIGNATURE, input_signature=[image])]).save(str(folder))


def _run(folder: Path, images: np.ndarray) -> np.ndarray:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    (answers,) = loaded.signatures[SIGNATURE](image=tf.constant(images)).values()
    return np.asarray(answers.numpy())
