"""SavedModels, which TensorFlow loads, and the network that TensorFlow's own converter makes a LiteRT file of."""

import collections
import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn
from small_networks import LABELS, SHORT_OPERATIONS, SIZE, small

from flaxmobile.export import saved_model, to_saved_model
from flaxmobile.export.program import Program, make_program
from flaxmobile.files import check_folder_of

# Of the environments of the tests one has TensorFlow, and there orbax-export may not be missing.
tensorflow = pytest.mark.skipif(not importlib.util.find_spec('tensorflow'), reason='TensorFlow is not installed')


def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def in_jax(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels normalised by hand, and the network's answer to them."""
    model = small('short')
    mean, std = (np.asarray(values, np.float32) for values in (model.preprocessing.mean, model.preprocessing.std))
    values = (images / np.float32(255) - mean) / std
    return values, np.asarray(jax.jit(model.module.apply)(model.variables, values))


@tensorflow
def test_tensorflow_answers_as_the_network(tmp_path: Path) -> None:
    import tensorflow as tf

    model, path = small('short'), tmp_path / 'folder' / 'saved'
    check = to_saved_model(model, path, uint8_input=True, images=pixels())
    assert (check.path, check.runtime, check.operations) == (path, f'tensorflow {tf.__version__}', {})
    assert check.error is not None
    assert check.error < 5e-5
    assert check.size == sum(each.stat().st_size for each in path.rglob('*') if each.is_file())
    assert json.loads((path / 'assets.extra' / 'flaxmobile.json').read_text())['labels'] == list(LABELS)
    assert [each.name for each in path.parent.iterdir()] == ['saved']
    check_folder_of(path, saved_model.FILES, 'SavedModel', overwrite=True)
    answers = tf.saved_model.load(str(path)).signatures['serving_default'](image=tf.constant(pixels()))
    _, wanted = in_jax(pixels())
    assert list(answers) == ['logits']
    np.testing.assert_allclose(answers['logits'], wanted, atol=5e-5 * np.abs(wanted).max())


@tensorflow
def test_products_and_convolutions_are_in_float32_everywhere(tmp_path: Path) -> None:
    """In the StableHLO that it holds. JAX's own default takes bfloat16 on TPUs."""
    from jax.interpreters.mlir import ir
    from jaxlib.mlir.dialects import stablehlo
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved_model._save(make_program(small('short'), standard=False), tmp_path)
    (graph,) = SavedModel.FromString((tmp_path / 'saved_model.pb').read_bytes()).meta_graphs
    nodes = [node for function in graph.graph_def.library.function for node in function.node_def]
    held = {node.attr['module'].s for node in nodes if node.op == 'XlaCallModule'}
    assert len(held) == 1
    with ir.Context() as context:
        stablehlo.register_dialect(context)
        lines = str(stablehlo.deserialize_portable_artifact(context, held.pop())).splitlines()
    found = [line for line in lines if 'stablehlo.dot_general' in line or 'stablehlo.convolution' in line]
    assert {line.count('stablehlo.convolution') for line in found} == {0, 1}
    assert [line for line in found if line.count('HIGHEST') != 2] == []


def write(program: Program, folder: Path) -> None:
    """In place of TensorFlow, for what depends on files alone."""
    folder.mkdir()
    (folder / 'saved_model.pb').write_text('new')


def answer(folder: Path, images: np.ndarray) -> np.ndarray:
    _, wanted = in_jax(np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8))
    return wanted


