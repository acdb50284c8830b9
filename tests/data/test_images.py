import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flaxmobile.data import (
    Augmentation,
    Preprocessing,
    UnreadableImage,
    prepare_for_evaluation,
    prepare_for_training,
    read_image,
)
from flaxmobile.data.augmentation import random_crop


def encoded(image: Image.Image, kind: str = 'PNG', **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.mark.parametrize(('kind', 'options'), [('PNG', {}), ('WEBP', {'lossless': True})])
def test_lossless_formats_come_back_exactly(picture, kind, options, tmp_path):
    content = encoded(Image.fromarray(picture), kind, **options)
    np.testing.assert_array_equal(read_image(content), picture)
    (tmp_path / 'picture').write_bytes(content)
    np.testing.assert_array_equal(read_image(tmp_path / 'picture'), picture)
    np.testing.assert_array_equal(read_image(str(tmp_path / 'picture')), picture)


def test_jpeg_is_near(picture):
    difference = read_image(encoded(Image.fromarray(picture), 'JPEG', quality=95)).astype(int) - picture
    assert abs(difference).mean() < 2


def test_grey_and_colour():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(grey)), 3), np.repeat(grey[..., None], 3, -1))
    red = read_image(encoded(Image.new('RGB', (2, 2), (255, 0, 0))), 1)
    assert red.shape == (2, 2, 1)
    assert np.all(red == round(0.299 * 255))  # ITU-R 601


def test_one_bit():
    np.testing.assert_array_equal(read_image(encoded(Image.new('1', (1, 1), 1)), 1), [[[255]]])


def test_palette_with_and_without_transparency():
    image = Image.new('P', (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    np.testing.assert_array_equal(read_image(encoded(image)), [[[10, 20, 30], [40, 50, 60]]])
    np.testing.assert_array_equal(read_image(encoded(image, transparency=1)), [[[10, 20, 30], [255, 255, 255]]])
    half = encoded(image, transparency=bytes([255, 128]))
    alpha = 128 / 255
    expected = [round(value * alpha + 255 * (1 - alpha)) for value in (40, 50, 60)]
    np.testing.assert_allclose(read_image(half)[0, 1], expected, atol=1)


@pytest.mark.parametrize('mode', ['RGBA', 'LA'])
def test_alpha_lies_on_white(mode):
    opaque, clear = (100, 255), (100, 0)
    image = Image.new('LA', (2, 1))
    image.putdata([opaque, clear])
    np.testing.assert_array_equal(read_image(encoded(image.convert(mode)))[0, :, 0], [100, 255])
    np.testing.assert_array_equal(read_image(encoded(image.convert(mode)), 1)[0, :, 0], [100, 255])


def test_transparent_colour_of_rgb():
    image = Image.new('RGB', (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    np.testing.assert_array_equal(read_image(encoded(image, transparency=(9, 9, 9))), [[[1, 2, 3], [255, 255, 255]]])


def test_sixteen_bits():
    wide = np.array([[0, 257, 100 * 257, 65535]], np.uint16)
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(wide)), 1)[..., 0], [[0, 1, 100, 255]])


def test_cmyk_jpeg():
    image = Image.new('CMYK', (8, 8), (0, 255, 255, 0))  # No cyan, all magenta and yellow: red.
    np.testing.assert_allclose(read_image(encoded(image, 'JPEG', quality=100))[0, 0], [255, 0, 0], atol=3)


@pytest.mark.parametrize(
    ('orientation', 'expected'),
    [  # The EXIF standard: where row 0 and column 0 of what is stored are to be seen.
        (1, [[1, 2], [3, 4]]),
        (2, [[2, 1], [4, 3]]),
        (3, [[4, 3], [2, 1]]),
        (4, [[3, 4], [1, 2]]),
        (5, [[1, 3], [2, 4]]),
        (6, [[3, 1], [4, 2]]),
        (7, [[4, 2], [3, 1]]),
        (8, [[2, 4], [1, 3]]),
    ],
)
def test_exif_orientation(orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(np.array([[1, 2], [3, 4]], np.uint8)), exif=exif)
    np.testing.assert_array_equal(read_image(content, 1)[..., 0], expected)


@pytest.mark.filterwarnings('ignore:Corrupt EXIF')
def test_damaged_exif_loses_no_picture():
    content = encoded(Image.new('RGB', (8, 8), 'blue'), 'JPEG', exif=b'Exif\0\0MM\0*\xff\xff\xff\xff')
    assert read_image(content).shape == (8, 8, 3)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
def test_truncated_image(kind, tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path = tmp_path / 'cat.img'
    path.write_bytes(encoded(noise, kind)[:-500])
    with pytest.raises(UnreadableImage, match=r'cat\.img'):
        read_image(path)


@pytest.mark.parametrize('content', [b'', b'no image at all', b'\x89PNG\r\n\x1a\n' + bytes(50), b'\xff\xd8\xff\xe0'])
def test_garbage(content):
    with pytest.raises(UnreadableImage):
        read_image(content)


def test_missing_file_and_bad_channels(tmp_path):
    with pytest.raises(UnreadableImage, match='nowhere'):
        read_image(tmp_path / 'nowhere.png')
    with pytest.raises(ValueError, match='channels is 4'):
        read_image(encoded(Image.new('L', (1, 1))), 4)


@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
def test_evaluation_equals_pillow(picture, interpolation):
    preprocessing = Preprocessing(image_size=28, crop_fraction=0.875, interpolation=interpolation)
    resized = Image.fromarray(picture).resize((32, 48), Image.Resampling[interpolation.upper()])  # 28 / 0.875 = 32
    expected = np.asarray(resized.crop((2, 10, 30, 38)))
    np.testing.assert_array_equal(prepare_for_evaluation(picture, preprocessing), expected)
    turned = prepare_for_evaluation(picture.transpose(1, 0, 2), preprocessing)
    np.testing.assert_array_equal(turned, expected.transpose(1, 0, 2))


def test_evaluation_of_noise_equals_pillow():
    """Bit for bit at any size: of noise every rounding shows."""
    rng = np.random.default_rng(0)
    for height, width in ((333, 500), (97, 61), (40, 230), (31, 33), (480, 100)):
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        shorter = 256
        size = (shorter * width // height, shorter) if height < width else (shorter, shorter * height // width)
        resized = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC))
        top, left = (round((length - 224) / 2) for length in resized.shape[:2])
        prepared = prepare_for_evaluation(noise, Preprocessing())
        np.testing.assert_array_equal(prepared, resized[top : top + 224, left : left + 224])


def test_evaluation_leaves_an_image_of_the_size_alone(picture):
    square = picture[:40]
    np.testing.assert_array_equal(prepare_for_evaluation(square, Preprocessing(40, crop_fraction=1.0)), square)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.floats(0.3, 1), st.sampled_from([1, 3]))
