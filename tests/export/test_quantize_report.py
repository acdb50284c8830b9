"""The report on quantisation, against LiteRT and ONNX Runtime run by hand and sums in float64."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fitted_networks import calibration, fitted
from PIL import Image

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile.analysis.latency import Times
from flaxmobile.data import Preprocessing, load_dataset
from flaxmobile.data.fashion_mnist import CLASSES
from flaxmobile.export import Int8, QuantizeReport, export, quantize_report
from flaxmobile.export.checks import Session
from flaxmobile.export.litert.graph import Operation, Tensor, read_graph
from flaxmobile.export.report import measuring
from flaxmobile.export.report.activations import COPYING, kept_activations, layer_of, sqnr
from flaxmobile.export.report.files import Written
from flaxmobile.export.report.measuring import ROUNDS, time_files
from flaxmobile.export.report.text import cells
from flaxmobile.weights import Model

pytestmark = pytest.mark.filterwarnings('ignore:.*its first answer is')

IMAGES = 150
LITERT = ['float32.tflite', 'float16.tflite', 'int8.tflite']
ONNX = ['float32.onnx', 'int8.onnx']
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope='module')
def made(tmp_path_factory: pytest.TempPathFactory) -> QuantizeReport:
    """Of a network with attention, whose products stay float32."""
    folder = tmp_path_factory.mktemp('report') / 'new' / 'report'
    dataset = load_dataset('fashion_mnist_mini', f'test[:{IMAGES}]')
    return quantize_report(fitted('V4 hybrid'), folder, dataset=dataset, calibration=calibration())


def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    dataset = load_dataset('fashion_mnist_mini', f'test[:{IMAGES}]')
    (batch,) = dataset.evaluation_batches(IMAGES, fitted('V4 hybrid').preprocessing)
    return np.asarray(fitted('V4 hybrid').preprocessing.normalize(batch['image'])), batch['label']


def first_answers(path: Path, images: np.ndarray) -> np.ndarray:
    """Image by image, in the runtime's own words."""
    if path.suffix == '.onnx':
        from onnxruntime import InferenceSession

        session = InferenceSession(path, providers=['CPUExecutionProvider'])
        return np.array(
            [session.run(None, {'image': image[None].transpose(0, 3, 1, 2)})[0].argmax() for image in images]
        )
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    runner = interpreter.get_signature_runner('serving_default')
    return np.array([runner(image=image[None])['logits'].argmax() for image in images])


@pytest.mark.export
def test_accuracies_are_those_of_the_files_image_by_image(made: QuantizeReport) -> None:
    images, labels = images_and_labels()
    answers = {file.path.name: first_answers(file.path, images) for file in made.files}
    assert list(answers) == LITERT + ONNX
    for file in made.files:
        found = answers[file.path.name]
        assert file.accuracy == pytest.approx(np.mean(found == labels))
        assert file.agreement == pytest.approx(np.mean(found == answers['float32.tflite']))
        assert file.size == file.path.stat().st_size
        assert file.runtime.startswith('onnxruntime ' if file.path.suffix == '.onnx' else 'ai-edge-litert ')
    assert (made.images, made.calibration_images, made.seen, made.observed_images) == (
        IMAGES,
        len(calibration()),
        0,
        100,
    )
    assert made.files[0].accuracy > 0.2
    assert len({file.agreement for file in made.files}) > 1


