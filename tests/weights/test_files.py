"""Weights of whole networks from file to file, in code and by `flaxmobile convert`."""

import dataclasses
import json
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile import weights
from flaxmobile.data import Preprocessing
from flaxmobile.models.network import variable_shapes
from flaxmobile.runs import sources
from flaxmobile.runs.folder import RunDescription
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.state import TrainState
from flaxmobile.weights import Model
from flaxmobile.weights.class_names import vocabulary

NAME = 'mobilenetv1_025'
CLASSES = ('cat', 'dog', 'Zürich')
TARGETS = [
    ('ours.safetensors', None),
    ('timm.safetensors', 'timm'),
    ('keras.safetensors', 'keras'),
    ('ours.npz', None),
    ('timm.pth', None),
    ('timm.pt', 'timm'),
    ('keras.h5', None),
    ('keras.weights.h5', 'keras'),
]


@pytest.fixture(scope='module')
def loaded():
    model = flaxmobile.create_model(NAME, num_classes=3)
    preprocessing = Preprocessing(96, 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.9, 'bilinear')
    return Model(model, random_variables(model, (1, 64, 64, 3)), preprocessing, CLASSES, name=NAME)


@pytest.fixture
def ours(loaded, tmp_path):
    path = tmp_path / 'ours.safetensors'
    loaded.save(path)
    return path


def same(found, expected):
    found, expected = flatten_dict(found), flatten_dict(expected)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        assert found[path].dtype == value.dtype
        np.testing.assert_array_equal(found[path], value, err_msg=str(path))


@pytest.mark.filterwarnings('ignore:.* the network of Keras')
@pytest.mark.parametrize(('name', 'layout'), TARGETS)
def test_every_number_comes_back(loaded, tmp_path, name, layout):
    path = tmp_path / 'folder' / name
    loaded.save(path, layout=layout)
    assert [path.name for path in path.parent.iterdir()] == [name]
    found = weights.load_file(path, NAME, ignore_convention='keras' in name)
    same(found.variables, loaded.variables)
    assert found.module == loaded.module
    assert (found.name, found.overrides) == (NAME, {'num_classes': 3})
    said = name == 'ours.safetensors'
    assert bool(found.assumed) is not said
    assert found.labels == (CLASSES if said else None)
    assert found.preprocessing == (loaded.preprocessing if said else Preprocessing(224))


def test_our_own_format_says_everything(loaded, tmp_path):
    overrides = {'stem_stride': 1, 'dropout_rate': 0.5, 'convention': 'tensorflow'}
    model = flaxmobile.create_model(NAME, num_classes=3, **overrides)
    path = tmp_path / 'weights.safetensors'
    replace(loaded, module=model, overrides=overrides).save(path)
    found = weights.load_file(path)
    assert found.module == model
    assert (found.preprocessing, found.labels, found.task) == (loaded.preprocessing, CLASSES, 'classification')
    assert (found.name, found.overrides, found.assumed) == (NAME, {'num_classes': 3, **overrides}, '')
    same(found.variables, loaded.variables)
    with safetensors.safe_open(path, 'numpy') as file:
        said = json.loads(file.metadata()['flaxmobile'])
        names = set(file.keys())
    assert said['model'] == {'name': NAME, 'num_classes': 3, **overrides}
    assert said['classes'] == list(CLASSES)
    assert said['preprocessing']['mean'] == [0.1, 0.2, 0.3]
    assert said['flaxmobile'] == flaxmobile.__version__
    assert names == {'/'.join(path) for path in flatten_dict(loaded.variables)}


@pytest.mark.filterwarnings('ignore:.* the network of Keras')
@pytest.mark.parametrize('name', ['timm.pth', 'keras.npz'])
def test_classes_and_channels_are_counted(tmp_path, name):
    """No classifier, ImageNet's classes, grey images."""
    path = tmp_path / name
    for classes, channels in ((0, 3), (1000, 3), (2, 1)):
        model = flaxmobile.create_model(NAME, num_classes=classes)
        variables = random_variables(model, (1, 64, 64, channels))
        given = Preprocessing(64, channels, (0.5,) * channels, (0.5,) * channels)
        layout = name.split('.')[0]
        task = 'classification' if classes else None
        Model(model, variables, given, task=task, name=NAME).save(path, layout=layout, overwrite=True)
        found = weights.load_file(path, NAME, ignore_convention=layout == 'keras')
        assert found.module == model
        assert found.preprocessing.channels == channels
        same(found.variables, variables)
        assert found.labels == (vocabulary('imagenet-1k').names if classes == 1000 else None)
        assert found.task == task


