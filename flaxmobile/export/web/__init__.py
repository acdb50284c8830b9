"""A model as a page that runs it in the browser: a folder of files alone, which loads nothing from elsewhere."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from flaxmobile.export.checks import Check
from flaxmobile.export.description import to_json
from flaxmobile.export.int8 import Int8
from flaxmobile.export.litert import to_litert
from flaxmobile.export.litert.reading import read_description
from flaxmobile.export.web.runtime import runtime_files, unpack_runtime
from flaxmobile.files import check_folder_of, whole_folder
from flaxmobile.weights import Model

__all__ = ['check_page', 'to_web']

PAGE = Path(__file__).parent / 'page'
"""The page's own files."""
MODEL, DESCRIPTION = 'model.tflite', 'model.json'
"""What the page loads."""
LIST = 'flaxmobile-page.txt'
"""What names all files of a page: those of another version have others."""


def to_web(
    model: Model,
    folder: str | Path,
    *,
    float16: bool = False,
    images: np.ndarray | None = None,
    overwrite: bool = False,
    int8: Int8 | None = None,
) -> Check:
    """Write a page that classifies pictures in the browser, as `flaxmobile predict` does: whole, or not at all.

    The folder holds all that the page needs: the model as a LiteRT file, what it says of itself as JSON, LiteRT.js, and
    the page. Any web server serves it, `python -m http.server` too. It loads nothing from elsewhere and sends nothing.
    Pictures come from files or the camera. They are resampled as Pillow does it.

    Args:
        model: what classifies.
        folder: to write.
        float16: keep the weights as float16, see `to_litert`.
        images: pixels to compare the LiteRT file with JAX on, see `to_litert`.
        overwrite: replace a page that is there.
        int8: compute in int8, by the ranges of `Int8(calibration=pixels)`.

    Returns:
        What was found out about the LiteRT file.

    Raises:
        FileExistsError: something lies at `folder`, and `overwrite` is not set, or it holds other files than a page's.
        ModuleNotFoundError: the packages of `flaxmobile[litert]` are not installed.
        ValueError: the model has no classes; `int8_io`, as the page's images are float32; or see `to_litert`.
    """
    folder = Path(folder)
    check_page(folder, overwrite=overwrite)
    if not model.num_classes:
        raise ValueError('the page shows classes, and this model has none (num_classes=0)')
    if int8 and int8.int8_io:
        raise ValueError('int8_io=True goes with a file alone: the page gives the network float32 images')
    with whole_folder(folder, overwrite=overwrite) as made:
        shutil.copytree(PAGE, made)
        unpack_runtime(made)
        check = to_litert(model, made / MODEL, float16=float16, images=images, int8=int8)
        (made / DESCRIPTION).write_text(to_json(read_description((made / MODEL).read_bytes())))
        (made / LIST).write_text('\n'.join(sorted(_own_files())) + '\n')
    return dataclasses.replace(check, path=folder / MODEL)


def check_page(folder: str | Path, *, overwrite: bool = False) -> None:
    """See that a page may be written there, before anything costly.

    Raises:
        FileExistsError: see `check_folder_of`: what is there may hold alone what a page has, or names as its own.
    """
    named = Path(folder) / LIST
    listed = named.read_text(errors='replace').splitlines() if named.is_file() else []
    check_folder_of(folder, {*_own_files(), *listed}, 'page', overwrite=overwrite)


def _own_files() -> set[str]:
    return {MODEL, DESCRIPTION, LIST, *runtime_files(), *(path.name for path in PAGE.iterdir())}
