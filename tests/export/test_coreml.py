"""Core ML packages of networks, computed by torch, beside JAX with BatchNorm unfolded."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from small_networks import LABELS, SIZE, small

import flaxmobile
from flaxmobile.export import Check, Int8, export, to_coreml
from flaxmobile.export.coreml import running
from flaxmobile.export.target import check_target

parity = pytest.mark.parity
elsewhere = pytest.mark.filterwarnings('ignore:.*Core ML runs on macOS alone')
EPSILON = 1e-3
"""TensorFlow's."""
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def pixels(count: int = 1) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def in_jax(family: str, images: np.ndarray) -> np.ndarray:
    model = small(family)
    return np.asarray(jax.jit(model.module.apply)(model.variables, (images / np.float32(255) - MEAN) / STD))


def first(values: np.ndarray) -> np.ndarray:
    """Channels first."""
    return values.transpose(0, 3, 1, 2)


PLAIN = {'add', 'clip', 'conv', 'linear', 'mul', 'reduce_mean', 'relu', 'relu6', 'reshape', 'sigmoid', 'sigmoid_hard'}
ATTENTION = {'batch_norm', 'expand_dims', 'gelu', 'matmul', 'real_div', 'softmax', 'transpose'}
NETWORKS = {
    'v1': PLAIN,
    'v2': PLAIN,
    'v3': PLAIN,
    'v3 large': PLAIN,
    'v3 of TensorFlow': PLAIN,
    'v4': PLAIN,
    'v4 hybrid': PLAIN | ATTENTION,
    'v5': PLAIN | ATTENTION | {'concat', 'gather', 'sqrt', 'upsample_nearest_neighbor'},
    'EdgeTPU': PLAIN,
    'MnasNet': PLAIN,
    'no classes': PLAIN - {'linear'},
}


SIBLINGS = 'v1', 'v2', 'v3', 'v3 large', 'v4', 'EdgeTPU', 'MnasNet', 'no classes'
"""Of the same operations as others, which ONNX Runtime runs too, see `test_onnx_networks.py`."""


@parity
@elsewhere
@pytest.mark.parametrize(
    'family', [pytest.param(name, marks=pytest.mark.thorough if name in SIBLINGS else ()) for name in NETWORKS]
)
def test_a_network_answers_as_in_jax(family: str, tmp_path: Path) -> None:
    from mil_in_torch import run

    path, model = tmp_path / 'model.mlpackage', small(family)
    check = to_coreml(model, path)
    assert set(check.operations) <= NETWORKS[family]
    (answer,) = run(path, first((pixels() / np.float32(255) - MEAN) / STD)).values()
    wanted = in_jax(family, pixels())
    assert answer.shape == wanted.shape
    assert np.abs(answer - wanted).max() <= 5e-5 * np.abs(wanted).max()


@parity
@elsewhere
def test_weights_have_batch_norm_in_them(tmp_path: Path) -> None:
    """Folded by hand, in float64."""
    from mil_in_torch import Package

    path, model = tmp_path / 'model.mlpackage', small('short')
    to_coreml(model, path)
    constants = Package(path).constants.values()
    params, statistics = (flatten_dict(model.variables[name], sep='/') for name in ('params', 'batch_stats'))
    norms = [name.removesuffix('norm/var') for name in statistics if name.endswith('norm/var')]
    assert len(norms) == 10  # all convolutions but those of squeeze-excite
    for name in norms:
        variance, mean = (np.float64(statistics[f'{name}norm/{each}']) for each in ('var', 'mean'))
        factor = params[f'{name}norm/scale'] / np.sqrt(variance + EPSILON)
        kernel = (params[f'{name}conv/kernel'] * factor).transpose(3, 2, 0, 1)
        for wanted in (kernel, params[f'{name}norm/bias'] - mean * factor):
            assert any(np.shape(each) == wanted.shape and np.allclose(each, wanted, 1e-5, 1e-7) for each in constants)


