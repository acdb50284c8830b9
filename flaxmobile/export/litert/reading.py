"""What a LiteRT file says of itself."""

from typing import Any

from flaxmobile.export.description import KEY, from_json
from flaxmobile.export.extras import needed


def read_description(content: bytes) -> dict[str, Any]:
    """The description in a LiteRT file, see `export.description.describe`.

    Raises:
        ModuleNotFoundError: litert-converter is not installed.
        ValueError: there is none in it, or one of another format number.
    """
    schema = needed('litert_converter.schema_py_generated', 'LiteRT', 'litert')
    model = schema.Model.GetRootAs(content, 0)
    for number in range(model.MetadataLength()):
        entry = model.Metadata(number)
        if entry.Name() == KEY.encode():
            return from_json(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
    raise ValueError('the LiteRT file says nothing of itself: flaxmobile did not make it')
