"""A model into an ONNX file."""

from pathlib import Path

from flaxmobile.export.description import describe
from flaxmobile.export.onnx.model import Layout, check_layout, onnx_model
from flaxmobile.export.program import in_float32, make_program
from flaxmobile.files import write_whole
from flaxmobile.messages import printable
from flaxmobile.weights import Model


def to_onnx(
    model: Model,
    path: str | Path,
    *,
    image_size: int | None = None,
    uint8_input: bool = False,
    softmax: bool = False,
    layout: Layout = 'nchw',
    overwrite: bool = False,
) -> None:
    """Write a model as an ONNX file, which takes any number of images: whole, or not at all.

    It computes in float32, also where the network's `dtype` is a narrower one. Its input is `image`, its output
    `logits`, `probabilities` or `embedding`. Labels, preprocessing, licence and source stand in its metadata.

    Args:
        model: what to export.
        path: of the file, with the suffix `.onnx`.
        image_size: side of the images in pixels; None: the model's own.
        uint8_input: take pixels, uint8 RGB, and normalise them inside; otherwise float32, normalised already.
        softmax: answer probabilities in place of logits.
        layout: of the images, and of an output that is a map: 'nchw', `[batch, channels, height, width]`, or 'nhwc'.
        overwrite: replace a file that is there.

    Raises:
        FileExistsError: `path` is there, and `overwrite` is not set, or it is a folder.
        ImportError: the package `onnx` is not installed.
        ValueError: another suffix, layout or size; `softmax` of a network without classes; an operation that the
            exporter does not know, named with its layer; constants of more than 2 GiB.
    """
    path = Path(path)
    check_layout(layout)
    _check_target(path, overwrite)
    _check_installed()
    program = make_program(in_float32(model), image_size=image_size, uint8_input=uint8_input, softmax=softmax)
    description = describe(model, program, {'format': 'onnx', 'layout': layout})
    content = onnx_model(program, layout=layout, description=description).SerializeToString()
    write_whole(path, content)


def _check_target(path: Path, overwrite: bool) -> None:
    shown = printable(path, None)
    if path.suffix.lower() != '.onnx':
        raise ValueError(f'{shown}: an ONNX file has the suffix .onnx, not {path.suffix!r}')
    if path.is_dir():
        raise FileExistsError(f'{shown} is a folder: name a file in it')
    if path.exists() and not overwrite:
        raise FileExistsError(f'{shown} is already there: overwrite=True replaces it')


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(f"an ONNX file needs the package 'onnx' ({error}): pip install 'flaxmobile[onnx]'") from error
