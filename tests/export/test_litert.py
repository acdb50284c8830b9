"""LiteRT files in LiteRT's interpreter, against the model in JAX."""

import collections
import dataclasses
import importlib.metadata
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen as nn
from small_networks import FAMILIES, LABELS, SHORT_OPERATIONS, SIZE, small
from tflite_reader import metadata, root

from benchmarks.export_rules import layers_of, wrong_graph
from flaxmobile import ops
from flaxmobile.data import Preprocessing, prepare_for_evaluation
from flaxmobile.export import export, to_litert
from flaxmobile.export.litert.conversion import convert
from flaxmobile.export.litert.graph import read_graph
from flaxmobile.export.litert.running import left_out, run
from flaxmobile.export.program import Program, in_float32
from flaxmobile.weights import Model

pytestmark = pytest.mark.export


class Ending(nn.Module):
    """A network that ends in a function."""

    function: Callable[[jax.Array], jax.Array]
    num_classes: int = len(LABELS)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return self.function(nn.Dense(self.num_classes)(images.mean((1, 2))))


def ending(function: Callable[[jax.Array], jax.Array]) -> Model:
    network = Ending(function)
    variables = network.init(jax.random.key(0), np.zeros((1, SIZE, SIZE, 3), np.float32))
    return dataclasses.replace(small('short'), module=network, variables=variables, name='', overrides={})


def pixels(count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def in_jax(family: str, images: np.ndarray) -> np.ndarray:
    """What the network answers to pixels, by its module alone."""
    model = in_float32(small(family))
    return np.asarray(jax.jit(model.module.apply)(model.variables, normalised(images)))


def interpreted(path: Path, images: np.ndarray) -> tuple[dict, list[np.ndarray], collections.Counter]:
    """The file's signatures, its answer to each image, and the operations that are run, a delegate's parts counted."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner('serving_default')
    answers = [next(iter(runner(image=image[None]).values())) for image in images]
    names = collections.Counter(operation['op_name'] for operation in interpreter._get_ops_details())
    return interpreter.get_signature_list(), answers, names


def normalised(images: np.ndarray) -> np.ndarray:
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return (images / np.float32(255) - mean) / std


@pytest.mark.parametrize('family', [family for family in FAMILIES if family not in ('v3 large', 'short')])
def test_a_file_answers_as_the_network(family: str, tmp_path: Path) -> None:
    model, path = small(family), tmp_path / 'model.tflite'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check = to_litert(model, path)
    output = 'logits' if model.num_classes else 'embedding'
    signatures, answers, names = interpreted(path, normalised(pixels()))
    assert signatures == {'serving_default': {'inputs': ['image'], 'outputs': [output]}}
    wanted = in_jax(family, pixels())
    error = np.abs(np.concatenate(answers) - wanted).max() / np.abs(wanted).max()
    assert error < 5e-5
    assert check.error is not None
    assert check.error < 5e-5
    assert check.partitions == names.pop('DELEGATE') == 1
    assert check.left_out == {}
    assert check.operations == names
    assert check.size == path.stat().st_size
    layers = layers_of(model)
    assert wrong_graph(check, layers) == []
    assert names['BATCH_MATMUL'] == 2 * layers.attentions


RESIZED = {
    'rows and columns twice': (ops.resize_nearest, (3, 4), (6, 8)),
    'to one less than twice': (ops.resize_nearest, (2, 3), (3, 5)),
    'smaller, by distance': (ops.resize_bilinear, (28, 18), (16, 16)),
    'larger, by distance': (ops.resize_bilinear, (7, 3), (16, 16)),
    'every second pixel, blurred': (lambda images, *_: ops.blur_pool(images), (8, 7), ()),
    'every third column': (lambda images, *_: images[:, 1:, 1:8:3], (3, 9), ()),
    'rows from the last to the first': (lambda images, *_: images[:, np.arange(8)[::-1]], (8, 2), ()),
}


@pytest.mark.parametrize('name', RESIZED)
def test_resizing_is_one_piece(name: str) -> None:
    """Both forms of MobileNetV5's fusion, each between other operations as there."""
    resize, old, new = RESIZED[name]
    image = jax.ShapeDtypeStruct((1, *old, 8), np.float32)
    function = ops.standard(lambda images: (resize(jax.nn.gelu(images), *new).mean((1, 2)),))
    program = Program(function, image, ('embedding',))
    content = convert(program, {})
    values = np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    got, partitions = run(content, values)
    assert partitions == 1
    assert left_out(content) == {}
    np.testing.assert_allclose(got, program.function(values)[0], atol=1e-6)


def test_what_xnnpack_leaves_out_at_the_end_is_named(tmp_path: Path) -> None:
    """There is one partition all the same."""
    with pytest.warns(UserWarning, match="XNNPACK does not compute 1 CUMSUM, LiteRT's own kernels do"):
        check = to_litert(ending(lambda values: values.cumsum(1)), tmp_path / 'model.tflite')
    assert (check.partitions, check.left_out) == (1, {'CUMSUM': 1})


def leaves(tree: object) -> list[str]:
    return [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in jax.tree.leaves_with_path(tree)]


def test_pixels_in_and_probabilities_out(tmp_path: Path) -> None:
    path = tmp_path / 'model.tflite'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check = to_litert(small('short'), path, uint8_input=True, softmax=True)
    assert (check.partitions, check.left_out) == (1, {})
    assert check.operations['CAST'] == 1
    signatures, answers, _ = interpreted(path, pixels())
    assert signatures['serving_default']['outputs'] == ['probabilities']
    np.testing.assert_allclose(np.concatenate(answers), jax.nn.softmax(in_jax('short', pixels())), atol=1e-5)


def test_float16_weights_are_half_the_size(tmp_path: Path) -> None:
    whole, half = tmp_path / 'whole.tflite', tmp_path / 'half.tflite'
    check = to_litert(small('short'), half, float16=True)
    _, answers, names = interpreted(half, normalised(pixels()))
    wanted = in_jax('short', pixels())
    error = np.abs(np.concatenate(answers) - wanted).max() / np.abs(wanted).max()
    assert 5e-5 < error < 1e-2
    assert names.pop('DELEGATE') == check.partitions == 1
    assert check.operations == names
    kernels = [key for key in leaves(small('short').variables['params']) if key.endswith('kernel')]
    assert to_litert(small('short'), whole).operations == SHORT_OPERATIONS
    assert names == {**SHORT_OPERATIONS, 'DEQUANTIZE': len(kernels)}
    assert check.left_out == {}
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(small('short').variables['params']))
    assert weights / 2 < half.stat().st_size < whole.stat().st_size - 0.45 * weights


