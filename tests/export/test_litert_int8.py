"""Int8 LiteRT files in LiteRT's interpreter, against the float model and the labels of the images."""

import collections
import dataclasses
import functools
import importlib.metadata
import io
import itertools
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fitted_networks import CALIBRATED, COMPARED, NETWORKS, calibration, fitted, images, skewed, unseen
from small_networks import SIZE, small
from tflite_reader import Table, metadata, root

from flaxmobile.export import Int8, to_litert
from flaxmobile.export.litert.graph import Operation, Tensor
from flaxmobile.export.litert.points import float_operations, int8_share
from flaxmobile.export.litert.quantization import to_int8

pytestmark = pytest.mark.export

AGREEMENT = {'V1': 0.93, 'V2': 0.9, 'V3': 0.9, 'V4': 0.9, 'V4 hybrid': 0.87}
"""Of the first answers with the float model's, on images that neither fit nor calibration saw."""
MARGIN = 0.035
"""Of the accuracy on those images that int8 may cost: two standard errors of a difference on 400 images."""
INT8, FLOAT32 = 9, 0
"""Of `TensorType` in LiteRT's schema."""
CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED = 3, 4, 9
"""Of `BuiltinOperator`."""
CHANNELS = {CONV_2D: 0, DEPTHWISE_CONV_2D: 3, FULLY_CONNECTED: 0}
"""The axis of the output channels in an operation's weights."""


@functools.cache
def written(family: str, folder: Path) -> tuple[Path, object]:
    path = folder / f'{family}.tflite'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        return path, to_litert(fitted(family), path, int8=Int8(calibration()), images=unseen())


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('files')


