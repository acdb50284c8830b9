"""The metadata flatbuffer and the labels of a LiteRT file, against a reader of bytes and `zipfile`."""

import io
import zipfile

import jax
import jax.numpy as jnp
import pytest
from small_networks import LABELS, small
from tflite_reader import root

import flaxmobile
from flaxmobile.export.description import describe
from flaxmobile.export.litert.metadata import check_labels, model_metadata, with_labels
from flaxmobile.export.program import Program


def described(dtype: object = jnp.float32, labelled: bool = True) -> dict:
    program = Program(lambda images: (images,), jax.ShapeDtypeStruct((1, 40, 40, 3), dtype), ('probabilities',))
    said = describe(small('v2'), program, {})
    return said if labelled else {**said, 'labels': None}


def test_the_metadata_says_what_an_image_classifier_asks_for() -> None:
    model = root(model_metadata(described()), b'M001')
    assert model.text(0) == 'mobilenetv2_035'
    assert model.text(7) == '1.0.0'
    assert model.text(1) == (
        f'Made by flaxmobile {flaxmobile.__version__}. Resize the shorter side to 45 pixels (bicubic, antialiased), '
        'then crop the central 40 x 40'
    )
    (graph,) = model.tables(3)
    (image,), (answer,) = graph.tables(2), graph.tables(3)
    assert image.text(0) == 'image'
    content = image.table(3)
    assert content.number(0, '<B') == 2  # ImageProperties
    properties = content.table(1)
    assert properties.number(0, '<b') == 1  # RGB
    size = properties.table(1)
    assert (size.number(0, '<I'), size.number(1, '<I')) == (40, 40)
    (unit,) = image.tables(4)
    assert unit.number(0, '<B') == 1  # NormalizationOptions, of pixels from 0 to 255
    assert unit.table(1).floats(0) == pytest.approx([123.675, 116.28, 103.53])
    assert unit.table(1).floats(1) == pytest.approx([58.395, 57.12, 57.375])
    assert answer.text(0) == 'probabilities'
    assert answer.table(3).number(0, '<B') == 1  # FeatureProperties
    (labels,) = answer.tables(6)
    assert labels.text(0) == 'labels.txt'
    assert labels.number(2, '<b') == 2  # TENSOR_AXIS_LABELS


def test_pixels_that_are_normalised_inside_are_not_normalised_before() -> None:
    (graph,) = root(model_metadata(described(jnp.uint8)), b'M001').tables(3)
    (unit,) = graph.tables(2)[0].tables(4)
    assert (unit.table(1).floats(0), unit.table(1).floats(1)) == ([0.0], [1.0])


def test_no_labels_are_told_of_where_there_are_none() -> None:
    (graph,) = root(model_metadata(described(labelled=False)), b'M001').tables(3)
    assert graph.tables(3)[0].tables(6) == []
    assert with_labels(b'file', None) == b'file'


def test_labels_lie_uncompressed_in_a_zip_behind_the_file() -> None:
    file = with_labels(b'file' * 99, LABELS)
    assert file.startswith(b'file' * 99)
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        assert archive.testzip() is None
        (entry,) = archive.infolist()
        assert (entry.filename, entry.compress_type) == ('labels.txt', zipfile.ZIP_STORED)
        assert archive.read(entry).decode().split('\n') == [*LABELS, '']
    assert '\n'.join(LABELS).encode() in file
    assert with_labels(b'file' * 99, LABELS) == file  # no time of the day in it


@pytest.mark.parametrize('label', ['two\nlines', '', 'line separator\u2028here', 'cat\n', 'cat\r', '\n'])
def test_a_label_of_another_number_of_lines_is_refused(label: str) -> None:
    assert check_labels(None) is None
    assert check_labels(LABELS) == LABELS
    with pytest.raises(ValueError, match=r'label 1 is .*one line of text'):
        check_labels(('a', label))
