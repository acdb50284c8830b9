"""Int8 ONNX files in ONNX Runtime, against the float model and the labels of the images."""

import importlib.metadata
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from fitted_networks import CALIBRATED, COMPARED, calibration, fitted, images, skewed, unseen

from flaxmobile.export import Int8, to_onnx
from flaxmobile.export.onnx.quantization import to_int8

pytestmark = pytest.mark.export

MARGIN = 0.035
"""Of the accuracy that int8 may cost: two standard errors of a difference on 400 images."""


def answers(path: Path, inputs: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return session.run(None, {'image': inputs})[0]


@pytest.mark.parametrize(
    ('family', 'options', 'observer', 'agreement'),
    [
        ('V2', {}, None, 0.9),
        ('V3', {'layout': 'nhwc'}, None, 0.9),
        ('V4 hybrid', {}, None, 0.86),
        ('V2', {'uint8_input': True}, 'extremes', 0.9),
    ],
)
def test_a_file_answers_as_the_float_model(
    family: str,
    options: dict,
    observer: str | None,
    agreement: float,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path, model = tmp_path / 'model.onnx', fitted(family)
    pixels, labels = images('test', 0, COMPARED)
    check = to_onnx(model, path, int8=Int8(calibration(), observer), images=unseen(), **options)
    assert capfd.readouterr().out == ''
    inputs = pixels if options.get('uint8_input') else np.asarray(model.preprocessing.normalize(pixels))
    got = answers(path, inputs if options.get('layout') else inputs.transpose(0, 3, 1, 2))
    wanted = model.predict(pixels, 100).argmax(1)
    assert check.int8.agreement == pytest.approx(np.mean(got.argmax(1) == wanted))
    assert (check.int8.images, check.int8.held_out, check.partitions) == (COMPARED, True, None)
    assert check.int8.agreement >= agreement
    assert np.mean(got.argmax(1) == labels) > np.mean(wanted == labels) - MARGIN
    assert 0.6 < check.int8.share <= 1


def test_weights_are_int8_in_steps_for_each_channel_and_activations_uint8(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    plain, path = tmp_path / 'float.onnx', tmp_path / 'int8.onnx'
    to_onnx(fitted('V1'), plain)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        to_onnx(fitted('V1'), path, int8=Int8(calibration()), images=unseen())
    floats, model = onnx.load(plain), onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    constants = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    originals = [numpy_helper.to_array(each) for each in floats.graph.initializer if len(each.dims) == 4]
    made = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type == 'Conv':
            weights, scales, zero_points = (constants[name] for name in made[node.input[1]].input)
            assert (weights.dtype, zero_points.any()) == (np.int8, False)
            assert scales.shape == weights.shape[:1]
            found.append(weights * scales[:, None, None, None])
        if node.op_type == 'QuantizeLinear':
            assert constants[node.input[2]].dtype == np.uint8
            assert constants[node.input[1]].shape == ()
    assert len(found) == len(originals) == 7
    for weights in found:
        (original,) = (each for each in originals if each.shape == weights.shape and np.abs(each - weights).max() < 0.1)
        steps = np.abs(original).reshape(len(original), -1).max(1) / 127
        assert (np.abs(original - weights) <= 0.501 * steps[:, None, None, None] + 1e-7).all()
    told = {each.key: each.value for each in model.metadata_props}
    assert told.keys() == {each.key for each in floats.metadata_props}
    made_of = json.loads(told['flaxmobile'])['made']
    assert made_of['onnxruntime'] == importlib.metadata.version('onnxruntime')
    assert (made_of['weights'], made_of['observer'], made_of['calibration_images']) == (
        'int8',
        'percentile',
        CALIBRATED,
    )


@pytest.mark.parametrize('observer', ['extremes', 'percentile'])
def test_the_scale_of_an_activation_is_the_observer_s(observer: str, tmp_path: Path) -> None:
    """Of the input, to the width of a bin; 'percentile' is one of the absolute values."""
    import onnx
    from onnx import numpy_helper

    to_onnx(fitted('V1'), tmp_path / 'float.onnx')
    values = skewed().astype(np.float64)
    made = to_int8(onnx.load(tmp_path / 'float.onnx'), values.astype(np.float32), observer, 'nchw')
    constants = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer}
    (first,) = (node for node in made.graph.node if node.input[0] == 'image')
    most = np.percentile(np.abs(values), 99.99, method='higher') if observer == 'percentile' else values.max()
    wanted = (min(most, values.max()) - max(-most, values.min())) / 255
    assert float(constants[first.input[1]]) == pytest.approx(wanted, abs=values.max() / 2048 / 255)


def test_a_missing_runtime_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__('sys').modules, 'onnxruntime', None)
    monkeypatch.setitem(__import__('sys').modules, 'onnxruntime.quantization', None)
    with pytest.raises(ModuleNotFoundError, match='needs the package onnxruntime: pip install onnxruntime'):
        to_onnx(fitted('V1'), tmp_path / 'model.onnx', int8=Int8(calibration()))
    assert list(tmp_path.iterdir()) == []