def test_the_exact_gelu_is_one_piece() -> None:
    """Of V4 hybrid large, in float64."""
    values = np.linspace(-6, 6, 8 * 8 * 16, dtype=np.float32).reshape(1, 8, 8, 16)
    program = Program(lambda images: (ops.activation('gelu')(images),), jax.eval_shape(lambda: values), ('logits',))
    answers, partitions = run(convert(program, {}), values)
    wanted = [value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in values.astype(np.float64).ravel()]
    np.testing.assert_allclose(answers.ravel(), wanted, atol=2e-6)
    assert partitions == 1


@pytest.mark.parametrize('float16', [False, True])
def test_a_file_says_what_it_is(float16: bool, tmp_path: Path) -> None:
    path = tmp_path / 'model.tflite'
    to_litert(small('short'), path, float16=float16)
    held = metadata(path.read_bytes())
    said = json.loads(held['flaxmobile'])
    assert said['labels'] == list(LABELS)
    assert said['preprocessing']['image_size'] == SIZE
    assert said['made']['format'] == 'litert'
    assert said['made']['weights'] == ('float16' if float16 else 'float32')
    packages = {name: importlib.metadata.version(name) for name in ('litert-converter', 'litert-quantizer')}
    assert packages.items() & said['made'].items() == set(list(packages.items())[: 1 + float16])
    names = {tensor.name for operation in read_graph(path.read_bytes()) for tensor in operation.outputs}
    assert any(name.startswith('block_00/depthwise/') for name in names)
    assert not any('ShortV3' in name for name in names)
    (graph,) = root(held['TFLITE_METADATA'], b'M001').tables(3)
    assert graph.tables(2)[0].table(3).table(1).table(1).number(0, '<I') == SIZE


def test_mediapipe_reads_a_file_as_an_image_classifier_does(tmp_path: Path) -> None:
    path = tmp_path / 'model.tflite'
    export(small('short'), path, uint8_input=True, softmax=True)
    wanted = np.asarray(jax.nn.softmax(in_jax('short', pixels(1))))[0]
    assert by_mediapipe(path) == pytest.approx(dict(zip(LABELS, wanted.tolist(), strict=True)), abs=1e-5)


def test_mediapipe_takes_one_normalisation_for_all_channels(tmp_path: Path) -> None:
    """It refuses a file of float32 images with one for each, and takes one that has the same for all."""
    path = tmp_path / 'model.tflite'
    export(small('short'), path, softmax=True)
    with pytest.raises(NotImplementedError, match='Per-channel image normalization is not available'):
        by_mediapipe(path)
    model = small('short')
    alike = dataclasses.replace(
        model, preprocessing=dataclasses.replace(model.preprocessing, mean=(0.5,) * 3, std=(0.5,) * 3)
    )
    export(alike, path, softmax=True, overwrite=True)
    values = pixels(1) / np.float32(127.5) - 1
    wanted = np.asarray(jax.nn.softmax(jax.jit(model.module.apply)(model.variables, values)))[0]
    assert by_mediapipe(path) == pytest.approx(dict(zip(LABELS, wanted.tolist(), strict=True)), abs=1e-5)


class Colours(nn.Module):
    """The mean of each colour of the image."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return images.mean((1, 2))


def test_mediapipe_squeezes_an_oblong_picture(tmp_path: Path) -> None:
    """Of 60x40 pixels a tenth at the left is red and a tenth at the right green: the central square has neither."""
    path, preprocessing = tmp_path / 'model.tflite', Preprocessing(30, mean=(0.0,) * 3, std=(1.0,) * 3)
    export(Model(Colours(), {'params': {}}, preprocessing, ('red', 'green', 'blue')), path, uint8_input=True)
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :6, 0] = picture[:, -6:, 1] = picture[:, 6:-6, 2] = 255
    assert by_mediapipe(path, picture) == pytest.approx({'red': 0.1, 'green': 0.1, 'blue': 0.8}, abs=0.01)
    ours = np.asarray(prepare_for_evaluation(picture, preprocessing))
    assert (ours == [0, 0, 255]).all()


def by_mediapipe(path: Path, picture: np.ndarray | None = None) -> dict[str, float]:
    """The scores of a picture, or of the first image."""
    import mediapipe

    vision, options = mediapipe.tasks.vision, mediapipe.tasks.BaseOptions(model_asset_path=str(path))
    image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels(1)[0] if picture is None else picture)
    with vision.ImageClassifier.create_from_options(vision.ImageClassifierOptions(base_options=options)) as classifier:
        (found,) = classifier.classify(image).classifications
    return {each.category_name: each.score for each in found.categories}


def test_what_litert_has_no_operation_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='LiteRT has no operation for STABLEHLO_SORT, which the network needs'):
        to_litert(ending(jax.lax.sort), tmp_path / 'model.tflite')
    assert list(tmp_path.iterdir()) == []
