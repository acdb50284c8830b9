"""The `.jax` file in a process that has JAX and not this library."""

import dataclasses
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from fitted_networks import ShortHybrid
from flax import linen as nn
from small_networks import LABELS, SIZE, small

from benchmarks.random_variables import random_variables
from flaxmobile.data import Preprocessing
from flaxmobile.export import to_jax
from flaxmobile.export.jax_artifact import serialize
from flaxmobile.export.program import make_program
from flaxmobile.weights import Model

PLAIN_JAX = """
import json, sys, zipfile
sys.modules['flaxmobile'] = sys.modules['flax'] = None  # To import either raises ImportError.
import jax, numpy as np

file = zipfile.ZipFile(sys.argv[1])
program = jax.export.deserialize(bytearray(file.read('program')))
images = np.load(sys.argv[2])
(answers,) = jax.jit(program.call)(images)
alone = np.concatenate([program.call(image[None])[0] for image in images])
np.save(sys.argv[3], np.stack([answers, alone]))
print(json.dumps([program.platforms, json.loads(file.read('description.json'))]))
try:
    import flaxmobile
except ImportError:
    print('alone')
"""


def test_plain_jax_runs_a_file(tmp_path: Path) -> None:
    model, path = small('short'), tmp_path / 'model.jax'
    check = to_jax(model, path, uint8_input=True, softmax=True)
    assert (check.error < 5e-5, check.runtime, check.operations) == (True, f'jax {jax.__version__}', {})
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    np.save(tmp_path / 'pixels.npy', pixels)
    words = [sys.executable, '-c', PLAIN_JAX, path, tmp_path / 'pixels.npy', tmp_path / 'answers.npy']
    printed = subprocess.check_output(words, text=True, timeout=300, cwd=tmp_path).splitlines()
    platforms, description = json.loads(printed[0])
    assert printed[1] == 'alone'
    assert platforms == ['cpu', 'cuda', 'tpu']
    assert description['labels'] == list(LABELS)
    assert description['preprocessing']['normalized_inside'] is True
    mean, std = (np.asarray(values, np.float32) for values in (model.preprocessing.mean, model.preprocessing.std))
    logits = jax.jit(model.module.apply)(model.variables, (pixels / np.float32(255) - mean) / std)
    for answers in np.load(tmp_path / 'answers.npy'):
        np.testing.assert_allclose(answers, jax.nn.softmax(logits), atol=1e-5)


def test_products_and_convolutions_are_in_float32_everywhere() -> None:
    """Attention's too. JAX's own default takes bfloat16 on TPUs."""
    network = ShortHybrid(width_multiplier=0.25, num_classes=len(LABELS))
    variables = random_variables(network, (1, SIZE, SIZE, 3))
    program = make_program(Model(network, variables, Preprocessing(SIZE)), standard=False)
    lines = jax.export.deserialize(bytearray(serialize(program))).mlir_module().splitlines()
    found = [line for line in lines if 'stablehlo.dot_general' in line or 'stablehlo.convolution' in line]
    assert {line.count('stablehlo.convolution') for line in found} == {0, 1}
    assert [line for line in found if line.count('HIGHEST') != 2] == []


class ByLength(nn.Module):
    """A network that is written for a number of images that is known."""

    num_classes: int = len(LABELS)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return images.reshape(len(images), -1)[:, : self.num_classes]


def test_a_network_for_a_known_number_of_images_is_refused(tmp_path: Path) -> None:
    model = dataclasses.replace(small('short'), module=ByLength(), variables={}, name='', overrides={})
    with pytest.raises(ValueError, match=r'^export: the network cannot be traced for any number of images') as caught:
        to_jax(model, tmp_path / 'model.jax')
    assert len(str(caught.value)) < 350
    assert list(tmp_path.iterdir()) == []


def test_a_file_holds_no_more_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / 'model.jax'
    size = to_jax(small('short'), path).size
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(small('short').variables['params']))
    assert size == path.stat().st_size < 1.2 * weights
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ['program', 'description.json']
        program = jax.export.deserialize(bytearray(file.read('program')))
    assert [str(each) for each in program.in_avals] == ['float32[batch,48,48,3]']
    assert [str(each) for each in program.out_avals] == ['float32[batch,5]']