def test_bfloat16(loaded, tmp_path):
    half = jax.tree.map(lambda value: np.asarray(value).astype(jnp.bfloat16), loaded.variables)
    model = flaxmobile.create_model(NAME, num_classes=3, param_dtype=jnp.bfloat16)
    for name in ('ours.safetensors', 'timm.pt'):
        replace(loaded, variables=half).save(tmp_path / name)
        found = weights.load_variables(tmp_path / name, model)
        same(found['params'], half['params'])
        wide = weights.load_variables(tmp_path / name, loaded.module)
        same(wide, jax.tree.map(lambda value: value.astype(np.float32), half))
    with pytest.raises(ValueError, match=r'ours\.npz: .* is bfloat16, which .npz cannot hold'):
        replace(loaded, variables=half).save(tmp_path / 'ours.npz')


def damage(arrays):
    """One tensor renamed, one missing, one of another shape, one of integers; and what is said of them."""
    renamed, missing, reshaped, integers, *_ = sorted(arrays)
    arrays['nobody'] = arrays.pop(renamed)
    del arrays[missing]
    arrays[reshaped] = arrays[reshaped][None]
    arrays[integers] = arrays[integers].astype(np.int32)
    return [f'missing (2): {renamed}, {missing};', 'unexpected (1): nobody;', f'{reshaped} is', f'{integers} is int32']


@pytest.mark.filterwarnings('ignore:.* the network of Keras')
@pytest.mark.parametrize(
    ('suffix', 'layout'), [('.npz', None), ('.npz', 'timm'), ('.npz', 'keras'), ('.safetensors', 'timm')]
)
def test_all_that_does_not_fit_is_named(loaded, tmp_path, suffix, layout):
    path = tmp_path / f'weights{suffix}'
    loaded.save(tmp_path / 'right.npz', layout=layout)
    with np.load(tmp_path / 'right.npz') as file:
        arrays = {name: file[name] for name in file if 'tracked' not in name}
    faults = damage(arrays)
    if suffix == '.npz':
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match=rf'^{path}: ') as refusal:
        weights.load_variables(path, loaded.module)
    for fault in faults:
        assert fault in str(refusal.value)


def test_what_does_not_fit_may_be_excused(loaded, tmp_path):
    path = tmp_path / 'weights.pth'
    loaded.save(path)
    model = flaxmobile.create_model(NAME, num_classes=5)
    initial = random_variables(model, (1, 64, 64, 3), seed=1)
    with pytest.raises(ValueError, match=r'weights\.pth: .*classifier\.weight is \(3, 256\) instead of \(5, 256\)'):
        weights.load_variables(path, model)
    found = weights.load_variables(path, model, excuse=['classifier.*'], initial=initial)
    same(found['params']['classifier'], initial['params']['classifier'])
    same(found['params']['block_00'], loaded.variables['params']['block_00'])


