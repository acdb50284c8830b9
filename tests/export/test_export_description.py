import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest

import flaxmobile
from flaxmobile.data import Preprocessing
from flaxmobile.export.description import describe, from_json, to_json
from flaxmobile.export.program import Program
from flaxmobile.weights import Model, find
from tests.networks import Linear

GREY = Preprocessing(image_size=4, channels=1, mean=(0.25,), std=(0.5,), crop_fraction=1, interpolation='bilinear')


def program(side: int, channels: int, dtype: object) -> Program:
    return Program(lambda images: (images,), jax.ShapeDtypeStruct((1, side, side, channels), dtype), ('logits',))


def test_a_description_says_all_that_an_application_needs() -> None:
    model = Model(Linear(), {'params': {}}, GREY, labels=('a', 'b', 'ü'), name='mine')
    assert describe(model, program(8, 1, jnp.uint8), {'format': 'onnx'}) == {
        'format': 1,
        'version': flaxmobile.__version__,
        'made': {'jax': jax.__version__, 'format': 'onnx'},
        'name': 'mine',
        'task': 'classification',
        'outputs': ['logits'],
        'input_type': 'uint8',
        'output_type': 'float32',
        'labels': ['a', 'b', 'ü'],
        'preprocessing': {
            'image_size': 8,  # of the program, not the model's own
            'channels': 1,
            'channel_order': 'grey',
            'interpolation': 'bilinear',
            'crop_fraction': 1.0,
            'resize': 'shorter side',
            'resized_side': 8,
            'antialias': True,
            'crop': 'center',
            'mean': [0.25],
            'std': [0.5],
            'normalized_inside': True,
        },
        'license': None,
        'source': None,
    }


@pytest.mark.parametrize(
    ('dtype', 'int8_io', 'types'),
    [
        (jnp.float32, False, ('float32', 'float32')),
        (jnp.float32, True, ('int8', 'int8')),
        (jnp.uint8, True, ('uint8', 'int8')),
    ],
)
def test_the_types_of_input_and_output_are_said(dtype: object, int8_io: bool, types: tuple[str, str]) -> None:
    said = describe(Model(Linear(), {'params': {}}, GREY), program(4, 1, dtype), {}, int8_io=int8_io)
    assert (said['input_type'], said['output_type']) == types


def test_a_fine_tuned_model_has_the_licence_of_what_it_started_from() -> None:
    weight = find('mobilenetv2_100.tv_in1k')
    model = Model(Linear(), {'params': {}}, GREY, name='mobilenetv2_100', started_from=weight)
    said = describe(model, program(4, 1, jnp.float32), {})
    assert said['name'] == 'mobilenetv2_100'
    assert (said['license'], said['source']) == ('BSD-3-Clause', weight.address)


def test_a_published_weight_brings_name_licence_and_source() -> None:
    weight = find('mobilenetv2_100.tv_in1k')
    model = Model(Linear(1000), {'params': {}}, weight.preprocessing(), name='mobilenetv2_100', weight=weight)
    said = describe(model, program(224, 3, jnp.float32), {})
    assert said['name'] == 'mobilenetv2_100.tv_in1k'
    assert said['license'] == 'BSD-3-Clause'
    assert said['source'] == 'https://download.pytorch.org/models/mobilenet_v2-b0353104.pth'
    assert said['labels'] is None
    assert said['preprocessing']['channel_order'] == 'RGB'
    assert said['preprocessing']['resized_side'] == 256  # floor(224 / 0.875)
    assert said['preprocessing']['normalized_inside'] is False


def test_a_description_comes_back_as_it_was() -> None:
    model = Model(Linear(), {'params': {}}, dataclasses.replace(GREY, mean=(1 / 3,)), labels=('a', 'b', 'ü'))
    said = describe(model, program(4, 1, jnp.float32), {'opset': 17})
    text = to_json(said)
    assert text.isascii()
    assert from_json(text) == from_json(text.encode()) == said


@pytest.mark.parametrize('text', ['', '[]', '7', 'null', '{}', json.dumps({'format': 2})])
def test_another_description_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='what the file says of itself'):
        from_json(text)
