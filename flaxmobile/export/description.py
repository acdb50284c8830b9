"""What an exported file says of itself, as JSON: the same in every format."""

import importlib.metadata
import json
import math
from collections.abc import Mapping
from typing import Any

import jax

from flaxmobile.export.program import Program
from flaxmobile.messages import printable
from flaxmobile.weights import Model

FORMAT = 1
"""The number of what `describe` makes; another number, another set of entries."""
KEY = 'flaxmobile'
"""Under what name a file of any format holds it."""
TRAINED: dict[str, str | int] = {'weights': 'int8', 'ranges': 'trained'}
"""What `made` says of the numbers in a file of a network trained for int8."""
CHANNEL_ORDER = {1: 'grey', 3: 'RGB'}


def describe(model: Model, program: Program, made: Mapping[str, Any], *, int8_io: bool = False) -> dict[str, Any]:
    """What travels inside an exported file, fit for JSON.

    Args:
        model: what is exported.
        program: the function of images that was made of it.
        made: what this file's format adds, as `{'format': 'onnx', 'opset': 17}`.
        int8_io: whether the file takes and answers int8, see `int8.Int8`.

    Returns:
        A dictionary of

        - `format`: `FORMAT`; `version`: flaxmobile's; `made`: as given, with the version of `jax`;
        - `name`: the published weight, or the network; '' where neither is known;
        - `task`: 'classification', or None without classes; `outputs`: names, in the file's order;
        - `input_type` and `output_type`: 'float32', 'uint8' (the input alone) or 'int8'. An int8 number stands for
          `scale * (number - zero_point)`, by the scale and the zero point that the file has beside the tensor; an int8
          input for an image that is normalised already;
        - `labels`: the names of the classes in the order of the logits; None where they are not known;
        - `preprocessing`: `image_size` (pixels), `channels`, `channel_order` ('RGB' or 'grey'), `interpolation`,
          `crop_fraction`; what they amount to: `resize` ('shorter side') to `resized_side` pixels,
          `floor(image_size / crop_fraction)`, with `antialias` (true), then `crop` ('center') to `image_size`; `mean`
          and `std` (pixels counted from 0 to 1), and `normalized_inside`: whether the file takes uint8 pixels and does
          `(pixels / 255 - mean) / std` itself;
        - `license` and `source`: of the published weight and its address, where it is one or its training started from
          one (`Model.started_from`); None where none is known.
    """
    weight, own = model.weight, model.preprocessing
    origin, side, given = weight or model.started_from, int(program.image.shape[1]), str(program.image.dtype)
    return {
        'format': FORMAT,
        'version': importlib.metadata.version('flaxmobile'),
        'made': {'jax': jax.__version__, **made},
        'name': weight.name if weight else model.name,
        'task': model.task,
        'outputs': list(program.outputs),
        'input_type': 'int8' if int8_io and given == 'float32' else given,
        'output_type': 'int8' if int8_io else 'float32',
        'labels': None if model.labels is None else list(model.labels),
        'preprocessing': {
            'image_size': side,
            'channels': own.channels,
            'channel_order': CHANNEL_ORDER[own.channels],
            'interpolation': own.interpolation,
            'crop_fraction': own.crop_fraction,
            'resize': 'shorter side',
            'resized_side': math.floor(side / own.crop_fraction),
            'antialias': True,
            'crop': 'center',
            'mean': list(own.mean),
            'std': list(own.std),
            'normalized_inside': given == 'uint8',
        },
        'license': origin.license if origin else None,
        'source': origin.address if origin else None,
    }


def to_json(description: Mapping[str, Any]) -> str:
    """The text that a file holds under `KEY`, ASCII."""
    return json.dumps(description, allow_nan=False)


def from_json(text: str | bytes) -> dict[str, Any]:
    """What `to_json` wrote.

    Raises:
        ValueError: it is no description, or one of another format number.
    """
    try:
        description = json.loads(text)
    except ValueError as error:
        raise ValueError(f'what the file says of itself is no JSON ({printable(error)})') from error
    number = description.get('format') if isinstance(description, dict) else None
    if number != FORMAT:
        raise ValueError(
            f'what the file says of itself has format {printable(repr(number))}, and this flaxmobile reads {FORMAT}: '
            'export the model again'
        )
    return dict(description)
