"""Reading a crop equals decoding the whole image by Pillow and cutting it."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from flaxmobile.data import (
    Augmentation,
    Preprocessing,
    UnreadableImage,
    prepare_for_training,
    read_image,
)
from flaxmobile.data.geometry import Crop
from flaxmobile.data.images import _shorten, read_crop


def pixels_of(height: int, width: int, seed: int) -> np.ndarray:
    """Noise on a ramp: every row and column tells."""
    rows, columns = np.mgrid[:height, :width]
    ramp = np.stack([rows * 3, columns * 2, rows + columns], -1)
    return (ramp + np.random.default_rng(seed).integers(0, 60, (height, width, 3))).astype(np.uint8)


def jpeg(pixels: np.ndarray, mode: str = 'RGB', **options) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(content, 'JPEG', **options)
    return content.getvalue()


def whole(encoded: bytes, mode: str) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert(mode))


ENCODINGS = st.fixed_dictionaries(
    {
        'mode': st.sampled_from(['RGB', 'RGB', 'L', 'CMYK']),
        'subsampling': st.sampled_from(['4:4:4', '4:2:2', '4:2:0']),
        'quality': st.sampled_from([30, 75, 90, 100]),
        'progressive': st.booleans(),
        'optimize': st.booleans(),
        'restart_marker_rows': st.sampled_from([0, 1, 2]),
    }
)


@st.composite
def crops(draw):
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 70))
    rows, columns = draw(st.integers(1, height)), draw(st.integers(1, width))
    box = draw(st.integers(0, height - rows)), draw(st.integers(0, width - columns)), rows, columns
    return height, width, box


@settings(max_examples=150, deadline=None)
@given(crops(), ENCODINGS, st.integers(0, 8), st.sampled_from([1, 3]), st.integers(0, 99))
def test_a_crop_is_that_of_the_whole_image(crop, encoding, orientation, channels, seed):
    height, width, (top, left, rows, columns) = crop
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    stored = (width, height) if orientation >= 5 else (height, width)
    encoded = jpeg(pixels_of(*stored, seed), exif=exif, **encoding)
    asked = []

    def choose(*shape):
        asked.append(shape)
        return Crop(top, left, rows, columns)

    mode = {1: 'L', 3: 'RGB'}[channels]
    found = read_crop(encoded, channels, choose)
    assert (asked, found.mode) == ([(height, width)], mode)
    np.testing.assert_array_equal(found, whole(encoded, mode)[top : top + rows, left : left + columns])


@pytest.mark.parametrize('subsampling', ['4:4:4', '4:2:2', '4:2:0'])
def test_rows_below_are_left_out_of_a_baseline_jpeg_alone(subsampling):
    pixels = pixels_of(96, 40, 0)
    for options, height in (({}, 48), ({'progressive': True}, 96), ({'restart_marker_rows': 1}, 48)):
        shortened = _shorten(jpeg(pixels, subsampling=subsampling, **options), 40)
        assert Image.open(io.BytesIO(shortened)).height == height


def test_bytes_that_fill_up_before_a_marker():
    encoded = jpeg(pixels_of(64, 48, 0))
    frame = encoded.index(b'\xff\xc0')
    filled = encoded[:frame] + b'\xff\xff' + encoded[frame:]
    assert _shorten(filled, 20) != filled
    crop = np.asarray(read_crop(filled, 3, lambda height, width: Crop(4, 5, 16, 17)))
    np.testing.assert_array_equal(crop, whole(encoded, 'RGB')[4:20, 5:22])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0, 1]), st.integers(1, 64))
def test_a_truncated_file_is_noticed_wherever_the_crop_lies(place, progressive, restarts, rows):
    encoded = jpeg(pixels_of(64, 48, 1), progressive=progressive, restart_marker_rows=restarts)
    cut = encoded[: place % len(encoded)]
    try:
        expected = read_image(cut)[:rows]
    except UnreadableImage:
        with pytest.raises(UnreadableImage, match=f'{len(cut)} bytes'):
            read_crop(cut, 3, lambda height, width: Crop(0, 0, rows, width))
    else:
        np.testing.assert_array_equal(read_crop(cut, 3, lambda height, width: Crop(0, 0, rows, width)), expected)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255), st.integers(1, 64))
def test_a_damaged_file_is_unreadable_for_both_or_for_neither(place, value, rows):
    encoded = bytearray(jpeg(pixels_of(64, 48, 2)))
    encoded[place % len(encoded)] = value
    try:
        expected = read_image(bytes(encoded))
    except UnreadableImage:
        expected = None

    def read():
        return read_crop(bytes(encoded), 3, lambda height, width: Crop(0, 0, min(rows, height), width))

    if expected is None:
        with pytest.raises(UnreadableImage):
            read()
    else:
        np.testing.assert_array_equal(read(), expected[:rows])


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('channels', [1, 3])
def test_training_images_are_those_of_the_whole_image(kind, channels, tmp_path):
    path = tmp_path / 'image'
    Image.fromarray(pixels_of(120, 90, 3)).save(path, kind)
    preprocessing = Preprocessing(32, channels, (0.5,) * channels, (0.5,) * channels)
    for seed in range(20):
        expected = prepare_for_training(
            read_image(path, channels), preprocessing, Augmentation(), np.random.default_rng(seed)
        )
        for source in (path, path.read_bytes()):
            found = prepare_for_training(source, preprocessing, Augmentation(), np.random.default_rng(seed))
            np.testing.assert_array_equal(found, expected)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnreadableImage, match='nowhere'):
        read_crop(tmp_path / 'nowhere.jpg', 3, lambda *_: Crop(0, 0, 1, 1))