def test_nothing_is_replaced_or_half_written(loaded, ours, monkeypatch):
    before = ours.read_bytes()
    with pytest.raises(FileExistsError, match=r'ours\.safetensors is already there: overwrite=True'):
        loaded.save(ours)

    def full(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patched:
        patched.setattr('os.fsync', full)
        with pytest.raises(OSError, match='No space left'):
            loaded.save(ours, overwrite=True)
    wrong = replace(loaded, variables={'params': loaded.variables['params'], 'batch_stats': {}})
    with pytest.raises(ValueError, match=r'these variables are not those of MobileNetV1: missing \(54\): '):
        wrong.save(ours, overwrite=True)
    assert ours.read_bytes() == before
    assert list(ours.parent.iterdir()) == [ours]
    loaded.save(ours, overwrite=True)
    assert ours.read_bytes() == before


@pytest.mark.parametrize(
    ('name', 'layout', 'words'),
    [
        ('weights.onnx', None, r"'\.onnx' is none of \.safetensors, \.npz, \.pth, \.pt, \.weights\.h5, \.h5"),
        ('weights', None, "'' is none of"),
        ('weights.keras', None, r"'\.keras' is none of"),
        ('weights.npz', 'tims', r"unknown layout 'tims'. Did you mean: timm"),
        ('weights.pth', 'keras', r'\.pth does not hold the names of keras'),
        ('weights.h5', 'timm', r'\.h5 does not hold the names of timm'),
        ('weights.weights.h5', 'torchvision', r'\.weights\.h5 does not hold the names of torchvision'),
        ('weights.pth', 'torchvision', r"unknown torch layout of MobileNetV1 'torchvision'"),
    ],
)
def test_formats_and_layouts_that_there_are_not(loaded, tmp_path, name, layout, words):
    with pytest.raises(ValueError, match=words):
        loaded.save(tmp_path / name, layout=layout)
    assert list(tmp_path.iterdir()) == []


def described(loaded, **changes):
    """Our own format, saying something else of itself."""
    from flaxmobile.weights.formats import safetensors_file

    said = {
        'model': {'name': NAME, 'num_classes': 3},
        'classes': CLASSES,
        'preprocessing': dataclasses.asdict(loaded.preprocessing),
    }
    arrays = {'/'.join(path): np.asarray(value) for path, value in flatten_dict(loaded.variables).items()}
    return safetensors_file.encode_ours(arrays, {name: value for name, value in (said | changes).items() if value})


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'model': None}, 'it does not say its model'),
        ({'model': 7}, 'model is 7, and has to be an object of fields'),
        (
            {'model': {'name': NAME, 'num_classes': 'x'}},
            'MobileNetV1: num_classes must be a whole number',
        ),
        ({'model': {'name': 'mobilenetv1_026'}}, "unknown model 'mobilenetv1_026'"),
        ({'model': {'name': NAME, 'colour': 1}}, 'unknown field'),
        ({'model': {'name': NAME, 'num_classes': 4}}, 'names 3 classes for 4 logits'),
        ({'classes': ['a']}, 'names 1 classes for 3 logits'),
        ({'preprocessing': {'size': 3}}, "unknown field of Preprocessing 'size'"),
        ({'model': {'name': 'mobilenetv1_050', 'num_classes': 3}}, 'the tensors do not fit MobileNetV1'),
    ],
)
def test_our_own_format_with_something_wrong_in_it(loaded, tmp_path, changes, words):
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(described(loaded, **changes))
    with pytest.raises(ValueError, match=rf'^{path}: {words}'):
        weights.load_file(path)


def test_a_file_that_does_not_say_what_it_is(loaded, ours, tmp_path):
    path = tmp_path / 'weights.pth'
    loaded.save(path)
    assert weights.load_file(path).assumed.startswith(f'says neither which network it is of (its tensors fit {NAME} ')
    with pytest.raises(ValueError, match=r'ours\.safetensors: holds mobilenetv1_025, not mobilenetv1_050'):
        weights.load_file(ours, 'mobilenetv1_050')
    with pytest.raises(ValueError, match='unknown model'):
        weights.load_file(path, 'mobilenetv1_026')


