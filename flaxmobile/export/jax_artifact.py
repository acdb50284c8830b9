"""A model as a program that plain JAX runs, on a CPU, on NVIDIA's GPUs and on TPUs, without this library."""

import io
import zipfile
from pathlib import Path

import jax
import numpy as np

from flaxmobile.export.checks import Check, Runtime, answer_of, write_checked
from flaxmobile.export.description import describe, to_json
from flaxmobile.export.program import Program, for_any_number, in_float32, make_program
from flaxmobile.export.target import check_target
from flaxmobile.weights import Model

PLATFORMS = ('cpu', 'cuda', 'tpu')
PRECISION = 'highest'
"""Of products and convolutions: JAX's own default takes bfloat16 on TPUs, and TF32 on NVIDIA's GPUs."""
PROGRAM, DESCRIPTION = 'program', 'description.json'
"""What the zip holds."""


def to_jax(
    model: Model,
    path: str | Path,
    *,
    uint8_input: bool = False,
    softmax: bool = False,
    images: np.ndarray | None = None,
    overwrite: bool = False,
) -> Check:
    """Write a model as a program for plain JAX, for batches of any size: whole, or not at all.

    The file is a zip. In it are `program`, what `jax.export` serialises, and `description.json`, what the model is and
    how images are prepared for it. It computes in float32, in products and convolutions on GPUs and TPUs too, and JAX
    alone runs it:

        file = zipfile.ZipFile('model.jax')
        program = jax.export.deserialize(bytearray(file.read('program')))
        (logits,) = jax.jit(program.call)(images)

    JAX reads such programs for six months after they were made, and longer where nothing in them has changed
    (https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees).

    Args:
        model: what to export.
        path: of the file to write.
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32 images, normalised already.
        softmax: answer probabilities in place of logits.
        images: pixels to compare the file with the model on, uint8 `[images, height, width, channels]`; None: seeded
            noise.
        overwrite: replace a file that is there.

    Returns:
        What was found out about the file.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set.
        ValueError: a bad size, softmax without classes, a network that goes by the number of images, or the file
            answers otherwise than the model.
    """
    path = Path(path)
    check_target(path, {'.jax': 'plain JAX'}, overwrite=overwrite)
    model = in_float32(model)
    program = make_program(model, uint8_input=uint8_input, softmax=softmax, standard=False)
    answer = answer_of(model, program, images)
    made = {'format': 'jax', 'platforms': list(PLATFORMS)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(PROGRAM), serialize(program))
        archive.writestr(zipfile.ZipInfo(DESCRIPTION), to_json(describe(model, program, made)))
    return write_checked(path, file.getvalue(), {}, answer=answer, runtime=JAX, overwrite=overwrite)


def serialize(program: Program) -> bytes:
    """A program for all platforms and batches of any size, as `jax.export.deserialize` reads it."""
    # Our convolutions are StableHLO by now, in a form for each platform, and nothing of ours is needed to run them.
    with jax.default_matmul_precision(PRECISION):
        exported = for_any_number(jax.export.export(jax.jit(program.function), platforms=PLATFORMS), program.image)
    return bytes(exported.serialize())


def run(content: bytes, images: np.ndarray) -> tuple[np.ndarray, int | None]:
    """What such a file answers to a batch of images."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        program = jax.export.deserialize(bytearray(archive.read(PROGRAM)))
    (answers,) = jax.jit(program.call)(images)
    return np.asarray(answers), None


JAX = Runtime('jax', 'jax', run)