@pytest.mark.export
def test_the_error_of_the_answer_is_that_of_the_answers(made: QuantizeReport) -> None:
    """In LiteRT's own kernels, as those that keep activations are."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    images, _ = images_and_labels()
    answers = []
    for name in ('float32.tflite', 'int8.tflite'):
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(str(made.folder / name), experimental_op_resolver_type=plain)
        runner = interpreter.get_signature_runner('serving_default')
        answers.append(np.stack([runner(image=image[None])['logits'] for image in images[:100]]).astype(np.float64))
    wanted = 10 * np.log10(np.sum(answers[0] ** 2) / np.sum((answers[1] - answers[0]) ** 2))
    last = made.activations[-1]
    assert (last.layer, last.operation, last.type) == ('classifier', 'FULLY_CONNECTED', 'int8')
    assert last.sqnr == pytest.approx(wanted, abs=1e-3)


@pytest.mark.export
def test_the_error_of_the_image_is_that_of_its_rounding(made: QuantizeReport) -> None:
    images, _ = images_and_labels()
    seen = np.asarray(fitted('V4 hybrid').preprocessing.normalize(calibration())).astype(np.float64)
    scale = (seen.max() - seen.min()) / 255
    zero_point = np.rint(-128 - seen.min() / scale)
    exact = images[:100].astype(np.float64)
    rounded = scale * (np.clip(np.rint(exact / scale) + zero_point, -128, 127) - zero_point)
    wanted = 10 * np.log10(np.sum(exact**2) / np.sum((rounded - exact) ** 2))
    first = made.activations[0]
    assert (first.layer, first.operation, first.type) == ('image', 'QUANTIZE', 'int8')
    assert first.sqnr == pytest.approx(wanted, abs=0.05)


@pytest.mark.export
def test_each_operation_that_computes_has_its_layer(made: QuantizeReport) -> None:
    graph = read_graph((made.folder / 'int8.tflite').read_bytes())
    computing = collections.Counter(operation.kind for operation in graph if operation.kind not in COPYING)
    assert collections.Counter(each.operation for each in made.activations) == computing + collections.Counter(
        QUANTIZE=1
    )
    params = fitted('V4 hybrid').variables['params']
    for each in made.activations:
        if each.operation in ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED'):
            found = params
            for name in each.layer.split('/'):
                found = found[name]
            assert found is not None
    layers = [each.layer for each in made.activations]
    assert {'stem', 'block_02/attention/key/project', 'block_02/residual', 'head_conv'} < set(layers)
    assert {each.type for each in made.activations} == {'int8', 'float32'}
    assert {each.operation for each in made.activations if each.type == 'float32'} == {'BATCH_MATMUL'}


@pytest.mark.export
def test_the_folder_holds_the_files_a_report_and_a_picture(made: QuantizeReport) -> None:
    assert {path.name for path in made.folder.iterdir()} == {*LITERT, *ONNX, 'report.md', 'activations.png'}
    assert [path.name for path in made.folder.parent.iterdir()] == ['report']
    picture = Image.open(made.folder / 'activations.png')
    assert picture.width > 1500
    assert picture.convert('RGB').getpixel((2, 2)) == (255, 255, 255)
    text = (made.folder / 'report.md').read_text()
    for file in made.files:
        assert f'| `{file.path.name}` | {" | ".join(cells(file)[1:])} |' in text
    for each in made.activations:
        assert f'| `{each.layer}` | {each.operation} | {each.type} | {each.sqnr:.1f} |' in text
    assert [each.sqnr for each in made.worst] == sorted(each.sqnr for each in made.activations)[:5]
    assert f'The worst: `{made.worst[0].layer}` {made.worst[0].sqnr:.1f} dB ({made.worst[0].operation}), ' in text
    assert '64 images, none of them among these.' in text
    for file in made.files:
        assert 0 < file.times.lower <= file.times.median <= file.times.upper
        assert file.times.rounds == ROUNDS
        assert (file.ratio.median == 1) == (file.path.stem == 'float32')


def plain_export_is_int8(monkeypatch: pytest.MonkeyPatch, chosen: Model) -> None:
    """Make a model's plain file an int8 one, as that of a model trained for int8 is."""

    def as_int8(model: Model, path: Path, **options: Any) -> object:
        int8 = {'int8': Int8(calibration())} if model is chosen else {}
        return export(model, path, **options, **int8)

    monkeypatch.setattr('flaxmobile.export.report.files.export', as_int8)


