"""The metadata of a LiteRT file: the flatbuffer that MediaPipe and Android's ImageClassifier read, and the labels.

The flatbuffer's tables and the numbers of their fields are those of TFLite's `metadata_schema.fbs`, version 1.5.0.
"""

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flaxmobile.export.extras import needed
from flaxmobile.messages import printable

MODEL_METADATA = 'TFLITE_METADATA'
"""Under what name a LiteRT file holds the flatbuffer."""
IDENTIFIER = b'M001'
"""How such a flatbuffer begins, at its fifth byte."""
LEAST_PARSER = '1.0.0'
"""The first version of the schema with all that is written here."""
LABELS = 'labels.txt'
"""The file of labels in the zip."""
COLOR_SPACES = {'RGB': 1, 'grey': 2}
"""`ColorSpaceType`."""
FEATURES, IMAGE = 1, 2
"""`ContentProperties`."""
NORMALIZATION = 1
"""`ProcessUnitOptions`."""
AXIS_LABELS = 2
"""`AssociatedFileType.TENSOR_AXIS_LABELS`."""


def check_labels(labels: Sequence[str] | None) -> Sequence[str] | None:
    """Labels fit for a file of one a line.

    Raises:
        ValueError: one of them has a line break in it, or is empty.
    """
    for number, label in enumerate(labels or ()):
        if label.splitlines() != [label]:
            raise ValueError(
                f'label {number} is {printable(repr(label))}: a LiteRT file has its labels one a line, so a label '
                'has to be one line of text'
            )
    return labels


def with_labels(content: bytes, labels: Sequence[str] | None) -> bytes:
    """A LiteRT file with its labels in a zip at its end, uncompressed as readers want it; as it is without labels."""
    if labels is None:
        return content
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, 'a', zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS), ''.join(f'{label}\n' for label in labels))
    return file.getvalue()


def model_metadata(description: Mapping[str, Any]) -> bytes:
    """The metadata flatbuffer of a file that `export.description.describe` describes."""
    tables = _Tables()
    image = _image_tensor(tables, description['preprocessing'])
    (output,) = description['outputs']
    answer = _output_tensor(tables, output, description['labels'] is not None)
    graph = tables.add({2: tables.list([image]), 3: tables.list([answer])})
    name, license = description['name'], description['license']
    root = tables.add(
        {
            0: tables.text(name) if name else None,
            1: tables.text(_sentence(description)),
            3: tables.list([graph]),
            5: tables.text(license) if license else None,
            7: tables.text(LEAST_PARSER),
        }
    )
    return tables.finish(root)


def _sentence(description: Mapping[str, Any]) -> str:
    own = description['preprocessing']
    return (
        f'Made by flaxmobile {description["version"]}. Resize the {own["resize"]} to {own["resized_side"]} pixels '
        f'({own["interpolation"]}, antialiased), then crop the central {own["image_size"]} x {own["image_size"]}'
    )


def _image_tensor(tables: '_Tables', preprocessing: Mapping[str, Any]) -> int:
    side, order = preprocessing['image_size'], preprocessing['channel_order']
    size = tables.add({0: ('Uint32', side), 1: ('Uint32', side)})
    properties = tables.add({0: ('Int8', COLOR_SPACES[order]), 1: size})
    content = tables.add({0: ('Uint8', IMAGE), 1: properties})
    if preprocessing['normalized_inside']:
        mean, std = [0.0], [1.0]
    else:  # They count pixels from 0 to 255, and we from 0 to 1.
        mean, std = ([255 * value for value in preprocessing[name]] for name in ('mean', 'std'))
    options = tables.add({0: tables.floats(mean), 1: tables.floats(std)})
    unit = tables.add({0: ('Uint8', NORMALIZATION), 1: options})
    about = f'The image, {order}, {side} pixels a side'
    return tables.add({0: tables.text('image'), 1: tables.text(about), 3: content, 4: tables.list([unit])})


def _output_tensor(tables: '_Tables', name: str, labelled: bool) -> int:
    content = tables.add({0: ('Uint8', FEATURES), 1: tables.add({})})
    files = None
    if labelled:
        about = tables.text('The names of the classes, in the order of the output')
        files = tables.list([tables.add({0: tables.text(LABELS), 1: about, 2: ('Int8', AXIS_LABELS)})])
    return tables.add({0: tables.text(name), 3: content, 6: files})


Field = int | tuple[str, int] | None
"""Where a table, a text or a list lies; the type and value of a number; or nothing."""


class _Tables:
    """A flatbuffer, written from the leaves to the root."""

    def __init__(self) -> None:
        flatbuffers = needed('flatbuffers', 'LiteRT', 'litert')
        self._builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        return int(self._builder.CreateString(value))

    def floats(self, values: Sequence[float]) -> int:
        return self._vector(self._builder.PrependFloat32, values)

    def list(self, tables: Sequence[int]) -> int:
        return self._vector(self._builder.PrependUOffsetTRelative, tables)

    def _vector(self, prepend: Callable[[Any], None], values: Sequence[Any]) -> int:
        self._builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            prepend(value)
        return int(self._builder.EndVector())

    def add(self, fields: Mapping[int, Field]) -> int:
        """A table of fields by their numbers in the schema."""
        self._builder.StartObject(max(fields, default=-1) + 1)
        for number, field in fields.items():
            if isinstance(field, tuple):
                getattr(self._builder, f'Prepend{field[0]}Slot')(number, field[1], 0)
            elif field is not None:
                self._builder.PrependUOffsetTRelativeSlot(number, field, 0)
        return int(self._builder.EndObject())

    def finish(self, root: int) -> bytes:
        self._builder.Finish(root, IDENTIFIER)
        return bytes(self._builder.Output())
