"""The subcommands that make of a model what runs elsewhere: export, web and quantize-report."""

import contextlib
import dataclasses
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from flaxmobile.cli.common import (
    AS_IT_IS,
    ModelName,
    Opened,
    open_model,
    print_table,
    run_of,
    silent_libraries,
    title_of,
)
from flaxmobile.cli.datasets import DataDir, DataName, TestSplit, drawn_of, named_data, open_test_data
from flaxmobile.messages import printable

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from flaxmobile.export import Check
    from flaxmobile.export.report import QuantizeReport
    from flaxmobile.runs.description import RunDescription
    from flaxmobile.weights import Model


CALIBRATION_IMAGES = 100
"""On how many images ranges are found where no number is given."""


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """By which images the ranges of activations are found."""

    calibration: Annotated[
        str | None,
        arg(metavar='NAME', help='Folder of images, or data set (its train split), to find the ranges on.'),
    ] = None
    calibration_images: Annotated[int | None, arg(help='How many of them at most; 48 to 100 are usual. None: 100.')] = (
        None
    )
    data_dir: DataDir = None


@dataclasses.dataclass(frozen=True)
class InInt8(Calibrated):
    """Whether the file is to compute in int8, and by which ranges."""

    int8: Annotated[FlagCreatePairsOff[bool], arg(help='Compute in int8; .tflite and .onnx. Needs --calibration.')] = (
        False
    )
    observer: Annotated[
        Literal['extremes', 'percentile', 'mse'] | None,
        arg(help="How a range is chosen; None: 'extremes' for .tflite, 'percentile' for .onnx, which has no mse."),
    ] = None


@dataclasses.dataclass(frozen=True)
class WithInt8Ends(InInt8):
    """The same, and whether input and output are int8 too."""

    int8_io: Annotated[
        FlagCreatePairsOff[bool],
        arg(help='Answer int8 too, and take it, or uint8 with --uint8-input; .tflite only.'),
    ] = False


BY_TRAINING_IMAGES, IN_FLOAT, FILE_IN_FLOAT = Calibrated(), InInt8(), WithInt8Ends()


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
    quantized: OmitArgPrefixes[WithInt8Ends] = FILE_IN_FLOAT,
    opened: OmitArgPrefixes[Opened] = AS_IT_IS,
) -> int:
    """Write a model as a file that runs elsewhere, and compare what it answers there with JAX."""
    from flaxmobile.export import by_suffix
    from flaxmobile.export.int8 import check_trained
    from flaxmobile.export.onnx.quantization import check_options
    from flaxmobile.export.target import check_target

    suffix = check_target(path, float16=float16, int8=quantized.int8, overwrite=overwrite)
    _check_int8(quantized)
    if suffix == '.onnx':
        check_options(quantized.observer, int8_io=quantized.int8_io)
    exported = open_model(model, opened)
    check_trained(exported, float16=float16, int8=quantized.int8)
    options = _images(exported, quantized, run_of(model, opened), int8_io=quantized.int8_io)
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


def _check_int8(quantized: InInt8) -> None:
    """See that the options go together, before anything is loaded.

    Raises:
        ValueError: int8 without images to calibrate on, or what int8 alone has without it.
    """
    if quantized.int8 and quantized.calibration is None:
        raise ValueError('int8=True needs images to find the ranges of the activations on: give calibration=...')
    for name, value in vars(quantized).items():
        if not quantized.int8 and value not in (None, False):
            raise ValueError(f'{name}=... goes with int8=True')


def _images(
    model: 'Model', quantized: InInt8, run: 'RunDescription | None', *, int8_io: bool = False
) -> dict[str, Any]:
    """The exporter's `int8` and `images`, where the file is to be in int8; of a run trained for it its own images."""
    from flaxmobile.export import Int8
    from flaxmobile.export.calibration import read_images
    from flaxmobile.quantization.training import LEAST_IMAGES

    if run is not None and run.config.quantization.qat:
        with contextlib.suppress(OSError, ValueError):  # It may be on another machine by now.
            own = read_images(run.config.dataset, model.preprocessing, LEAST_IMAGES, run.config.data_dir)
            return {'images': own[1]} if len(own[1]) else {}
    if quantized.calibration is None:
        return {}
    read = read_images(quantized.calibration, model.preprocessing, _count(quantized), quantized.data_dir)
    calibrated, others = read
    int8 = Int8(calibrated, quantized.observer, int8_io)
    return {'int8': int8, 'images': others if len(others) else None}