@pytest.mark.export
def test_a_model_trained_for_int8_has_files_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are calibrated on what they are measured on."""
    trained, dataset = dataclasses.replace(fitted('V1')), load_dataset('fashion_mnist_mini', 'test[:20]')
    seen = next(dataset.evaluation_batches(20, trained.preprocessing))['image']
    plain_export_is_int8(monkeypatch, trained)
    found = quantize_report(fitted('V1'), tmp_path, dataset=dataset, calibration=seen, trained=trained, overwrite=True)
    names = [*LITERT, 'int8_trained.tflite', *ONNX, 'int8_trained.onnx']
    assert [file.path.name for file in found.files] == names
    assert (tmp_path / 'int8_trained.tflite').read_bytes() != (tmp_path / 'int8.tflite').read_bytes()
    assert (found.images, found.calibration_images, found.seen) == (20, 20, 20)
    assert 'were found on 20 images; 20 of those measured on are among them.' in (tmp_path / 'report.md').read_text()


@pytest.mark.export
def test_int8_is_not_taken_for_float32_nor_float32_for_int8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {'dataset': load_dataset('fashion_mnist_mini', 'test[:20]'), 'calibration': calibration()}
    model = fitted('V1')
    with pytest.raises(ValueError, match=r'^trained=\.\.\. computes in float32: give a run that was trained for int8$'):
        quantize_report(model, tmp_path / 'report', trained=dataclasses.replace(model), **options)
    plain_export_is_int8(monkeypatch, model)
    with pytest.raises(ValueError, match=r'^the model was trained for int8: give the one in float32, and this one as'):
        quantize_report(model, tmp_path / 'report', **options)
    assert list(tmp_path.iterdir()) == []


class Clock:
    """Time that passes as it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def file(self, runtime: str, *seconds: float) -> Written:
        turns = itertools.cycle(seconds)

        def compute(image: np.ndarray) -> None:
            self.now += next(turns)

        return Written(runtime, Session(lambda images: images, compute))


def test_times_are_of_the_processor_and_ratios_to_the_same_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(measuring, 'time', SimpleNamespace(thread_time=lambda: clock.now))
    monkeypatch.setattr(measuring, 'WARM_UP', 0)
    files = {
        Path('float32.tflite'): clock.file('a', 0.5, 0.25),
        Path('int8.tflite'): clock.file('a', 0.25, 0.125),
        Path('float32.onnx'): clock.file('b', 0.125),
        Path('int8.onnx'): clock.file('b', 0.25),
    }
    found = time_files(files, np.zeros((1, 1, 1)))
    assert found[Path('float32.tflite')] == (Times(375, 250, 500, ROUNDS), Times(1, 1, 1, ROUNDS))
    assert found[Path('int8.tflite')] == (Times(187.5, 125, 250, ROUNDS), Times(0.5, 0.5, 0.5, ROUNDS))
    assert found[Path('int8.onnx')] == (Times(250, 250, 250, ROUNDS), Times(2, 2, 2, ROUNDS))


def test_the_ratio_of_signal_to_noise_by_hand() -> None:
    assert sqnr(200.0, 2.0) == pytest.approx(20)
    assert sqnr(1.0, 4.0) == pytest.approx(-6.0206, abs=1e-4)
    assert (sqnr(1.0, 0.0), sqnr(0.0, 0.0), sqnr(0.0, 1.0)) == (math.inf, math.inf, -math.inf)


def tensor(name: str, kind: str = 'INT8') -> Tensor:
    return Tensor(name, kind, False)


def test_what_is_kept_of_an_activation_by_hand() -> None:
    """The image and the hard-swish as they are quantised; the probabilities in float32; a reshape is no activation."""
    graph = [
        Operation('QUANTIZE', (tensor('image', 'FLOAT32'),), (tensor('image_q'),)),
        Operation('CONV_2D', (tensor('image_q'), tensor('w')), (tensor('conv'),)),
        Operation('DEQUANTIZE', (tensor('conv'),), (tensor('conv_d', 'FLOAT32'),)),
        Operation('HARD_SWISH', (tensor('conv_d', 'FLOAT32'),), (tensor('swish', 'FLOAT32'),)),
        Operation('QUANTIZE', (tensor('swish', 'FLOAT32'),), (tensor('swish_q'),)),
        Operation('RESHAPE', (tensor('swish_q'),), (tensor('flat'),)),
        Operation('DEQUANTIZE', (tensor('flat'),), (tensor('flat_d', 'FLOAT32'),)),
        Operation('SOFTMAX', (tensor('flat_d', 'FLOAT32'),), (tensor('probabilities', 'FLOAT32'),)),
    ]
    found = {name: (made.kind, read.name) for name, (made, read) in kept_activations(graph).items()}
    assert found == {
        'image': ('QUANTIZE', 'image_q'),
        'conv': ('CONV_2D', 'conv'),
        'swish': ('HARD_SWISH', 'swish_q'),
        'probabilities': ('SOFTMAX', 'probabilities'),
    }