@parity
def test_a_package_says_what_it_is_and_was_not_run(tmp_path: Path) -> None:
    import coremltools

    path, model = tmp_path / 'folder' / 'model.mlpackage', small('short')
    with pytest.warns(UserWarning, match=r'model\.mlpackage was not compared with JAX: Core ML runs on macOS alone$'):
        check = export(model, path)
    size = sum(each.stat().st_size for each in path.rglob('*') if each.is_file())
    assert check == Check(path, size, check.operations, None, None)
    assert check.operations == {
        'conv': 13,
        'relu': 6,
        'mul': 4,
        'sigmoid_hard': 4,
        'reduce_mean': 2,
        'add': 1,
        'linear': 1,
        'reshape': 1,
    }
    assert [each.name for each in path.parent.iterdir()] == ['model.mlpackage']
    spec = coremltools.utils.load_spec(str(path))
    (given,), (made,) = spec.description.input, spec.description.output
    assert spec.specificationVersion == 6  # iOS 15 and macOS 12
    assert (given.name, list(given.type.multiArrayType.shape)) == ('image', [1, 3, SIZE, SIZE])
    assert (made.name, list(made.type.multiArrayType.shape)) == ('logits', [1, len(LABELS)])
    single = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
    assert given.type.multiArrayType.dataType == made.type.multiArrayType.dataType == single
    told = spec.description.metadata
    assert told.shortDescription == f'A network by flaxmobile {flaxmobile.__version__}'
    assert told.versionString == flaxmobile.__version__
    said = json.loads(told.userDefined['flaxmobile'])
    assert said['made'] == {
        'jax': jax.__version__,
        'format': 'coreml',
        'precision': 'float32',
        'coremltools': coremltools.__version__,
    }
    assert said['labels'] == list(LABELS)


@parity
@elsewhere
def test_an_image_in_and_the_names_of_classes_out(tmp_path: Path) -> None:
    """What Vision asks of a classifier: an image, and probabilities by name."""
    import coremltools
    from mil_in_torch import run

    path = tmp_path / 'model.mlpackage'
    check = to_coreml(small('short'), path, uint8_input=True, softmax=True)
    assert check.operations['classify'] == check.operations['softmax'] == 1
    description = coremltools.utils.load_spec(str(path)).description
    (given,) = description.input
    kind = given.type.imageType
    assert (given.name, kind.width, kind.height) == ('image', SIZE, SIZE)
    assert kind.colorSpace == coremltools.proto.FeatureTypes_pb2.ImageFeatureType.RGB
    outputs = {each.name: each.type.WhichOneof('Type') for each in description.output}
    assert outputs == {'classLabel': 'stringType', 'classLabel_probs': 'dictionaryType'}
    assert (description.predictedFeatureName, description.predictedProbabilitiesName) == tuple(outputs)
    answers = run(path, first(pixels()))
    logits = in_jax('short', pixels())[0].astype(np.float64)
    wanted = dict(zip(LABELS, np.exp(logits) / np.exp(logits).sum(), strict=True))
    assert answers['classLabel_probs'] == pytest.approx(wanted, abs=1e-6)
    assert answers['classLabel'] == LABELS[logits.argmax()]


@parity
@elsewhere
def test_float16(tmp_path: Path) -> None:
    """Half the weights' bytes; torch computes it in float16 too."""
    from mil_in_torch import Package, run

    half, model = tmp_path / 'half.mlpackage', small('short')
    to_coreml(model, half, float16=True)
    count = sum(leaf.size for leaf in jax.tree.leaves(model.variables['params']))
    assert 1.9 < len(Package(half).blob) / count < 2.3
    told = Package(half).spec.description.metadata.userDefined['flaxmobile']
    assert json.loads(told)['made']['precision'] == 'float16'
    (answer,) = run(half, first((pixels() / np.float32(255) - MEAN) / STD)).values()
    wanted = in_jax('short', pixels())
    assert 1e-5 < np.abs(answer - wanted).max() / np.abs(wanted).max() < 1e-2


