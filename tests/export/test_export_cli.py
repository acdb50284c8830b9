"""The command `flaxmobile export`: what it writes, prints and refuses."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from small_networks import SIZE, small

from flaxmobile.cli.common import silent_libraries

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('weights') / 'small.safetensors'
    small('v1').save(path)
    return path


def test_the_command_writes_a_program_for_jax(command: Run, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / 'model.jax'
    status, out, err = command('export', weights, path, '--image-size', 32, '--uint8-input', '--softmax')
    assert (status, err) == (0, '')
    first, second = out.splitlines()
    assert first == f'{path}: tf_mobilenetv1_025 from {weights}, 32x32 pixels, {path.stat().st_size / 1e6:.2f} MB'
    assert second.startswith(f'jax {jax.__version__} answers as the model in float32 in JAX, to ')
    with zipfile.ZipFile(path) as file:
        assert json.loads(file.read('description.json'))['outputs'] == ['probabilities']
        program = jax.export.deserialize(bytearray(file.read('program')))
    pixels = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
    model = small('v1')
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    logits = jax.jit(model.module.apply)(model.variables, (pixels / np.float32(255) - mean) / std)
    np.testing.assert_allclose(program.call(pixels)[0], jax.nn.softmax(logits), atol=1e-5)


@pytest.mark.export
def test_the_command_writes_a_litert_file(command: Run, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / 'model.tflite'
    status, out, err = command('export', weights, path, '--float16')
    assert (status, err) == (0, '')
    first, second, third = out.splitlines()
    assert first.startswith(f'{path}: tf_mobilenetv1_025 from {weights}, {SIZE}x{SIZE} pixels, 0.')
    assert second.startswith('ai-edge-litert ')
    assert second.endswith(' of the largest answer; XNNPACK partitions: 1')
    assert third == '28 DEQUANTIZE, 14 CONV_2D, 13 DEPTHWISE_CONV_2D, 1 FULLY_CONNECTED, 1 PAD, 1 SUM'


@pytest.mark.export
def test_the_command_writes_an_int8_file_by_the_images_of_a_folder(command: Run, weights: Path, tmp_path: Path) -> None:
    path, folder, rng = tmp_path / 'model.tflite', tmp_path / 'photos', np.random.default_rng(0)
    folder.mkdir()
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (60, 60, 3), np.uint8)).save(folder / f'{number}.png')
    status, out, _ = command('export', weights, path, '--int8', '--calibration', folder)
    assert status == 0
    assert ': 100% of the operations in int8; the first answer is ' in out.splitlines()[1]
    assert ' of 4 images that it was not calibrated on, and the largest error ' in out.splitlines()[1]
    assert out.splitlines()[1].endswith('; XNNPACK partitions: 1')
    assert '1 QUANTIZE' in out.splitlines()[2]


@pytest.mark.export
def test_the_command_writes_an_onnx_file(command: Run, weights: Path, tmp_path: Path) -> None:
    status, out, err = command('export', weights, tmp_path / 'model.onnx')
    assert (status, err) == (0, '')
    assert out.splitlines()[1].startswith('onnxruntime ')
    assert out.splitlines()[2].startswith('27 Clip, 27 Conv, ')


@pytest.mark.parametrize(
    ('words', 'wanted'),
    [
        (['model.pb'], "model.pb: the suffix says which format to write, and '.pb' is not among .tflite (LiteRT), "),
        (['model.onnx', '--float16'], 'model.onnx: --float16 goes with a .tflite or .mlpackage file alone'),
        (['model.jax', '--int8', '--calibration', '.'], 'model.jax: --int8 goes with a .tflite or .onnx file alone'),
        (
            ['model.tflite', '--int8'],
            '--int8 needs images to find the ranges of the activations on: give --calibration',
        ),
        (['model.tflite', '--calibration-images', '500'], '--calibration-images goes with --int8'),
        (['model.tflite', '--data-dir', '.'], '--data-dir goes with --int8'),
        (['model.tflite', '--int8', '--calibration', '.'], 'holds no image that can be read'),
        (['there.jax'], 'there.jax is already there: --overwrite replaces it'),
        (['model.jax', '--image-size', '0'], 'image_size must be a whole number from 1 to 16,384, not 0'),
    ],
)
def test_what_the_command_refuses(
    words: list[str], wanted: str, command: Run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path('there.jax').write_bytes(b'')
    status, out, err = command('export', weights, *words)
    assert (status, out) == (2, '')
    assert err.startswith('flaxmobile: ')
    assert wanted in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['there.jax']


def test_a_bad_target_is_said_before_the_model_is_looked_for(command: Run) -> None:
    status, _, err = command('export', 'no_such_model', 'model.pb')
    assert status == 2
    assert "'.pb' is not among" in err


@pytest.mark.parametrize(
    ('words', 'wanted'),
    [
        (['--observer', 'mse'], '--observer mse goes with a .tflite file; for .onnx there are extremes, percentile'),
        (['--int8-io'], '--int8-io goes with a .tflite file alone'),
    ],
)
def test_what_onnx_has_not_is_said_before_the_model_is_looked_for(
    words: list[str], wanted: str, command: Run, tmp_path: Path
) -> None:
    words = ['no_such_model', str(tmp_path / 'a.onnx'), '--int8', '--calibration', '.', *words]
    assert command('export', *words) == (2, '', f'flaxmobile: {wanted}\n')


def test_what_libraries_write_is_kept_off_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    program = """
import os, sys
from flaxmobile.cli.common import silent_libraries
os.write(2, b'one ')
with silent_libraries():
    os.write(2, b'two ')
    print('three ', file=sys.stderr, end='')
os.write(2, b'four ')
print('five', file=sys.stderr, end='')
"""
    done = subprocess.run([sys.executable, '-c', program], stderr=subprocess.PIPE, text=True, check=True, timeout=120)
    assert done.stderr == 'one three four five'
    with silent_libraries():
        os.write(2, b'lost')
    os.write(2, b'shown')
    assert capfd.readouterr().err == 'shown'