def test_the_command_converts_files(command, loaded, ours, tmp_path):
    there, back = tmp_path / 'there.pth', tmp_path / 'back.safetensors'
    assert command('convert', ours, there) == (0, f'{there}: {NAME}, 3 classes\n', '')
    for words in (['--model', NAME], ['--overwrite']):
        status, out, error = command('convert', there, back, *words)
        assert (status, out) == (0, f'{back}: {NAME}, 3 classes\n')
        assert 'how images are prepared nor what its classes are' in error
        recognized = f'{there} says neither which network it is of (its tensors fit {NAME} alone), how images' in error
        assert recognized is (words == ['--overwrite'])
        same(weights.load_file(back).variables, loaded.variables)
    with pytest.warns(UserWarning, match=r'^MobileNetV1 here has symmetric .* the network of Keras .* something else$'):
        assert command('convert', ours, tmp_path / 'keras.h5')[0] == 0
    status, _, error = command('convert', ours, there)
    assert (status, error) == (2, f'flaxmobile: {there} is already there: --overwrite replaces it\n')
    assert command('convert', ours, there, '--overwrite')[0] == 0
    missing = tmp_path / 'none.pth'
    assert command('convert', missing, tmp_path / 'x.npz')[2] == f'flaxmobile: there is no run and no file {missing}\n'
    assert 'unknown weights' in command('convert', 'mobilenetv1_26', tmp_path / 'x.npz')[2]
    assert 'invalid choice' in command('convert', ours, tmp_path / 'x.npz', '--layout', 'flax')[2]


def test_the_command_converts_runs_and_published_weights(command, loaded, tmp_path, monkeypatch):
    config = TrainConfig(model=NAME, dataset='flowers', stem_stride=1, preprocessing=Preprocessing(32))
    model = config.build_model(3)
    collections = {'batch_stats': loaded.variables['batch_stats']}
    state = TrainState(jnp.int32(5), loaded.variables['params'], collections, {}, None)
    RunDescription(config, CLASSES).write(tmp_path / 'run')
    checkpoints = Checkpoints(tmp_path / 'run')
    checkpoints.save(5, state)
    checkpoints.close()
    (tmp_path / 'run/metrics.jsonl').touch()
    target = tmp_path / 'run.safetensors'
    assert command('convert', tmp_path / 'run', target) == (0, f'{target}: {NAME}, 3 classes\n', '')
    found = weights.load_file(target)
    assert (found.module, found.labels, found.preprocessing) == (model.clone(dtype=None), CLASSES, config.preprocessing)
    same(found.variables, loaded.variables)

    network = 'tf_mobilenetv1_025'
    model = flaxmobile.create_model(network, num_classes=3)
    monkeypatch.setattr(sources, 'load_pretrained', lambda name, **_: replace(loaded, module=model, name=network))
    published, target = weights.find(network).name, tmp_path / 'published.safetensors'
    assert command('convert', published, target) == (0, f'{target}: {network}, 3 classes\n', '')
    assert weights.load_file(target).module == model
    wrong = command('convert', published, tmp_path / 'x.npz', '--model', NAME)[2]
    assert f'{network} is to be written, not {NAME}' in wrong


@pytest.mark.parametrize(
    ('name', 'layout'),
    [
        pytest.param(
            *target, marks=() if target[0] in ('ours.safetensors', 'timm.pth', 'keras.h5') else pytest.mark.thorough
        )
        for target in TARGETS
    ],
)
def test_what_a_file_does_not_keep_is_told(loaded, tmp_path, name, layout):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        loaded.save(tmp_path / name, layout=layout)
    told = [str(warning.message) for warning in caught if 'not in it' in str(warning.message)]
    wanted = f'{tmp_path / name}: holds tensors alone; not in it are the name of the network, the names of the 3 '
    if name == 'ours.safetensors':
        assert told == []
    else:
        assert len(told) == 1
        assert told[0].startswith(wanted)
        assert 'image size of 96 pixels. A .safetensors file without layout keeps them' in told[0]


def test_a_model_writes_itself(loaded, tmp_path):
    loaded.save(tmp_path / 'weights.safetensors')
    same(weights.load_file(tmp_path / 'weights.safetensors').variables, loaded.variables)


def test_float64_is_converted_number_for_number(tmp_path):
    model = flaxmobile.create_model(NAME, num_classes=3)
    arrays = {
        path: np.random.default_rng(0).normal(size=own.shape)
        for path, own in flatten_dict(variable_shapes(model), sep='/').items()
    }
    np.savez(tmp_path / 'wide.npz', **arrays)
    weights.convert(tmp_path / 'wide.npz', tmp_path / 'out.npz', NAME)
    with np.load(tmp_path / 'out.npz') as written:
        assert all(np.array_equal(written[path], array) for path, array in arrays.items())
