"""The subcommands that make of a model what runs elsewhere: export and web."""

import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from flaxmobile.cli.common import AS_IT_IS, ModelName, Opened, open_model, silent_libraries, title_of
from flaxmobile.messages import printable

if TYPE_CHECKING:
    from flaxmobile.export import Check
    from flaxmobile.weights import Model


@dataclasses.dataclass(frozen=True)
class InInt8:
    """Whether the file is to compute in int8, and by which images."""

    int8: Annotated[FlagCreatePairsOff[bool], arg(help='Compute in int8; .tflite and .onnx. Needs --calibration.')] = (
        False
    )
    calibration: Annotated[
        str | None,
        arg(metavar='NAME', help='Folder of images, or data set (its train split), to find the ranges on.'),
    ] = None
    calibration_images: Annotated[int, arg(help='How many of them at most; 48 to 100 are usual.')] = 100
    observer: Annotated[
        Literal['extremes', 'percentile', 'mse'] | None,
        arg(help="How a range is chosen; None: 'extremes' for .tflite, 'percentile' for .onnx, which has no mse."),
    ] = None
    int8_io: Annotated[
        FlagCreatePairsOff[bool],
        arg(help='Answer int8 too, and take it, or uint8 with --uint8-input; .tflite only.'),
    ] = False
    data_dir: Annotated[str | None, arg(metavar='DIR', help='Where TFDS keeps prepared data sets.')] = None


IN_FLOAT = InInt8()


def export(
    model: Positional[ModelName],
    path: Positional[
        Annotated[
            Path,
            arg(metavar='OUT', help='To write: .tflite (LiteRT), .onnx, .mlpackage (Core ML), .jax.'),
        ]
    ],
    float16: Annotated[
        FlagCreatePairsOff[bool],
        arg(help='float16 weights, half the size. .mlpackage computes in float16 too.'),
    ] = False,
    uint8_input: Annotated[
        FlagCreatePairsOff[bool],
        arg(help='Take pixels, uint8 RGB, and normalise them inside; else float32, normalised already.'),
    ] = False,
    softmax: Annotated[FlagCreatePairsOff[bool], arg(help='Answer probabilities in place of logits.')] = False,
    overwrite: Annotated[FlagCreatePairsOff[bool], arg(help='Replace a file that is there.')] = False,
    quantized: OmitArgPrefixes[InInt8] = IN_FLOAT,
    opened: OmitArgPrefixes[Opened] = AS_IT_IS,
) -> int:
    """Write a model as a file that runs elsewhere, and compare what it answers there with JAX."""
    from flaxmobile.export import by_suffix
    from flaxmobile.export.int8 import check_asked
    from flaxmobile.export.target import check_target

    check_target(path, float16=float16, int8=quantized.int8, overwrite=overwrite)
    asked = {name: getattr(quantized, name) for name in ('int8', 'observer', 'int8_io')}
    check_asked(calibration=quantized.calibration, **asked)
    exported = open_model(model, opened)
    options: dict[str, Any] = {**asked, **_images(exported, quantized)}
    with silent_libraries():
        check = by_suffix.export(
            exported, path, float16=float16, uint8_input=uint8_input, softmax=softmax, overwrite=overwrite, **options
        )
    side = exported.preprocessing.image_size
    print(f'{printable(path, None)}: {title_of(model, exported, opened)}, {side}x{side} pixels, {_size(check.size)}')
    if check.error is not None:
        print(_compared(check))
    if check.operations:
        print(', '.join(f'{count} {name}' for name, count in check.operations.items()))
    return 0


def _images(model: 'Model', quantized: InInt8) -> dict[str, Any]:
    """The images to calibrate and to compare on, where the file is to be in int8."""
    if quantized.calibration is None:
        return {}
    from flaxmobile.export.calibration import read_images

    count, data_dir = quantized.calibration_images, quantized.data_dir
    calibrated, others = read_images(quantized.calibration, model.preprocessing, count, data_dir)
    return {'calibration': calibrated, 'images': others if len(others) else None}


def web(
    model: Positional[ModelName],
    folder: Positional[Annotated[Path, arg(metavar='OUT_DIR', help='Folder to write.')]],
    overwrite: Annotated[FlagCreatePairsOff[bool], arg(help='Replace a page that is there.')] = False,
    opened: OmitArgPrefixes[Opened] = AS_IT_IS,
) -> int:
    """Write a page that classifies pictures in the browser by a model: a folder of files for any web server."""
    from flaxmobile.export.web import check_page, to_web

    check_page(folder, overwrite=overwrite)
    shown = open_model(model, opened)
    with silent_libraries():
        check = to_web(shown, folder, overwrite=overwrite)
    side = shown.preprocessing.image_size
    print(f'{printable(folder, None)}: {title_of(model, shown, opened)}, {side}x{side} pixels, {_size(check.size)}')
    if check.error is not None:
        print(_compared(check))
    print(f'to see it: python -m http.server --directory {shlex.quote(printable(folder, None))}')
    return 0


def _size(count: int) -> str:
    return f'{count / 1e6:.2f} MB'


def _compared(check: 'Check') -> str:
    told = f'{check.runtime} answers as the model in float32 in JAX, to {check.error:.1e} of the largest answer'
    if check.int8:
        told = f'{_agreement(check)}, and the largest error is {check.error:.1e} of the largest answer'
    return told if check.partitions is None else f'{told}; XNNPACK partitions: {check.partitions}'


def _agreement(check: 'Check') -> str:
    found = check.int8
    assert found is not None
    images = f'{found.images:,} images that it was {"not " if found.held_out else ""}calibrated on'
    share = f'{check.runtime}: {found.share:.0%} of the operations in int8; '
    if found.agreement is None:
        return f'{share}on {images} it was compared with the model in float32 in JAX'
    return f"{share}the first answer is the float32 model's in JAX on {found.agreement:.1%} of {images}"