def interpreted(path: Path, inputs: np.ndarray) -> tuple[np.ndarray, dict, dict, list]:
    """Answers as they come out, the details of input and output, and the operations that are run."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner('serving_default')
    answers = np.concatenate([next(iter(runner(image=image[None]).values())) for image in inputs])
    (given,), (answered,) = interpreter.get_input_details(), interpreter.get_output_details()
    return answers, given, answered, interpreter._get_ops_details()


def normalised(family: str, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(fitted(family).preprocessing.normalize(pixels))


@pytest.mark.parametrize('family', NETWORKS)
def test_a_file_answers_as_the_float_model_and_is_one_piece(family: str, folder: Path) -> None:
    path, check = written(family, folder)
    pixels, labels = images('test', 0, COMPARED)
    answers, given, answered, operations = interpreted(path, normalised(family, pixels))
    probabilities = fitted(family).predict(pixels, 100)
    agreement = np.mean(answers.argmax(1) == probabilities.argmax(1))
    assert check.int8.agreement == pytest.approx(agreement)
    assert (check.int8.images, check.int8.held_out) == (COMPARED, True)
    assert agreement >= AGREEMENT[family]
    float_accuracy, accuracy = (np.mean(each.argmax(1) == labels) for each in (probabilities, answers))
    assert accuracy > float_accuracy - MARGIN
    assert given['dtype'] is answered['dtype'] is np.float32
    pieces = [operation for operation in operations if operation['op_name'] == 'DELEGATE']
    assert check.partitions == len(pieces) == 1
    # From the input to the output nothing is outside of the piece.
    assert given['index'] in pieces[0]['inputs']
    assert answered['index'] in pieces[0]['outputs']
    names = collections.Counter(operation['op_name'] for operation in operations if operation not in pieces)
    assert check.operations == names
    assert ('HARD_SWISH' in names) == (family == 'V3')
    assert ('SOFTMAX' in names) == (family == 'V4 hybrid')
    assert check.int8.share == 1 or family in ('V3', 'V4 hybrid')
    assert check.int8.share > 0.7


def quantized_weights(content: bytes) -> list[tuple[int, str, list[float], list[int], int]]:
    """Operation, name, scales, zero points and axis of all weights in int8."""
    model = root(content, b'TFL3')
    codes = [max(code.number(0, '<b'), code.number(3, '<i')) for code in model.tables(1)]
    (graph,) = model.tables(2)
    tensors, found = graph.tables(0), []
    for operation in graph.tables(3):
        code = codes[operation.number(0, '<I')]
        if code in CHANNELS:
            weights = tensors[operation.numbers(1, 'i')[1]]
            assert weights.number(1, '<b') == INT8
            scale: Table = weights.table(4)
            numbers = scale.floats(2), scale.numbers(3, 'q'), scale.number(6, '<i')
            found.append((code, weights.text(3) or '', *numbers))
    return found


@pytest.mark.parametrize('family', ['V2', 'V4 hybrid'])
def test_weights_have_a_scale_for_each_output_channel(family: str, folder: Path) -> None:
    """That of the channel's largest weight at 127, of the weights in the float file."""
    from ai_edge_litert.interpreter import Interpreter

    path, _ = written(family, folder)
    plain = folder / 'float.tflite'
    to_litert(fitted(family), plain, overwrite=True)
    interpreter = Interpreter(str(plain), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    places = {detail['name']: detail['index'] for detail in interpreter.get_tensor_details()}
    found = quantized_weights(path.read_bytes())
    assert {code for code, *_ in found} == set(CHANNELS)
    for code, name, scales, zero_points, axis in found:
        weights = np.moveaxis(interpreter.get_tensor(places[name]), CHANNELS[code], 0)
        largest = np.abs(weights.reshape(len(weights), -1)).max(1)
        assert axis == CHANNELS[code]
        assert set(zero_points) == {0}
        np.testing.assert_allclose(scales, np.maximum(largest, 1e-9) / 127, rtol=1e-5)


def test_activations_cover_the_extremes_of_the_calibration(folder: Path) -> None:
    path, _ = written('V2', folder)
    values = normalised('V2', calibration())
    _, _, _, operations = interpreted(path, values[:1])
    (first,) = (operation for operation in operations if operation['op_name'] == 'QUANTIZE')
    from ai_edge_litert.interpreter import Interpreter

    details = {detail['index']: detail for detail in Interpreter(str(path)).get_tensor_details()}
    scale, zero_point = details[first['outputs'][0]]['quantization']
    assert scale == pytest.approx((values.max() - min(values.min(), 0)) / 255, rel=1e-5)
    assert zero_point == round(-128 - values.min() / scale)


@pytest.mark.parametrize(
    ('options', 'int8_io', 'types'),
    [
        ({'uint8_input': True, 'softmax': True}, False, (np.uint8, np.float32)),
        ({}, True, (np.int8, np.int8)),
        ({'uint8_input': True}, True, (np.uint8, np.int8)),
    ],
)
def test_input_and_output_have_the_type_asked_for(options: dict, int8_io: bool, types: tuple, tmp_path: Path) -> None:
    path, pixels, int8 = tmp_path / 'model.tflite', unseen(), Int8(calibration(), int8_io=int8_io)
    check = to_litert(fitted('V3'), path, int8=int8, images=pixels, **options)
    given, answered = interpreted(path, pixels[:1].astype(types[0]))[1:3]
    assert (given['dtype'], answered['dtype']) == types
    said = json.loads(metadata(path.read_bytes())['flaxmobile'])
    assert [said['input_type'], said['output_type']] == [np.dtype(each).name for each in types]
    inputs = pixels
    if types[0] is np.int8:
        scale, zero_point = given['quantization']
        inputs = np.clip(np.round(normalised('V3', pixels) / scale) + zero_point, -128, 127).astype(np.int8)
    answers = interpreted(path, inputs)[0]
    agreement = np.mean(answers.argmax(1) == fitted('V3').predict(pixels, 100).argmax(1))
    assert check.partitions == 1
    assert agreement == pytest.approx(check.int8.agreement, abs=0.01)  # Equal int8 numbers are ties.
    assert agreement >= AGREEMENT['V3'] - 0.02
    if options.get('softmax'):
        np.testing.assert_allclose(answers.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize('family', ['v3', 'v4 hybrid'])
def test_a_whole_network_is_one_piece(family: str, tmp_path: Path) -> None:
    """Of random weights, whose hybrid's maps grow until XNNPACK would add some of them in float32 alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, SIZE, SIZE, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*its first answer is')
        warnings.filterwarnings('error', message='.*XNNPACK')
        check = to_litert(small(family), tmp_path / 'model.tflite', int8=Int8(pixels))
    assert check.partitions == 1
    assert (check.int8.images, check.int8.held_out) == (16, False)
    assert check.int8.share > 0.8


def least_squares(values: np.ndarray) -> float:
    """The scale of the 256 numbers nearest to the values, among shares of both extremes."""
    shares, found = np.linspace(1, 0.05, 20), []
    for low, high in itertools.product(values.min() * shares, values.max() * shares):
        scale = (high - low) / 255
        zero = np.round(-128 - low / scale)
        back = (np.clip(np.round(values / scale) + zero, -128, 127) - zero) * scale
        found.append((np.square(back - values).sum(), scale))
    return min(found)[1]


@pytest.mark.parametrize('observer', ['extremes', 'percentile', 'mse'])
def test_the_scale_of_an_activation_is_the_observer_s(observer: str, tmp_path: Path) -> None:
    """Of the input, to the width of a bin at either end."""
    from ai_edge_litert.interpreter import Interpreter

    to_litert(fitted('V1'), tmp_path / 'float.tflite')
    values, asked = skewed(), Int8(calibration(), observer, int8_io=True)
    made = to_int8((tmp_path / 'float.tflite').read_bytes(), values, asked)
    scale, _ = Interpreter(model_content=made).get_input_details()[0]['quantization']
    values = values.astype(np.float64)
    if observer == 'percentile':
        low, high = np.quantile(values, [0.5e-4, 1 - 0.5e-4], method='higher')
        wanted = (high - low) / 255
    else:
        wanted = np.ptp(values) / 255 if observer == 'extremes' else least_squares(values)
    assert scale == pytest.approx(wanted, abs=2 * np.ptp(values) / 2048 / 255)


@pytest.mark.parametrize('observer', ['percentile', 'mse'])
def test_other_observers_keep_the_answers(observer: str, tmp_path: Path) -> None:
    int8 = Int8(calibration(), observer)
    check = to_litert(fitted('V1'), tmp_path / 'model.tflite', int8=int8, images=unseen())
    assert check.int8.agreement >= AGREEMENT['V1']


def test_a_file_says_what_it_is(folder: Path) -> None:
    path, _ = written('V1', folder)
    content = path.read_bytes()
    held = metadata(content)
    said = json.loads(held['flaxmobile'])
    made = said['made']
    assert (said['input_type'], said['output_type']) == ('float32', 'float32')
    assert made['litert-quantizer'] == importlib.metadata.version('litert-quantizer')
    assert (made['weights'], made['observer'], made['calibration_images']) == ('int8', 'extremes', CALIBRATED)
    assert held['TFLITE_METADATA'][4:8] == b'M001'
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.read('labels.txt').decode().splitlines() == list(fitted('V1').labels or ())


def test_a_network_without_classes_is_compared_by_its_error(tmp_path: Path) -> None:
    whole = fitted('V1')
    params = {name: leaves for name, leaves in whole.variables['params'].items() if name != 'classifier'}
    variables = {**whole.variables, 'params': params}
    bare = dataclasses.replace(
        whole, module=whole.module.clone(num_classes=0), variables=variables, labels=None, task=None
    )
    check = to_litert(bare, tmp_path / 'model.tflite', int8=Int8(calibration()), images=unseen()[:20])
    assert check.int8.agreement is None
    assert check.int8.images == 20
    assert 0 < check.error < 0.2


def tensor(name: str, constant: bool = False) -> Tensor:
    return Tensor(name, 'FLOAT32', constant)


def test_what_stays_float_by_hand() -> None:
    graph = [
        Operation('CAST', (tensor('image'),), (tensor('cast'),)),
        Operation('MUL', (tensor('cast'), tensor('c', True)), (tensor('normal'),)),
        Operation('CONV_2D', (tensor('normal'), tensor('w', True)), (tensor('conv'),)),
        Operation('HARD_SWISH', (tensor('conv'),), (tensor('swish'),)),
        Operation('MUL', (tensor('swish'), tensor('conv')), (tensor('gate'),)),
        Operation('ADD', (tensor('gate'), tensor('d', True)), (tensor('near'),)),
        Operation('ADD', (tensor('gate'), tensor('e', True)), (tensor('far'),)),
    ]
    # 1 to 1/1000 can be added, 1 to 1/1025 cannot: 2**-10 is the least.
    ranges = dict.fromkeys(('gate', 'near', 'far'), (0.0, 1.0)) | {'d': (0.0, 1 / 1000), 'e': (0.0, 1 / 1025)}
    left = float_operations(graph, ranges)
    assert [operation.outputs[0].name for operation in left] == ['normal', 'swish', 'far']


def test_the_share_counts_no_conversion() -> None:
    int8 = Tensor('a', 'INT8', False)
    graph = [Operation(kind, (int8,), (int8,)) for kind in ('QUANTIZE', 'CONV_2D', 'CONV_2D', 'MEAN')]
    graph += [Operation('DEQUANTIZE', (int8,), (tensor('b'),)), Operation('SOFTMAX', (tensor('b'),), (tensor('c'),))]
    assert int8_share(graph) == 0.75
