"""Say what is on pictures by a LiteRT file of flaxmobile's, with neither flaxmobile nor JAX.

    pip install ai-edge-litert numpy pillow
    flaxmobile export MODEL model.tflite
    python classify_with_litert.py model.tflite IMAGE...

All that is needed to use the file lies in it: how images are prepared, and the names of the classes. An app needs to do
what stands here and no more. It reads pictures of 8 bits a colour.
"""

import json
import math
import sys
import zipfile
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

FORMAT = 1
"""Of what a file says of itself."""
RESAMPLING = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}


def description_of(content: bytes) -> dict[str, Any]:
    """What the file says of itself: JSON, in the buffer that its metadata names 'flaxmobile'."""
    model = schema.Model.GetRootAs(content, 0)
    for number in range(model.MetadataLength()):
        entry = model.Metadata(number)
        if entry.Name() == b'flaxmobile':
            description = json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
            if description['format'] != FORMAT:
                raise SystemExit(f'what this file says of itself has format {description["format"]}, not {FORMAT}')
            return description
    raise SystemExit('this LiteRT file says nothing of itself: flaxmobile did not make it')


def labels_of(path: str) -> list[str] | None:
    """The names of the classes, from the zip at the end of the file."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.read('labels.txt').decode().splitlines()


def prepare(path: str, preprocessing: dict[str, Any]) -> np.ndarray:
    """A picture as the network wants it: `[1, size, size, channels]`."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode[0] in 'IF':
        raise SystemExit(f'{path} has more than 8 bits a colour, which is not read here')
    if image.has_transparency_data:
        image = image.convert('RGBA')
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image)
    image = image.convert('L' if preprocessing['channels'] == 1 else 'RGB')
    size = preprocessing['image_size']
    shorter, width, height = math.floor(size / preprocessing['crop_fraction']), image.width, image.height
    columns, rows = (shorter * width // height, shorter) if height < width else (shorter, shorter * height // width)
    image = image.resize((columns, rows), RESAMPLING[preprocessing['interpolation']])
    left, top = round((columns - size) / 2), round((rows - size) / 2)
    pixels = np.asarray(image)[top : top + size, left : left + size].reshape(1, size, size, -1)
    if preprocessing['normalized_inside']:
        return pixels
    mean, std = (np.array(preprocessing[name], np.float32) for name in ('mean', 'std'))
    return (pixels.astype(np.float32) / 255 - mean) / std


def probabilities(interpreter: Interpreter, image: np.ndarray, output: str) -> np.ndarray:
    """The probability of each class."""
    runner = interpreter.get_signature_runner('serving_default')
    given, answered = runner.get_input_details()['image'], runner.get_output_details()[output]
    if given['dtype'] is np.int8:
        scale, zero_point = given['quantization']
        image = np.clip(np.rint(image / scale) + zero_point, -128, 127).astype(np.int8)
    (answer,) = runner(image=image)[output].astype(np.float64)
    if answered['dtype'] is np.int8:
        scale, zero_point = answered['quantization']
        answer = scale * (answer - zero_point)
    if output == 'probabilities':
        return answer
    powers = np.exp(answer - answer.max())
    return powers / powers.sum()


def classify(path: str, image: str, top: int = 5) -> list[tuple[int, str, float]]:
    """Index, name and probability of the most probable classes of a picture, the best first."""
    with open(path, 'rb') as file:
        content = file.read()
    description, labels = description_of(content), labels_of(path)
    if description['task'] != 'classification':
        raise SystemExit(f'{path} tells no classes apart: its output is {", ".join(description["outputs"])}')
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    (output,) = description['outputs']
    found = probabilities(interpreter, prepare(image, description['preprocessing']), output)
    order = np.argsort(-found, kind='stable')[:top].tolist()
    return [(index, labels[index] if labels else f'class {index}', float(found[index])) for index in order]


def main() -> None:
    """Print the five most probable classes of each picture."""
    if len(sys.argv) < 3:
        raise SystemExit('usage: python classify_with_litert.py MODEL.tflite IMAGE...')
    path, *images = sys.argv[1:]
    for image in images:
        print(image)
        for _, name, probability in classify(path, image):
            print(f'  {probability:6.1%}  {name}')


if __name__ == '__main__':
    main()
