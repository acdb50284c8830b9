"""What a file of our own format says of itself, changed on purpose: refused by its fields' names, or it works."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import flaxmobile
from flaxmobile import weights
from flaxmobile.data import Preprocessing, prepare_for_evaluation
from flaxmobile.models.network import variable_shapes
from flaxmobile.weights.formats import safetensors_file

NAME = 'mobilenetv2_035'
MODEL = {'name': NAME, 'num_classes': 3, 'width_multiplier': 0.1}
SAID = {
    'flaxmobile': '0.1',
    'model': MODEL,
    'preprocessing': dataclasses.asdict(Preprocessing(32)),
    'classes': ['cat', 'dog', 'eel'],
}


@functools.cache
def arrays():
    """The tensors of the network."""
    fields = {key: value for key, value in MODEL.items() if key != 'name'}
    shapes = flatten_dict(variable_shapes(flaxmobile.create_model(NAME, **fields)), sep='/')
    return {name: np.full(shape.shape, 0.1, np.float32) for name, shape in shapes.items()}


def changed(part, **fields):
    return SAID | {part: {**SAID[part], **fields}}


def without(part, field):
    return SAID | {part: {name: value for name, value in SAID[part].items() if name != field}}


LONGEST_MISFIT = 4 * 10 * 220
"""Characters: of four kinds of faults ten names each, none longer than a message shows."""


def refusal(path):
    """Why a file is refused, '' if it is not: its path, then one printable line of bounded length."""
    try:
        weights.load_file(path)
    except ValueError as error:
        message = str(error)
        assert message.startswith(f'{path}: ')
        assert message.isprintable()
        assert len(message) < len(str(path)) + (LONGEST_MISFIT if 'the tensors do not fit' in message else 700)
        return message[len(str(path)) + 2 :]
    return ''


@pytest.mark.parametrize(
    ('said', 'words'),
    [
        (changed('model', dtype='x'), 'MobileNetV2: dtype must be'),
        (changed('model', param_dtype=[]), 'MobileNetV2: param_dtype must be'),
        (changed('model', convention=None), 'MobileNetV2: convention must be'),
        (changed('model', convention='tensorflo'), "MobileNetV2: unknown convention 'tensorflo'"),
        (changed('model', num_classes=10**12), 'MobileNetV2: num_classes is 1000000000000, and the file holds'),
        (changed('model', num_classes=10**4000), 'MobileNetV2: num_classes is 10000'),
        (changed('model', num_classes=4), 'names 3 classes for 4 logits'),
        (changed('model', num_classes=True), 'MobileNetV2: num_classes must be a whole number'),
        (changed('model', width_multiplier=1e9), 'MobileNetV2: width_multiplier is 1000000000.0, and the file holds'),
        (changed('model', width_multiplier=0.2), 'the tensors do not fit MobileNetV2'),
        (changed('model', depth_multiplier=1e4), 'MobileNetV2: depth_multiplier must be a number above 0, at most 20'),
        (changed('model', depth_multiplier=20), 'MobileNetV2: depth_multiplier is 20, and .* 17 blocks'),
        (changed('model', depth_multiplier=2), 'the tensors do not fit MobileNetV2'),
        (changed('model', name=7), 'model.name is 7'),
        (changed('model', name=['x' * 10**5]), 'model.name is '),
        (without('model', 'name'), 'model.name is None'),
        (changed('model', colour=1), "unknown field of MobileNetV2 'colour'"),
        (
            changed('model', name='mobilenetv3_large_100', squeeze_divisor=1),
            "unknown field of MobileNetV3Large 'squeeze_divisor'",
        ),
        (changed('preprocessing', image_size=3.5), 'Preprocessing: image_size must be a whole number'),
        (changed('preprocessing', crop_fraction=1e-9), 'Preprocessing: crop_fraction must be'),
        (changed('preprocessing', mean=[0.5, 0.5]), 'Preprocessing: mean has 2 numbers for 3 channels'),
        (changed('preprocessing', mean=[[0.5], 0.5, 0.5]), 'Preprocessing: mean must be'),
        (changed('preprocessing', channels=1, mean=[0.5], std=[0.5]), 'preprocessing.channels is 1, and its network'),
        (changed('preprocessing', **{'a\n\x1b]0;x\x07': 1}), r"unknown field of Preprocessing 'a\\n\\x1b"),
        (without('preprocessing', 'std'), 'it does not say its std'),
        (SAID | {'classes': 'cat'}, "classes is 'cat', and has to be a list"),
        (SAID | {'classes': ['cat', 'dog', 7]}, 'classes holds 7'),
        (SAID | {'classes': ['cat', 'dog', 'c\x1b[2J']}, ''),
        (SAID | {'classes': ['c\x1b[2J', 'dog', 'c\x1b[2J']}, r"classes names 'c\\x1b\[2J' twice"),
        (SAID | {'classes': {'cat': 1}}, 'classes is '),
        (SAID | {'classes': None}, ''),
        (SAID | {'model': [MODEL]}, 'model is '),
        (SAID | {'flxmobile': 1}, "unknown entry 'flxmobile'. Did you mean: flaxmobile"),
        ({'model': MODEL}, 'it does not say its preprocessing'),
    ],
)
def test_each_field_that_is_wrong_is_named(said, words, tmp_path):
    path = tmp_path / 'a.safetensors'
    path.write_bytes(safetensors_file.encode_ours(arrays(), said))
    message = refusal(path)
    if words:
        assert re.match(words, message), message
    else:
        assert not message


@pytest.mark.parametrize(
    'text',
    [
        '{"model": {}, "model": {}}',
        '{"model": {"name": "x", "name": "y"}}',
        '{"model": NaN}',
        '{"model": -Infinity}',
        '{"a":' * 50_000,
    ],
)
def test_what_is_no_plain_json_is_refused(text, tmp_path):
    path = tmp_path / 'a.safetensors'
    inside = text[:-1] + f', "format": 1, "sha256": "{"0" * 64}"' + '}'
    path.write_bytes(safetensors_file.encode(arrays(), {'flaxmobile': inside}))
    assert "has flaxmobile's names and not its checksum" in refusal(path)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.sampled_from(
        [10**30, -(10**400), 1e308, 1e-300, -0.0, 0.5, 'torch', 'float32', 'bilinear', NAME, '\x1b\n', [], {}]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.one_of(st.floats(0, 1), st.text(max_size=2)), max_size=4),
    st.recursive(st.none(), lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=5),
)
FIELDS = sorted(field.name for field in dataclasses.fields(type(flaxmobile.create_model(NAME))))
PLACES = [
    *[('model', name) for name in FIELDS],
    *[('preprocessing', name) for name in SAID['preprocessing']],
    *[(name,) for name in SAID],
]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(PLACES), JUNK), min_size=1, max_size=2))
def test_a_changed_file_is_refused_or_works(tmp_path, changes):
    said = json.loads(json.dumps(SAID))
    for place, value in changes:
        inner = said[place[0]] if len(place) > 1 and isinstance(said[place[0]], dict) else said
        inner[place[-1]] = value
    path = tmp_path / 'a.safetensors'
    path.write_bytes(safetensors_file.encode_ours(arrays(), said))
    if refusal(path):
        return
    found = weights.load_file(path)
    preprocessing = found.preprocessing
    image = prepare_for_evaluation(np.zeros((9, 12, preprocessing.channels), np.uint8), preprocessing)
    pixels = preprocessing.normalize(image[None])
    assert jax.eval_shape(found.module.apply, found.variables, pixels).shape == (1, found.num_classes)
