"""From operators to a Core ML package, and what is in it."""

import collections
import contextlib
import importlib.metadata
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxmobile.export.coreml.translation import mil_program, shape_of
from flaxmobile.export.description import KEY, to_json
from flaxmobile.export.operators.writing import Port, Written
from flaxmobile.messages import printable


def version() -> str:
    """Of coremltools."""
    return importlib.metadata.version('coremltools')


def save(
    written: Written, folder: Path, description: Mapping[str, Any], *, labels: Sequence[str] | None, float16: bool
) -> None:
    """Write a package.

    Args:
        written: the operators. Where they take uint8, the package takes images.
        folder: where to write, with the suffix `.mlpackage`; nothing is there yet, nor at `converted` beside it.
        description: what the package says of itself (`describe`).
        labels: of a classifier, whose only output are its probabilities; None of others.
        float16: whether to compute in float16.

    Raises:
        ValueError: see `mil_program`; coremltools cannot write the package, where a disk is full too.
    """
    program = mil_program(written)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # It shows progress there.
            model = _converted(program, written, folder, labels, float16)
            model.short_description = _short(description)
            model.license = description['license'] or ''
            model.version = description['version']
            model.user_defined_metadata[KEY] = to_json(description)
            model.save(str(folder))
    except RuntimeError as error:
        raise ValueError(f'export: coremltools does not write the package: {printable(error)}') from error


def _converted(program: Any, written: Written, folder: Path, labels: Sequence[str] | None, float16: bool) -> Any:
    import coremltools

    (output, *_) = written.outputs
    converted = folder.with_name('converted')  # A folder of its own: what is written may have any name.
    converted.mkdir()
    return coremltools.convert(
        program,
        inputs=[_image(written.images)] if written.images.dtype == 'uint8' else None,
        classifier_config=coremltools.ClassifierConfig(list(labels), 'classLabel', output.name) if labels else None,
        convert_to='mlprogram',
        compute_precision=coremltools.precision.FLOAT16 if float16 else coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.iOS15,
        package_dir=str(converted / folder.name),
        skip_model_load=True,
    )


def _image(images: Port) -> Any:
    import coremltools

    shape = shape_of(images)
    layout = {1: 'GRAYSCALE', 3: 'RGB'}[shape[1]]
    return coremltools.ImageType(name=images.name, shape=shape, color_layout=coremltools.colorlayout[layout])


def _short(description: Mapping[str, Any]) -> str:
    """What Xcode shows of a model."""
    made = f'{description["name"] or "A network"} by flaxmobile {description["version"]}'
    return f'{made}, with weights from {description["source"]}' if description['source'] else made


def operations(folder: Path) -> Mapping[str, int]:
    """How often each of MIL's operations is in a package; constants are not counted."""
    import coremltools

    program = coremltools.utils.load_spec(str(folder)).mlProgram
    blocks = [block for each in program.functions.values() for block in each.block_specializations.values()]
    return collections.Counter(each.type for block in blocks for each in block.operations if each.type != 'const')