def test_evaluation_gives_the_size_for_any_image(height, width, size, crop_fraction, channels):
    preprocessing = Preprocessing(size, channels, (0.5,) * channels, (0.5,) * channels, crop_fraction)
    image = np.full((height, width, channels), 77, np.uint8)
    prepared = prepare_for_evaluation(image, preprocessing)
    assert prepared.shape == (size, size, channels)
    assert np.all(prepared == 77)


def test_whole_crop_is_the_image_itself(picture):
    whole = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=False)
    square, rng = picture[:40], np.random.default_rng(0)
    np.testing.assert_array_equal(prepare_for_training(square, Preprocessing(40), whole, rng), square)


def test_half_of_the_images_are_mirrored(picture):
    whole = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=True)
    square, rng = picture[:40], np.random.default_rng(0)
    mirrored = 0
    for _ in range(400):
        image = prepare_for_training(square, Preprocessing(40), whole, rng)
        mirrored += np.array_equal(image, square[:, ::-1])
        assert np.array_equal(image, square) or np.array_equal(image, square[:, ::-1])
    assert 160 < mirrored < 240  # Four standard deviations around 200.


def test_training_crop_equals_pillow(picture):
    augmentation, preprocessing = Augmentation((0.3, 0.6), flip=False), Preprocessing(24, interpolation='bilinear')
    top, left, height, width = random_crop(60, 40, augmentation, np.random.default_rng(7))
    crop = Image.fromarray(picture).crop((left, top, left + width, top + height))
    expected = np.asarray(crop.resize((24, 24), Image.Resampling.BILINEAR))
    prepared = prepare_for_training(picture, preprocessing, augmentation, np.random.default_rng(7))
    np.testing.assert_array_equal(prepared, expected)


def test_random_crop_has_the_area_ratio_and_place_that_were_asked_for():
    augmentation, rng = Augmentation((0.1, 0.3), (0.5, 2.0)), np.random.default_rng(0)
    # All draws fit, the greatest side being sqrt(0.3 * 400 * 600 * 2) = 379.
    crops = np.array([random_crop(400, 600, augmentation, rng) for _ in range(4000)])
    top, left, height, width = crops.T
    area, ratio = height * width / (400 * 600), np.log2(width / height)
    assert area.min() > 0.098
    assert area.max() < 0.303
    assert abs(area.mean() - 0.2) < 0.004  # Uniform: a mean error of 0.0009.
    assert abs(area.std() - 0.2 / 12**0.5) < 0.002
    assert abs(ratio.mean()) < 0.04  # Log-uniform over [-1, 1].
    assert abs(ratio.std() - 2 / 12**0.5) < 0.02
    assert np.all((top >= 0) & (left >= 0) & (top + height <= 400) & (left + width <= 600))
    for place in (left / (600 - width), top / (400 - height)):
        assert abs(place.mean() - 0.5) < 0.03
        assert abs(place.std() - 12**-0.5) < 0.02


@pytest.mark.parametrize(
    ('size', 'expected'),
    [  # (top, left, height, width), from torchvision's rule for what no draw fits.
        ((10, 100), (0, 43, 10, 13)),
        ((100, 10), (43, 0, 13, 10)),
        ((90, 100), (0, 0, 90, 100)),
    ],
)
def test_crop_falls_back_to_the_centre(size, expected):
    whole = Augmentation((1.0, 1.0), (3 / 4, 4 / 3))
    assert random_crop(*size, whole, _Unlucky()) == expected


class _Unlucky:
    """Draws the greatest area and the narrowest ratio every time, which fits no image wider than that."""

    def uniform(self, low, high):
        return high if high == 1 else low


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 10**6))
def test_a_crop_lies_in_the_image(height, width, seed):
    top, left, crop_height, crop_width = random_crop(height, width, Augmentation(), np.random.default_rng(seed))
    assert 0 <= top < top + crop_height <= height
    assert 0 <= left < left + crop_width <= width