@pytest.fixture
def plain_files(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A SavedModel without TensorFlow: a folder with one file."""
    monkeypatch.setattr(saved_model, 'needed', lambda *_: None)
    monkeypatch.setattr(saved_model, 'TENSORFLOW', ('numpy', 'numpy'))
    monkeypatch.setattr(saved_model, '_save', write)
    monkeypatch.setattr(saved_model, '_run', answer)
    return monkeypatch


def test_overwrite_replaces_a_saved_model_alone(plain_files: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / 'saved'
    write(make_program(small('short')), path)
    (path / 'saved_model.pb').write_text('old')
    with pytest.raises(FileExistsError, match='saved is already there: overwrite=True replaces it'):
        to_saved_model(small('short'), path)
    to_saved_model(small('short'), path, overwrite=True)
    assert (path / 'saved_model.pb').read_text() == 'new'
    (path / 'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match=r'not replaced, as it holds what no SavedModel does \(notes\.txt\)'):
        to_saved_model(small('short'), path, overwrite=True)
    assert (path / 'notes.txt').read_text() == 'mine'
    assert [each.name for each in tmp_path.iterdir()] == ['saved']


def test_a_folder_that_appears_meanwhile_stays(plain_files: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / 'saved'

    def slow(folder: Path, images: np.ndarray) -> np.ndarray:
        path.mkdir()
        return answer(folder, images)

    plain_files.setattr(saved_model, '_run', slow)
    with pytest.raises(FileExistsError, match='saved is already there: overwrite=True replaces it'):
        to_saved_model(small('short'), path)
    assert list(tmp_path.rglob('*')) == [path]


@pytest.mark.parametrize('wrong', ['answers', 'error'])
def test_a_wrong_one_leaves_nothing(wrong: str, plain_files: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(folder: Path, images: np.ndarray) -> np.ndarray:
        if wrong == 'error':
            raise RuntimeError('no such\nkernel')
        return 2 * answer(folder, images)

    plain_files.setattr(saved_model, '_run', fails)
    words = 'does not run it: no such' if wrong == 'error' else 'answers otherwise than the model in float32 in JAX'
    with pytest.raises(ValueError, match=rf'saved was not written: .*{words}'):
        to_saved_model(small('short'), tmp_path / 'models' / 'new' / 'saved')
    assert list(tmp_path.iterdir()) == []


class ByLength(nn.Module):
    """A network that is written for a number of images that is known."""

    num_classes: int = len(LABELS)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        return images.reshape(len(images), -1)[:, : self.num_classes]


def test_a_network_for_a_known_number_of_images_is_refused(plain_files: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = dataclasses.replace(small('short'), module=ByLength(), variables={}, name='', overrides={})
    with pytest.raises(ValueError, match=r'^export: the network cannot be traced for any number of images'):
        to_saved_model(model, tmp_path / 'saved')
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tensorflow', None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package tensorflow: .*'flaxmobile\[saved-model\]'"):
        to_saved_model(small('short'), tmp_path / 'saved')
    assert list(tmp_path.iterdir()) == []


def by_tensorflow(program: Program) -> bytes:
    """The LiteRT file that TensorFlow's converter makes of a program."""
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.python.xla import call_module

    exported = jax.export.export(jax.jit(program.function), platforms=['cpu'])(program.image)

    def function(image: Any) -> Any:
        return call_module(
            [image],
            version=exported.calling_convention_version,
            module=exported.mlir_module_serialized,
            Tout=[tf.float32],
            Sout=[list(each.shape) for each in exported.out_avals],
            platforms=['CPU'],
        )

    image = tf.TensorSpec(program.image.shape, tf.float32, name='image')
    traced = tf.function(function, input_signature=[image], autograph=False).get_concrete_function()
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced]).convert())


@tensorflow
@pytest.mark.filterwarnings('ignore:.*tf.lite.Interpreter is deprecated')
def test_tensorflows_converter_makes_the_same_operations() -> None:
    """`SHORT_OPERATIONS` are those of our file, see `test_litert.py`; TensorFlow writes a mean as several."""
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(model_content=by_tensorflow(make_program(small('short'))))
    interpreter.allocate_tensors()
    counts = collections.Counter(node['op_name'] for node in interpreter._get_ops_details())
    del counts['DELEGATE']
    means = {'MEAN', 'SUM', 'MUL', 'RESHAPE'}
    assert {name: count for name, count in counts.items() if name not in means} == {
        name: count for name, count in SHORT_OPERATIONS.items() if name not in means
    }
    assert counts['SUM'] == SHORT_OPERATIONS['MEAN']
    assert sum(SHORT_OPERATIONS.values()) <= counts.total()
    values, wanted = in_jax(pixels()[:1])
    (given,), (made,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(given['index'], values)
    interpreter.invoke()
    np.testing.assert_allclose(interpreter.get_tensor(made['index']), wanted, atol=5e-5 * np.abs(wanted).max())
