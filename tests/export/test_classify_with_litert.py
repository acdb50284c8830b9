"""The example that reads a LiteRT file alone, beside JAX, where neither JAX nor this library can be imported."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fitted_networks import ShortV1, calibration, fitted, images, unseen
from pictures import PICTURES, SIZE, assert_same_answers, classifier, five_best, picture
from PIL import Image

from benchmarks.random_variables import random_variables
from flaxmobile.data import Preprocessing
from flaxmobile.export import Int8, to_litert
from flaxmobile.weights import Model

EXAMPLE = Path(__file__).resolve().parents[2] / 'examples' / 'classify_with_litert.py'
ALONE = """
import json, runpy, sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('jax', 'jaxlib', 'flax', 'flaxmobile'):
            raise ImportError(f'{name} is not to be needed')

sys.meta_path.insert(0, Refused())
example = runpy.run_path(sys.argv[1])
for module in ('jax', 'flaxmobile'):
    try:
        __import__(module)
    except ImportError:
        continue
    raise AssertionError(module)
found = [example['classify'](sys.argv[2], image) for image in sys.argv[3:]]
print(json.dumps(found))
"""


@pytest.mark.export
@pytest.mark.parametrize('inside', [False, True])
def test_the_example_answers_as_jax_without_it(inside: bool, tmp_path: Path) -> None:
    path = tmp_path / 'model.tflite'
    to_litert(classifier(), path, uint8_input=inside, softmax=inside)
    images = [tmp_path / name for name in PICTURES]
    for image in images:
        image.write_bytes(picture(image.name))
    words = [sys.executable, '-c', ALONE, str(EXAMPLE), str(path), *map(str, images)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, timeout=120, cwd=tmp_path)
    for name, found in zip(PICTURES, json.loads(done.stdout), strict=True):
        assert_same_answers([tuple(row) for row in found], name, within=1e-4)

    printed = subprocess.run(
        [sys.executable, str(EXAMPLE), str(path), str(images[0])],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    ).stdout
    lines = [f'  {probability:6.1%}  {name}' for _, name, probability in five_best(images[0].name)]
    assert printed.splitlines() == [str(images[0]), *lines]


@pytest.mark.export
@pytest.mark.parametrize('options', [{}, {'uint8_input': True, 'softmax': True}])
def test_int8_numbers_are_taken_for_what_they_stand_for(options: dict, tmp_path: Path) -> None:
    """As by LiteRT itself, in the same file with float32 outside."""
    classify, found = runpy.run_path(str(EXAMPLE))['classify'], []
    garments = [tmp_path / f'{number}.png' for number in range(6)]
    for path, pixels in zip(garments, images('test', 0, 6)[0], strict=True):
        Image.fromarray(pixels[..., 0]).save(path)
    for int8_io in (True, False):
        path, int8 = tmp_path / f'{int8_io}.tflite', Int8(calibration(), int8_io=int8_io)
        to_litert(fitted('V1'), path, images=unseen()[:50], int8=int8, **options)
        rows = [sorted(classify(str(path), str(garment), top=10)) for garment in garments]
        found.append(np.array([[probability for _, _, probability in row] for row in rows]))
    np.testing.assert_allclose(found[0], found[1], atol=1 / 256 if options else 1e-6)
    assert np.ptp(found[1].max(1)) > 0.2  # They are not all alike.


@pytest.mark.export
def test_what_the_example_cannot_read_is_refused_in_a_line(tmp_path: Path) -> None:
    classify, path = runpy.run_path(str(EXAMPLE))['classify'], tmp_path / 'model.tflite'
    network = ShortV1(width_multiplier=0.25, num_classes=0)
    variables = random_variables(network, (1, SIZE, SIZE, 3))
    to_litert(Model(network, variables, Preprocessing(SIZE), task=None), path)
    with pytest.raises(SystemExit, match=r'model.tflite tells no classes apart: its output is embedding$'):
        classify(str(path), 'no picture')
    content = path.read_bytes()
    assert content.count(b'"format": 1,') == 1
    path.write_bytes(content.replace(b'"format": 1,', b'"format": 2,'))
    with pytest.raises(SystemExit, match=r'^what this file says of itself has format 2, not 1$'):
        classify(str(path), 'no picture')
