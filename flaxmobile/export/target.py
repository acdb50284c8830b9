"""Whether an export may be written where it is asked for."""

from collections.abc import Mapping
from pathlib import Path

from flaxmobile.files import check_folder_of, check_free
from flaxmobile.messages import printable

FORMATS = {'.tflite': 'LiteRT', '.onnx': 'ONNX', '.mlpackage': 'Core ML', '.jax': 'plain JAX'}
"""What is written, by the suffix of the file."""
FLOAT16 = ('.tflite', '.mlpackage')
"""The suffixes of files that may hold float16 weights."""
PACKAGE = ('Manifest.json', 'Data/com.apple.CoreML/model.mlmodel', 'Data/com.apple.CoreML/weights/weight.bin')
"""The files of a Core ML package."""
INT8 = ('.tflite', '.onnx')
"""The suffixes of files that may compute in int8."""


def check_target(
    path: str | Path,
    allowed: Mapping[str, str] = FORMATS,
    *,
    float16: bool = False,
    int8: bool = False,
    overwrite: bool = False,
) -> str:
    """See that such a file may be written, before anything costly; its suffix.

    Args:
        path: of the file to write.
        allowed: the suffixes, and the formats that they stand for.
        float16: whether it is to hold float16 weights.
        int8: whether it is to compute in int8.
        overwrite: whether a file that is there may be replaced.

    Raises:
        FileExistsError: it is there, and `overwrite` is not set, or it is a folder (a `.mlpackage` is one, and may hold
            a package's files alone).
        ValueError: no such suffix, or `.mlpackage` in upper case; its format has no float16 weights or no int8 here;
            both are asked for.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in allowed:
        choice = ', '.join(f'{each} ({what})' for each, what in allowed.items())
        raise ValueError(
            f'{printable(path, None)}: the suffix says which format to write, and {path.suffix!r} is not among {choice}'
        )
    if float16 and suffix not in FLOAT16:
        raise ValueError(f'{printable(path, None)}: float16=True goes with a {" or ".join(FLOAT16)} file alone')
    if int8 and suffix not in INT8:
        raise ValueError(f'{printable(path, None)}: int8=... goes with a {" or ".join(INT8)} file alone')
    check_weights(float16=float16, int8=int8)
    if suffix == '.mlpackage':
        if path.suffix != suffix:
            raise ValueError(f'{printable(path, None)}: Core ML knows a package by {suffix} in lower case alone')
        check_folder_of(path, PACKAGE, 'Core ML package', overwrite=overwrite)
    else:
        check_free(path, overwrite=overwrite)
    return suffix


def check_weights(*, float16: bool, int8: bool) -> None:
    """See that one kind of weights is asked for.

    Raises:
        ValueError: both are.
    """
    if int8 and float16:
        raise ValueError('int8=... and float16=True are two kinds of weights: give one of them')
