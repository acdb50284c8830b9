"""Networks trained for int8 as files: what LiteRT and ONNX Runtime answer, and what training brings."""

import collections
import dataclasses
import functools
import json
import warnings
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from fitted_networks import calibration, fitted, images, unseen
from small_networks import SIZE, small
from tflite_reader import metadata

from flaxmobile.export import Int8, export, to_jax, to_litert, to_onnx
from flaxmobile.parallel.mesh import make_mesh, replicate, shard_batch
from flaxmobile.quantization import Quantized, quantized_variables
from flaxmobile.tasks.classification import Classification
from flaxmobile.tasks.distillation import Distillation
from flaxmobile.training.state import start_state
from flaxmobile.training.step import make_train_step
from flaxmobile.weights import Model

pytestmark = pytest.mark.export


def quantized(model: Model, pixels: np.ndarray) -> Model:
    """The model with the ranges of images, to be trained for int8."""
    variables = quantized_variables(model.module, model.variables, [model.preprocessing.normalize(pixels)])
    return dataclasses.replace(model, module=Quantized(model.module), variables=variables)


@functools.cache
def to_train(family: str) -> Model:
    return quantized(fitted(family), calibration())


def answers_of_onnx(path: Path, inputs: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return session.run(None, {'image': inputs.transpose(0, 3, 1, 2)})[0]


def run_by_onnx_runtime(path: Path, folder: Path) -> collections.Counter:
    """The operators that ONNX Runtime really runs."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / 'optimised.onnx')
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
    return collections.Counter(node.op_type for node in onnx.load(folder / 'optimised.onnx').graph.node)


@pytest.mark.parametrize('family', ['V2', 'V3', 'V4 hybrid'])
def test_both_runtimes_answer_as_the_network_that_is_trained(family: str, tmp_path: Path) -> None:
    """Their logits to a few steps of 256, their first answer on 98 of 100 images; all convolutions are in int8."""
    model, pixels = to_train(family), unseen()[:200]
    wanted = np.asarray(jax.jit(model.module.apply)(model.variables, model.preprocessing.normalize(pixels)))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        checks = [export(model, tmp_path / f'model{suffix}', images=pixels) for suffix in ('.tflite', '.onnx')]
    for check in checks:
        assert check.int8.agreement >= 0.98
        assert check.error < 0.05
        assert check.int8.held_out is None
    assert (checks[0].partitions, checks[0].left_out) == (1, {})
    got = answers_of_onnx(tmp_path / 'model.onnx', np.asarray(model.preprocessing.normalize(pixels)))
    assert np.mean(got.argmax(1) == wanted.argmax(1)) == checks[1].int8.agreement
    ran = run_by_onnx_runtime(tmp_path / 'model.onnx', tmp_path)
    kernels = sum(kernel.ndim == 4 for kernel in jax.tree.leaves(model.variables['params']))
    assert (ran['QLinearConv'], ran['Conv'], ran['QGemm'], ran['Gemm']) == (kernels, 0, 1, 0)


@pytest.mark.parametrize('family', [pytest.param('v3', marks=pytest.mark.thorough), 'v4 hybrid'])
def test_a_whole_network_is_one_piece(family: str, tmp_path: Path) -> None:
    """Of random weights, whose maps grow until XNNPACK would add some of them in float32 alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, SIZE, SIZE, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.*first answer is that of the model trained for int8')
        check = to_litert(quantized(small(family), pixels), tmp_path / 'model.tflite', images=pixels)
    assert (check.partitions, check.left_out) == (1, {})
    assert check.int8.agreement >= 0.8  # Of random weights and noise.


def test_pixels_go_in_and_probabilities_come_out(tmp_path: Path) -> None:
    model, pixels = to_train('V2'), unseen()[:50]
    for suffix in ('.tflite', '.onnx'):
        check = export(model, tmp_path / f'm{suffix}', images=pixels, uint8_input=True, softmax=True)
        assert check.int8.agreement >= 0.98
        assert check.partitions in (1, None)


def test_a_file_says_how_it_was_made(tmp_path: Path) -> None:
    import onnx

    to_litert(to_train('V2'), tmp_path / 'm.tflite')
    to_onnx(to_train('V2'), tmp_path / 'm.onnx')
    told = [
        json.loads(metadata((tmp_path / 'm.tflite').read_bytes())['flaxmobile']),
        *(json.loads(each.value) for each in onnx.load(tmp_path / 'm.onnx').metadata_props),
    ]
    for each in told:
        assert (each['made']['weights'], each['made']['ranges']) == ('int8', 'trained')


def test_plain_jax_runs_what_is_trained(tmp_path: Path) -> None:
    """And on noise first answers are not counted."""
    check = to_jax(to_train('V2'), tmp_path / 'm.jax', images=unseen()[:8])
    assert check.error < 1e-6
    assert to_litert(to_train('V2'), tmp_path / 'm.tflite').int8.agreement is None


@pytest.mark.parametrize(
    ('suffix', 'options', 'words'),
    [
        ('.tflite', {'float16': True}, r'float16=\.\.\. does not go with this model: it was trained for int8'),
        ('.onnx', {'int8': Int8(np.zeros((16, 32, 32, 1), np.uint8))}, r'int8=\.\.\. does not go'),
        ('.mlpackage', {}, r'the model was trained for int8, which .*export the float network'),
    ],
)
def test_what_is_refused(suffix: str, options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        export(to_train('V2'), tmp_path / f'm{suffix}', **options)
    assert list(tmp_path.iterdir()) == []


SHARE = 0.02
"""Of the range that half of the channels fill."""


def with_small_channels(model: Model) -> Model:
    """The same answers, in float32, of ReLU's expansions half of whose channels are small: int8 has few steps for them.

    What the expansion's BatchNorm makes smaller, the statistics of the next one divide out again.
    """
    params, statistics = (jax.tree.map(np.array, model.variables[kind]) for kind in ('params', 'batch_stats'))
    for block in params.values():
        if not {'expand', 'depthwise'} <= set(block):
            continue
        factors = np.where(np.arange(block['expand']['norm']['scale'].size) % 2, SHARE, 1).astype(np.float32)
        for each in block['expand']['norm'].values():
            each *= factors
        block['depthwise']['conv']['kernel'] /= factors
    return dataclasses.replace(model, variables={'params': params, 'batch_stats': statistics})


def trained(model: Model, teacher: Model, steps: int) -> Model:
    """Learns from the float network's answers on images that neither fit nor test saw, as a run does."""
    own = model.preprocessing
    distillation = Distillation(teacher.module, teacher.variables, own, tuple(range(10)), own, 1.0, 1.0)
    task, mesh = Classification(model.labels, own, distillation=distillation), make_mesh(jax.devices()[:1])
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-4, steps))
    step = make_train_step(model.module, optimizer, task, seed=0, mesh=mesh)
    state = replicate(
        start_state(jax.tree.map(np.array, model.variables), optimizer, None), mesh
    )  # A step consumes it.
    for number in range(steps):
        pixels, labels = images('train', 2200 + 64 * number, 64)
        batch = shard_batch({'image': pixels, 'label': labels.astype(np.int32)}, mesh)
        state, _ = step(state, batch, replicate(task.variables, mesh))
    return dataclasses.replace(model, variables=jax.device_get(state.variables))


def test_training_brings_back_what_rounding_lost(tmp_path: Path) -> None:
    plain, model = fitted('V4'), with_small_channels(fitted('V4'))
    pixels = unseen()
    wanted = plain.predict(pixels, 100).argmax(1)
    assert np.mean(model.predict(pixels, 100).argmax(1) == wanted) > 0.995
    rounded = to_litert(model, tmp_path / 'a.tflite', int8=Int8(calibration()), images=pixels)
    learnt = trained(quantized(model, calibration()), plain, 60)
    check = to_litert(learnt, tmp_path / 'b.tflite', images=pixels)
    answers = learnt.predict(pixels, 100).argmax(1)
    assert check.int8.agreement >= 0.98
    assert np.mean(answers == wanted) > rounded.int8.agreement + 0.08
