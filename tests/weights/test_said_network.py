"""A file that says its network, and a model that computes otherwise with the same tensors."""

import functools
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from torch_archives import torch_zip

import flaxmobile
from flaxmobile import weights
from flaxmobile.data import Preprocessing
from flaxmobile.models import MobileNetV4ConvMedium
from flaxmobile.models.network import MobileNet, variable_shapes
from flaxmobile.weights import Model, files, formats, origins
from flaxmobile.weights.formats import File, safetensors_file

SMALL = {'num_classes': 2, 'width_multiplier': 0.1}


@functools.cache
def zeros(name: str, channels: int = 3, **fields: Any) -> dict[str, Any]:
    shapes = variable_shapes(flaxmobile.create_model(name, **SMALL, **fields), channels)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def of(name: str, channels: int = 3, **fields: Any) -> Model:
    half = (0.5,) * channels
    model = flaxmobile.create_model(name, **SMALL, **fields)
    variables, preprocessing = zeros(name, channels), Preprocessing(64, channels, half, half)
    return Model(model, variables, preprocessing, ('a', 'b'), name=name, overrides=SMALL | fields)


@pytest.mark.parametrize(
    ('name', 'fields', 'written', 'needed'),
    [
        ('mobilenetv2_050', {'stem_stride': 1}, 'mobilenetv2_050', {'stem_stride': 1}),
        ('mobilenetv2_050', {'output_stride': 8}, 'mobilenetv2_050', {'output_stride': 8}),
        ('mobilenetv4_conv_aa_medium', {}, 'mobilenetv4_conv_medium', {'anti_aliasing': 'average'}),
    ],
)
def test_a_file_of_ours_is_not_written_with_the_word_of_another_network(
    name: str, fields: dict[str, Any], written: str, needed: dict[str, Any], tmp_path: Path
) -> None:
    path, loaded = tmp_path / 'own.safetensors', of(name, **fields)
    with pytest.raises(ValueError, match='would answer something else') as refusal:
        replace(loaded, name=written, overrides=SMALL).save(path)
    assert str(refusal.value).startswith(f'{path}: the model differs from {written} in {next(iter(needed))} ')
    assert f'Give overrides={needed}' in str(refusal.value)
    assert not path.exists()
    replace(loaded, name=written, overrides=SMALL | needed).save(path)
    back = weights.load_file(path).module
    assert {field: getattr(back, field) for field in needed} == needed


def test_the_images_that_a_file_of_ours_says_are_its_network_s(tmp_path: Path) -> None:
    path, grey = tmp_path / 'own.safetensors', of('mobilenetv2_050', channels=1)
    with pytest.raises(
        ValueError, match=r'own\.safetensors: preprocessing\.channels is 3, and .* images of 1 channels'
    ):
        replace(grey, preprocessing=Preprocessing(64)).save(path)
    assert not path.exists()
    grey.save(path)
    assert weights.load_file(path).preprocessing.channels == 1


def test_a_stem_of_another_stride(tmp_path: Path) -> None:
    path = tmp_path / 'own.safetensors'
    of('mobilenetv2_050', stem_stride=1).save(path)
    model = of('mobilenetv2_050').module
    with pytest.raises(ValueError, match=r'holds mobilenetv2_050, .* in stem_stride \(1, 2\).*ignore_convention=True'):
        weights.load_variables(path, model)
    weights.load_variables(path, model, ignore_convention=True)
    weights.load_variables(path, model.clone(stem_stride=1, output_stride=16))


class Mine(MobileNetV4ConvMedium):
    """A network that inherits all but its name."""

    extra: int = 0


def test_a_subclass_is_held_to_the_fields_that_both_have(tmp_path: Path) -> None:
    path, loaded = tmp_path / 'own.safetensors', of('mobilenetv4_conv_aa_medium')
    loaded.save(path)
    mine = Mine(convention='torch', **SMALL)
    with pytest.raises(ValueError, match=r"Mine here differs from it in anti_aliasing \('average', None\)"):
        weights.load_variables(path, mine)
    weights.load_variables(path, mine.clone(anti_aliasing='average'))
    assert origins.differing(mine, loaded.module) == "anti_aliasing (None, 'average')"
    assert not origins.differing(mine, flaxmobile.create_model('mobilenetv1_025'))


def test_networks_of_one_answer_differ_in_nothing() -> None:
    create = flaxmobile.create_model
    for name, one, other in (
        ('mobilenetv3_small_minimal_100', {}, {'remat': True}),
        ('mobilenetv2_035', {}, {'width_multiplier': 0.36}),
        ('mobilenetv2_035', {}, {'depth_multiplier': 0.99}),
        ('mobilenetv2_035', {'dropout_rate': 0.5}, {'stochastic_depth_rate': 0.1, 'num_classes': 7}),
    ):
        assert not origins.differing(create(name, **one), create(name, **other))