@pytest.mark.parametrize(
    ('name', 'weights', 'layer'),
    [
        ('block_01/residual/add;block_00/project/add', '', 'block_01/residual'),
        ('block_01/attention/bqhd,bkd->bqhk/dot_general', '', 'block_01/attention'),
        ('reduce_sum;div', '', 'reduce_sum'),
        ('serving_default_logits_output', 'classifier/dot_general', 'classifier'),
        ('stem/jit(relu)/max', 'stem/conv_general_dilated', 'stem'),
        ('block_02/depthwise/jit(relu)/max', '', 'block_02/depthwise'),
        ('no scope', '', 'no scope'),
    ],
)
def test_the_layer_of_an_activation(name: str, weights: str, layer: str) -> None:
    kind = 'CONV_2D' if weights else 'ADD'
    assert layer_of(name, Operation(kind, (tensor('x'), tensor(weights)), (tensor(name),))) == layer


def test_what_cannot_be_reported_is_said_before_anything_is_written(tmp_path: Path) -> None:
    options = {'dataset': load_dataset('fashion_mnist_mini', 'test[:20]'), 'calibration': calibration()}
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there' / 'thesis.txt').touch()
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r'as it holds what no report does \(thesis\.txt\)'):
            quantize_report(fitted('V1'), tmp_path / 'there', overwrite=overwrite, **options)
    other = dataclasses.replace(fitted('V1'), preprocessing=Preprocessing(48, 1, (0.286,), (0.353,)))
    with pytest.raises(ValueError, match=r'^trained=\.\.\. takes other images than the model: '):
        quantize_report(fitted('V1'), tmp_path / 'new', trained=other, **options)
    other = dataclasses.replace(fitted('V1'), labels=tuple('abcdefghij'))
    with pytest.raises(ValueError, match=r'^trained=\.\.\. has other classes than the model: '):
        quantize_report(fitted('V1'), tmp_path / 'new', trained=other, **options)
    with pytest.raises(ValueError, match=r'^the model does not know 10 of the 10 classes of the data set'):
        quantize_report(other, tmp_path / 'new', **options)
    assert [path.name for path in tmp_path.rglob('*')] == ['there', 'thesis.txt']


@pytest.mark.parametrize(
    ('words', 'wanted'),
    [
        (['there'], 'there is already there: --overwrite replaces it'),
        (['new', '--calibration-images', '3'], '--calibration-images 3 is too few: 16 at least'),
        (['new'], 'say which images '),
        (['new', '--data', 'fashion_mnist_mini', '--calibration', 'empty'], 'holds no image that can be read'),
        (['new', '--data', 'no_such_data'], "unknown data set 'no_such_data'"),
        (['new', '--data', 'fashion_mnist_mini', '--trained', 'no.safetensors'], 'there is no run and no file no.safe'),
    ],
)
def test_what_the_command_refuses(
    words: list[str], wanted: str, command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = {'num_classes': 10, 'width_multiplier': 0.1}
    network = flaxmobile.create_model('mobilenetv2_035', **overrides)
    variables = random_variables(network, (1, 32, 32, 3))
    model = Model(network, variables, Preprocessing(32), CLASSES, 'classification', 'mobilenetv2_035', overrides)
    model.save('model.safetensors')
    for name in ('there', 'empty'):
        Path(name).mkdir()
    status, out, err = command('quantize-report', 'model.safetensors', *words)
    assert (status, out) == (2, '')
    assert err.startswith('flaxmobile: ')
    assert wanted in err
    assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ['empty', 'model.safetensors', 'there']
