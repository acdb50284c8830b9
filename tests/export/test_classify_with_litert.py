"""The example that reads a LiteRT file alone, beside JAX, where neither JAX nor this library can be imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pictures import PICTURES, assert_same_answers, classifier, five_best, picture

from flaxmobile.export import to_litert

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
