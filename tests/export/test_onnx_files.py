"""What `to_onnx` writes and what it refuses."""

import json

import jax
import numpy as np
import pytest
from flax import linen as nn

import flaxmobile.export
from flaxmobile.data import Preprocessing
from flaxmobile.weights import Model

PREPROCESSING = Preprocessing(image_size=6, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)


class Pooled(nn.Module):
    """A convolution, global pooling and a dense layer."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        values = nn.relu(nn.Conv(4, (3, 3), name='stem')(images)).mean((1, 2))
        return nn.Dense(self.num_classes, name='classifier')(values) if self.num_classes else values


def model(num_classes: int = 3, **fields: object) -> Model:
    module = Pooled(num_classes)
    variables = module.init(jax.random.key(0), np.zeros((1, 6, 6, 3), np.float32))
    return Model(module, variables, PREPROCESSING, task='classification' if num_classes else None, **fields)


@pytest.mark.export
@pytest.mark.parametrize('layout', ['nchw', 'nhwc'])
def test_a_file_says_what_it_is(tmp_path, layout):
    import onnx
    import onnxruntime

    path, named = tmp_path / 'model.onnx', model(labels=('cat', 'dog', 'élan'), name='mine')
    flaxmobile.export.to_onnx(named, path, layout=layout, softmax=True)
    written = onnx.load(path)
    onnx.checker.check_model(written, full_check=True)
    assert [(each.domain, each.version) for each in written.opset_import] == [('', 17)]
    assert (written.ir_version, written.producer_name, written.producer_version) == (
        8,
        'flaxmobile',
        flaxmobile.__version__,
    )
    assert [node.name for node in written.graph.node] == (
        ['Transpose'] * (layout == 'nhwc')
        + ['stem/Conv', 'Relu', 'GlobalAveragePool', 'Flatten', 'classifier/Gemm', 'Softmax']
    )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert given.shape == (['batch', 3, 6, 6] if layout == 'nchw' else ['batch', 6, 6, 3])
    assert (given.name, given.type) == ('image', 'tensor(float)')
    assert (made.name, made.shape) == ('probabilities', ['batch', 3])
    told = session.get_modelmeta().custom_metadata_map
    assert list(told) == ['flaxmobile']
    said = json.loads(told['flaxmobile'])
    assert said['made'] == {'jax': jax.__version__, 'format': 'onnx', 'layout': layout, 'opset': 17}
    assert said['name'] == 'mine'
    assert said['labels'] == ['cat', 'dog', 'élan']
    assert said['outputs'] == ['probabilities']
    assert said['preprocessing']['image_size'] == 6


@pytest.mark.export
def test_a_file_that_is_there_stays(tmp_path):
    path = tmp_path / 'model.onnx'
    path.write_text('mine')
    with pytest.raises(FileExistsError, match=r'model\.onnx is already there: overwrite=True replaces it'):
        flaxmobile.export.to_onnx(model(), path)
    assert path.read_text() == 'mine'
    flaxmobile.export.to_onnx(model(), path, overwrite=True)
    assert path.stat().st_size > 500
    assert [each.name for each in tmp_path.iterdir()] == ['model.onnx']


@pytest.mark.export
def test_what_cannot_be_written_leaves_no_file(tmp_path):
    class Sorted(nn.Module):
        num_classes: int = 0

        @nn.compact
        def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
            return jax.numpy.sort(images.mean((1, 2)))

    other = Model(Sorted(), {'params': {}}, PREPROCESSING, task=None)
    with pytest.raises(ValueError, match="the operation 'sort' outside of any layer is none that exporters know"):
        flaxmobile.export.to_onnx(other, tmp_path / 'model.onnx')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.export
def test_what_the_checker_finds_is_said_in_one_line(monkeypatch, tmp_path):
    import onnx

    def check(*_, **__):
        raise onnx.checker.ValidationError('Nodes in a graph\nmust be sorted')

    monkeypatch.setattr(onnx.checker, 'check_model', check)
    with pytest.raises(ValueError, match=r"^export: ONNX's checker refuses what was written: Nodes in a graph\\nmust"):
        flaxmobile.export.to_onnx(model(), tmp_path / 'model.onnx')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.export
def test_more_than_a_file_holds_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr('flaxmobile.export.onnx.model.LARGEST', 400)
    with pytest.raises(ValueError, match='GiB, and an ONNX file holds less than 2'):
        flaxmobile.export.to_onnx(model(), tmp_path / 'model.onnx')


WRONG = {
    'suffix': ('model.tflite', {}, ValueError, r"model\.tflite: .* '\.tflite' is not among \.onnx \(ONNX\)"),
    'no suffix': ('model', {}, ValueError, r"model: .* '' is not among \.onnx \(ONNX\)"),
    'folder': ('folder.onnx', {}, FileExistsError, r'folder\.onnx is a folder: name a file in it'),
    'layout': ('model.onnx', {'layout': 'chwn'}, ValueError, "unknown layout 'chwn'. Did you mean: nchw, nhwc"),
}


@pytest.mark.parametrize('name', WRONG)
def test_wrong_arguments_are_named_before_anything_is_traced(tmp_path, name):
    target, fields, error, message = WRONG[name]
    (tmp_path / 'folder.onnx').mkdir()
    with pytest.raises(error, match=message):
        flaxmobile.export.to_onnx(None, tmp_path / target, **fields)


def test_the_extra_is_named_where_the_package_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'onnx', None)
    with pytest.raises(ModuleNotFoundError, match=r"^ONNX needs the package onnx: pip install 'flaxmobile\[onnx\]'"):
        flaxmobile.export.to_onnx(None, tmp_path / 'model.onnx')


@pytest.mark.export
def test_softmax_needs_classes(tmp_path):
    with pytest.raises(ValueError, match='softmax=True asks for probabilities, and this model has no classes'):
        flaxmobile.export.to_onnx(model(0), tmp_path / 'model.onnx', softmax=True)
