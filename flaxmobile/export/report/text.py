"""A report on quantisation as Markdown."""

import platform

from flaxmobile.data import Dataset
from flaxmobile.export.report.measuring import ROUNDS
from flaxmobile.export.report.results import ActivationError, ExportedFile, QuantizeReport
from flaxmobile.markdown import code, literal, table
from flaxmobile.weights import Model

TEXT, PICTURE = 'report.md', 'activations.png'
"""The files of a report besides the models'."""
COLUMNS = ('file', 'runtime', 'accuracy', "float32's first answer", 'MB', 'ms', "of float32's time")
"""What is told of a file."""


def as_markdown(report: QuantizeReport, model: Model, dataset: Dataset) -> str:
    """The text of a report's `report.md`."""
    title = f'# {literal(model.title)}: what float16 and int8 cost'
    files = table(COLUMNS, ([code(name), *others] for name, *others in map(cells, report.files)))
    activations = table(
        ('activation', 'made by', 'kept as', 'SQNR, dB'),
        ([code(each.layer), each.operation, each.type, decibels(each)] for each in report.activations),
    )
    worst = ', '.join(f'{code(each.layer)} {decibels(each)} dB ({each.operation})' for each in report.worst)
    return (
        f'{title}\n\n{_images(report, dataset)}\n\n{files}\n\n{_times()}\n\n## Error of each activation\n\n'
        f'{_errors(report)}\n\nThe worst: {worst}.\n\n![SQNR of each activation]({PICTURE})\n\n{activations}\n'
    )


def cells(file: ExportedFile) -> tuple[str, ...]:
    """What is told of a file, under `COLUMNS`."""
    times, ratio = file.times, file.ratio
    return (
        file.path.name,
        file.runtime,
        f'{file.accuracy:.2%}',
        f'{file.agreement:.2%}',
        f'{file.size / 1e6:.2f}',
        f'{times.median:.3g} ({times.lower:.3g} - {times.upper:.3g})',
        f'{ratio.median:.2f} ({ratio.lower:.2f} - {ratio.upper:.2f})',
    )


def decibels(error: ActivationError) -> str:
    """The SQNR of an activation."""
    return f'{error.sqnr:.1f}'


def _images(report: QuantizeReport, dataset: Dataset) -> str:
    told = (
        f'Measured on {report.images:,} images of {literal(f"{dataset.name} ({dataset.split})")}, which each file '
        f'answered one by one. The standard error of the first accuracy is {report.standard_error:.2%}. The ranges of '
        f'{code("int8")} were found on {report.calibration_images:,} images'
    )
    if report.seen:
        return f'{told}; {report.seen:,} of those measured on are among them.'
    return f'{told}, none of them among these.'


def _times() -> str:
    return (
        f'Times are processor time of one image on one thread, the median and the quartiles of {ROUNDS} calls in turn, '
        f'on {platform.system()} {platform.machine()}. Ratios are to the float32 file of the same runtime.'
    )


def _errors(report: QuantizeReport) -> str:
    return (
        f'The activations of {code("int8.tflite")} beside those of {code("float32.tflite")} on the first '
        f'{report.observed_images:,} images. SQNR is the signal to quantisation noise ratio, '
        f'{code("10 log10(sum of x^2 / sum of (x - x_int8)^2)")}: less is worse, and 6 dB are a factor of two. Errors '
        "of the layers before are in it. LiteRT's own kernels computed both, as XNNPACK shows no activations."
    )