def web(
    model: Positional[ModelName],
    folder: Positional[Annotated[Path, arg(metavar='OUT_DIR', help='Folder to write.')]],
    float16: Annotated[FlagCreatePairsOff[bool], arg(help='float16 weights, half the size.')] = False,
    overwrite: Annotated[FlagCreatePairsOff[bool], arg(help='Replace a page that is there.')] = False,
    quantized: OmitArgPrefixes[InInt8] = IN_FLOAT,
    opened: OmitArgPrefixes[Opened] = AS_IT_IS,
) -> int:
    """Write a page that classifies pictures in the browser by a model: a folder of files for any web server."""
    from flaxmobile.export.int8 import check_trained
    from flaxmobile.export.target import check_weights
    from flaxmobile.export.web import check_page, to_web

    check_page(folder, overwrite=overwrite)
    check_weights(float16=float16, int8=quantized.int8)
    _check_int8(quantized)
    shown = open_model(model, opened)
    check_trained(shown, float16=float16, int8=quantized.int8)
    options = _images(shown, quantized, run_of(model, opened))
    with silent_libraries():
        check = to_web(shown, folder, float16=float16, overwrite=overwrite, **options)
    side = shown.preprocessing.image_size
    print(f'{printable(folder, None)}: {title_of(model, shown, opened)}, {side}x{side} pixels, {_size(check.size)}')
    if check.error is not None:
        print(_compared(check))
    print(f'to see it: python -m http.server --directory {shlex.quote(printable(folder, None))}')
    return 0


def quantize_report(
    model: Positional[ModelName],
    folder: Positional[Annotated[Path, arg(metavar='OUT_DIR', help='Folder to write.')]],
    data: DataName = None,
    split: TestSplit = None,
    trained: Annotated[
        str | None, arg(metavar='MODEL', help='The same network, trained for int8, to be measured too.')
    ] = None,
    overwrite: Annotated[FlagCreatePairsOff[bool], arg(help='Replace a report that is there.')] = False,
    calibrated: OmitArgPrefixes[Calibrated] = BY_TRAINING_IMAGES,
    opened: OmitArgPrefixes[Opened] = AS_IT_IS,
) -> int:
    """Report what float16 and int8 cost a model: accuracy, size, latency, and the error of each activation.

    Without --calibration the ranges of int8 are found on training images.
    """
    from flaxmobile.export.calibration import check_count
    from flaxmobile.export.report import check_report
    from flaxmobile.export.report import quantize_report as make_report
    from flaxmobile.export.report.text import decibels

    check_report(folder, overwrite=overwrite)
    check_count(_count(calibrated))
    measured, run = open_model(model, opened), run_of(model, opened)
    title = title_of(model, measured, opened)
    other = open_model(trained, Opened(image_size=opened.image_size)) if trained else None
    dataset = open_test_data(run, title, data, split, calibrated.data_dir, download=False)
    pixels = _calibration(measured, run, named_data(run, data, title), calibrated)
    with silent_libraries():
        report = make_report(measured, folder, dataset=dataset, calibration=pixels, trained=other, overwrite=overwrite)
    where = f'{dataset.name} ({dataset.split}{drawn_of(dataset)})'
    print(f'{title} on {report.images:,} images of {printable(where, None)}')
    print_table(_files(report))
    worst = ', '.join(f'{printable(each.layer)} {decibels(each)} dB ({each.operation})' for each in report.worst)
    print(f'the worst activations of int8.tflite: {worst}')
    print(f'more, with a picture: {printable(folder / "report.md", None)}')
    return 0


def _count(how: Calibrated) -> int:
    return CALIBRATION_IMAGES if how.calibration_images is None else how.calibration_images


def _calibration(model: 'Model', run: 'RunDescription | None', data: str, how: Calibrated) -> 'np.ndarray':
    """The images to find ranges on; where none are named, the first that are to train on."""
    from flaxmobile.data import load_dataset
    from flaxmobile.export.calibration import SPLIT, first_images, read_images

    count = _count(how)
    if how.calibration is not None:
        return read_images(how.calibration, model.preprocessing, count, how.data_dir)[0]
    config = run.config if run and run.config.dataset == data else None
    data_dir = how.data_dir or (config.data_dir if config else None)
    found = load_dataset(data, config.train_split if config else SPLIT, data_dir=data_dir)
    return first_images(found, model.preprocessing, count)


def _files(report: 'QuantizeReport') -> 'Table':
    from rich.table import Table

    from flaxmobile.export.report.text import COLUMNS, cells

    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, heading in enumerate(COLUMNS):
        table.add_column(heading, justify='right' if number > 1 else 'left', no_wrap=True)
    for file in report.files:
        table.add_row(*cells(file))
    return table


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
    share = f'{check.runtime}: {found.share:.0%} of the operations in int8; '
    if found.held_out is None:
        if found.agreement is None:
            return f'{share}on {found.images:,} images of noise it was compared with the model trained for int8 in JAX'
        told = f'the first answer is that of the model trained for int8 in JAX on {found.agreement:.1%}'
        return f'{share}{told} of {found.images:,} images'
    images = f'{found.images:,} images that it was {"not " if found.held_out else ""}calibrated on'
    if found.agreement is None:
        return f'{share}on {images} it was compared with the model in float32 in JAX'
    return f"{share}the first answer is the float32 model's in JAX on {found.agreement:.1%} of {images}"