class InTorch:
    """In place of Core ML on macOS: torch."""

    wrong = 1.0

    def __init__(self, path: Path) -> None:
        from mil_in_torch import Package

        self.path, self.spec = path, Package(path).spec

    def get_spec(self) -> Any:
        return self.spec

    def predict(self, data: dict[str, Any]) -> dict[str, Any]:
        from mil_in_torch import run

        image = np.asarray(data['image'], np.float32)
        answers = run(self.path, image if image.ndim == 4 else first(image.reshape(1, SIZE, SIZE, -1)))
        return {name: value * self.wrong if isinstance(value, np.ndarray) else value for name, value in answers.items()}


@pytest.fixture
def on_macos(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(running, '_load', InTorch)
    monkeypatch.setattr(sys, 'platform', 'darwin')
    return monkeypatch


@parity
@pytest.mark.parametrize('options', [{}, {'uint8_input': True, 'softmax': True}])
def test_on_macos_it_is_compared_with_jax(options: dict, on_macos: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = to_coreml(small('short'), tmp_path / 'model.mlpackage', images=pixels(2), **options)
    assert check.runtime is not None
    assert check.runtime.startswith('coremltools ')
    assert check.error is not None
    assert 0 < check.error < 1e-5


@parity
def test_on_macos_a_wrong_one_is_not_written(on_macos: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_macos.setattr(InTorch, 'wrong', 1.01)
    with pytest.raises(ValueError, match=r'model\.mlpackage was not written: in coremltools .* The error is 0.01 of'):
        to_coreml(small('short'), tmp_path / 'new' / 'model.mlpackage')
    assert list(tmp_path.iterdir()) == []


@parity
@elsewhere
def test_overwrite_replaces_a_package_alone(tmp_path: Path) -> None:
    path = tmp_path / 'converted.mlpackage'  # A name that the package has on its way, too.
    path.mkdir()
    (path / 'Manifest.json').write_text('{}')
    (path / 'mine').write_text('mine')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=r'as it holds what no Core ML package does \(mine\): name another'):
            to_coreml(small('short'), path, overwrite=overwrite)
    (path / 'mine').unlink()
    with pytest.raises(FileExistsError, match='is already there: overwrite=True replaces it'):
        to_coreml(small('short'), path)
    to_coreml(small('short'), path, overwrite=True)
    assert sorted(each.name for each in path.iterdir()) == ['Data', 'Manifest.json']
    assert check_target(path, overwrite=True) == '.mlpackage'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ('name', 'options', 'words'),
    [
        (
            'model.mlmodel',
            {},
            r"'\.mlmodel' is not among \.tflite .*, \.mlpackage \(Core ML\),",
        ),
        ('model.MLPACKAGE', {}, r'model\.MLPACKAGE: Core ML knows a package by \.mlpackage in lower case alone$'),
        ('model.mlpackage', {'int8': Int8(np.zeros((16, 1)))}, r'int8=\.\.\. goes with a .tflite or .onnx'),
    ],
)
def test_what_is_refused_before_anything_is_traced(name: str, options: dict, words: str, tmp_path: Path) -> None:
    nothing: Any = None
    with pytest.raises(ValueError, match=words):
        export(nothing, tmp_path / name, **options)


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'coremltools', None)
    with pytest.raises(ModuleNotFoundError, match=r"^Core ML needs the package coremltools: .*'flaxmobile\[coreml\]'"):
        to_coreml(small('short'), tmp_path / 'model.mlpackage')
    assert list(tmp_path.iterdir()) == []


@parity
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import coremltools

    def full(*_: object, **__: object) -> None:
        raise RuntimeError('filesystem error: cannot copy:\nNo space left on device')

    monkeypatch.setattr(coremltools.models.MLModel, 'save', full)
    with pytest.raises(ValueError, match=r'^export: coremltools does not write the package: .* copy:\\nNo space left'):
        to_coreml(small('short'), tmp_path / 'new' / 'model.mlpackage')
    assert list(tmp_path.iterdir()) == []