def test_a_part_of_another_width_may_still_be_taken(tmp_path: Path) -> None:
    path = tmp_path / 'own.safetensors'
    of('mobilenetv2_050').save(path)
    model = flaxmobile.create_model('mobilenetv2_050', num_classes=2, width_multiplier=0.2)
    initial = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variable_shapes(model))
    with pytest.raises(weights.TensorMismatchError, match=r'MobileNetV2 \(they are of mobilenetv2_050, as the file'):
        weights.load_variables(path, flaxmobile.create_model('mobilenetv2_100', **SMALL | {'width_multiplier': 1.0}))
    taken = weights.load_variables(path, model, excuse='*', initial=initial)
    assert not np.any(taken['params']['block_00']['depthwise']['norm']['scale'])
    assert np.all(taken['params']['stem']['conv']['kernel'] == 0)
    assert np.all(taken['params']['head_conv']['conv']['kernel'] == 1)


@pytest.mark.parametrize(
    ('arch', 'into', 'words'),
    [
        pytest.param(
            'mobilenetv4_conv_aa_medium',
            'mobilenetv4_conv_medium',
            r"anti_aliasing \('average', None\)",
            marks=pytest.mark.thorough,  # As `test_a_subclass_is_held_to_the_fields_that_both_have`, and large.
        ),
        ('tf_mobilenetv3_small_100', 'mobilenetv3_small_100', r'made for same padding'),
    ],
)
def test_a_checkpoint_s_word_is_held_against_the_model(arch: str, into: str, words: str) -> None:
    def read(model: MobileNet, said: Any, **options: Any) -> dict[str, Any]:
        file = File('torch', tensors, {} if said is None else {'arch': said})
        return files.read_variables(Path('x.pth'), file, model, **options)

    model = flaxmobile.create_model(into, num_classes=2)
    values = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variable_shapes(model))
    tensors = weights.to_torch(values, model)
    with pytest.raises(ValueError, match=rf'^x\.pth: .*{arch}, as the file says.*{words}.*ignore_convention=True'):
        read(model, arch)
    read(model, arch, ignore_convention=True)
    for said in (None, into) if 'v4' in into else (None, 'mobilenetv1_025', 'resnet50', 7):
        read(model, said)


def test_arch_against_a_name_that_is_given(tmp_path: Path) -> None:
    model = flaxmobile.create_model('mobilenetv3_small_100', num_classes=2)
    values = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variable_shapes(model))
    path = tmp_path / 'checkpoint.pth'
    tensors = weights.to_torch(values, model)
    path.write_bytes(torch_zip({'arch': 'tf_mobilenetv3_small_100', 'state_dict': tensors}))
    assert 'its `arch` says tf_mobilenetv3_small_100' in weights.load_file(path).assumed
    with pytest.raises(ValueError, match='tf_mobilenetv3_small_100, as the file says'):
        weights.load_file(path, 'mobilenetv3_small_100')


def rewritten(path: Path, written: int) -> None:
    """The file at `path` again, as of that format."""
    file = formats.read(path)
    path.write_bytes(safetensors_file.encode_ours(file.tensors, file.metadata | {'format': written}))


@pytest.mark.parametrize(
    ('name', 'overrides', 'words'),
    [
        ('tf_mobilenetv1_025', {}, "no multiple of 32.* convention='tensorflow'"),
        ('tf_mobilenetv1_025', {'convention': 'tensorflow'}, ''),
        ('mobilenetv1_025', {'output_stride': 8}, ''),
        ('mobilenetv3_small_050', {'output_stride': 16}, r'output_stride=16 dilates .*dilate_strided=True'),
        ('mobilenetv3_small_050', {'output_stride': 16, 'stem_stride': 1}, ''),
        ('mobilenetv3_small_050', {}, ''),
        ('tv_mobilenetv3_small_100', {'output_stride': 16}, ''),
        ('mobilenetv4_conv_small_035', {'output_stride': 8}, r'output_stride=8 dilates'),
        ('mobilenetv2_050', {'output_stride': 8}, ''),
    ],
)
def test_an_older_file_of_a_network_that_has_changed_since_is_told(
    name: str, overrides: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tmp_path / 'own.safetensors'
    of(name, **overrides).save(path)
    with safetensors.safe_open(path, 'numpy') as file:
        assert json.loads(file.metadata()['flaxmobile'])['format'] == 3
    for written in (3, 2, 1) if words else (1,):
        rewritten(path, written)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            weights.load_file(path)
        assert len(told) == bool(words and written == 1)
        for warning in told:
            assert re.search(rf'^{path}: was written by an earlier .*{words}', str(warning.message))
            assert str(warning.message).isprintable()
