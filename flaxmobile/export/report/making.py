"""The report: files are written, run over the images and timed, and the activations of two of them compared."""

from pathlib import Path

import numpy as np

from flaxmobile.data import Dataset
from flaxmobile.drawing import png
from flaxmobile.export.calibration import COMPARED, first_images
from flaxmobile.export.report.activations import activation_errors
from flaxmobile.export.report.files import FILES, check_trained, write_files
from flaxmobile.export.report.measuring import judge, time_files
from flaxmobile.export.report.picture import activation_picture
from flaxmobile.export.report.results import ExportedFile, QuantizeReport
from flaxmobile.export.report.text import PICTURE, TEXT, as_markdown
from flaxmobile.files import check_folder_of, whole_folder, write_whole
from flaxmobile.weights import Model
from flaxmobile.weights.class_names import label_positions


def quantize_report(
    model: Model,
    folder: str | Path,
    *,
    dataset: Dataset,
    calibration: np.ndarray,
    trained: Model | None = None,
    overwrite: bool = False,
) -> QuantizeReport:
    """Report what float16 and int8 cost a model: accuracy, size, latency, and the error of each activation.

    It writes the files of `to_litert`, and of `to_onnx` where `onnx` and `onnxruntime` are installed, in float32, in
    float16 (LiteRT alone) and in int8, runs each image by image, and writes `report.md` with a picture beside them: all
    of the folder, or nothing.

    Args:
        model: in float32.
        folder: to write.
        dataset: the labelled images to measure on; the model should not have been trained on them.
        calibration: pixels to find the ranges on, uint8 `[images, height, width, channels]`, see `Int8`.
        trained: the same network trained for int8; None: none is compared.
        overwrite: replace a report that is there.

    Returns:
        What was measured.

    Raises:
        FileExistsError: `folder` is there, and `overwrite` is not set, or it holds other files than a report's.
        ModuleNotFoundError: the packages of `flaxmobile[litert]` are not installed.
        ValueError: the model does not know classes of `dataset`, or no image of it can be read; `trained` has other
            classes or takes other images; `trained` is in float32, or the model is not; see `to_litert` and `to_onnx`.
    """
    folder = Path(folder)
    check_report(folder, overwrite=overwrite)
    check_trained(trained, model)
    positions = label_positions(dataset.classes, model.labels)
    observed = first_images(dataset, model.preprocessing, COMPARED)
    inputs = np.asarray(model.preprocessing.normalize(observed))
    with whole_folder(folder, overwrite=overwrite) as made:
        made.mkdir()
        written = write_files(model, made, calibration, observed, trained)
        times = time_files(written, inputs[0])
        judged = judge(written, dataset, model.preprocessing, positions, calibration)
        float32, int8 = (made / f'{kind}.tflite' for kind in ('float32', 'int8'))
        errors = activation_errors(float32.read_bytes(), int8.read_bytes(), inputs)
        files = tuple(
            ExportedFile(folder / path.name, each.runtime, path.stat().st_size, *judged.shares[path], *times[path])
            for path, each in written.items()
        )
        report = QuantizeReport(folder, judged.images, len(calibration), judged.seen, len(observed), files, errors)
        write_whole(made / PICTURE, png(activation_picture(report.activations, report.worst_places)))
        write_whole(made / TEXT, as_markdown(report, model, dataset))
    return report


def check_report(folder: str | Path, *, overwrite: bool = False) -> None:
    """See that a report may be written there, before anything costly.

    Raises:
        FileExistsError: see `check_folder_of`: what is there may hold a report's files alone.
    """
    check_folder_of(folder, {TEXT, PICTURE, *FILES}, 'report', overwrite=overwrite)
