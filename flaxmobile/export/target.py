"""Whether an export may be written where it is asked for."""

from collections.abc import Mapping
from pathlib import Path

from flaxmobile.files import check_free, check_free_folder
from flaxmobile.messages import printable

FORMATS = {'.tflite': 'LiteRT', '.onnx': 'ONNX', '.mlpackage': 'Core ML', '.jax': 'plain JAX'}
"""What is written, by the suffix of the file."""
FLOAT16 = ('.tflite', '.mlpackage')
"""The suffixes of files that may hold float16 weights."""
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
        FileExistsError: it is there, and `overwrite` is not set, or it is a folder (a `.mlpackage` is one; another
            folder or a file is not replaced by it).
        ValueError: no such suffix, or its format has no float16 weights or no int8 here; both are asked for.
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
        check_free_folder(path, 'Manifest.json', 'Core ML package', overwrite=overwrite)
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
