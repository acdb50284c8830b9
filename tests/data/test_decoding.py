"""What is read of each kind of pixels, beside a white background worked by hand from the formats' specifications."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import blank, png, tiff
from PIL import Image, ImageOps, TiffImagePlugin

from flaxmobile.data import (
    Augmentation,
    Preprocessing,
    UnreadableImage,
    decoding,
    geometry,
    prepare_for_evaluation,
    prepare_for_training,
    read_image,
)
from flaxmobile.data.geometry import evaluation_crop


def written(*kinds: str) -> list[str]:
    """Those of the formats that this Pillow writes: the oldest knows neither AVIF nor QOI."""
    Image.init()
    return [kind for kind in kinds if kind in Image.SAVE]


def saved(image: Image.Image, kind: str, **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def on_white(colours: np.ndarray, alpha: np.ndarray | float = 1.0) -> np.ndarray:
    """Colours in [0, 1] over white, from 0 to 255."""
    alpha = np.asarray(alpha, np.float64)[..., None] if np.ndim(alpha) else alpha
    return 255 * (colours * alpha + 1 - alpha)


def assert_read(content: bytes, expected: np.ndarray, atol: float = 1.01) -> None:
    """RGB, and grey by ITU-R 601, within the rounding of 16 bits to 8 and of the background."""
    expected = np.broadcast_to(expected, (*expected.shape[:2], 3))
    np.testing.assert_allclose(read_image(content), expected, atol=atol)
    np.testing.assert_allclose(read_image(content, 1)[..., 0], expected @ [0.299, 0.587, 0.114], atol=atol + 0.5)


def samples_of(depth: int, channels: int) -> np.ndarray:
    samples = np.random.default_rng(depth).integers(0, 2**depth, (6, 5, channels))
    samples[0, 0], samples[0, 1] = 0, 2**depth - 1
    return samples


@pytest.mark.parametrize('depth', [1, 2, 4, 8, 16])
def test_grey_png(depth):
    samples = samples_of(depth, 1)
    colours = samples / (2**depth - 1)
    assert_read(png(samples, depth, 0), on_white(colours))
    for value in {0, 1, 2**depth - 1, int(samples[3, 3, 0])}:
        content = png(samples, depth, 0, transparency=struct.pack('>H', value))
        assert_read(content, on_white(colours, (samples != value)[..., 0]))


@pytest.mark.parametrize('depth', [8, 16])
def test_png_with_alpha(depth):
    for colour, channels in ((4, 1), (6, 3)):
        samples = samples_of(depth, channels + 1)
        samples[1, :, -1], samples[2, :, -1] = 0, 2**depth - 1
        shares = samples / (2**depth - 1)
        assert_read(png(samples, depth, colour), on_white(shares[..., :-1], shares[..., -1]), 1.01 * depth / 8)


def test_rgb_png():
    for depth in (8, 16):
        samples = samples_of(depth, 3)
        assert_read(png(samples, depth, 2), on_white(samples / (2**depth - 1)))
    samples = samples_of(8, 3)
    content = png(samples, 8, 2, transparency=struct.pack('>HHH', *samples[2, 2]))
    assert_read(content, on_white(samples / 255, (samples != samples[2, 2]).any(-1)))
    wide = png(samples_of(16, 3), 16, 2, transparency=struct.pack('>HHH', 9, 9, 9))
    with pytest.raises(UnreadableImage, match='16 bits a colour and a transparent colour'):  # Pillow has 8 bits of it.
        read_image(wide)


@pytest.mark.parametrize('depth', [1, 2, 4, 8])
def test_palette_png(depth):
    samples = samples_of(depth, 1)
    palette = np.random.default_rng(9).integers(0, 256, (2**depth, 3))
    colours, content = palette[samples[..., 0]] / 255, bytes(palette.ravel().tolist())
    assert_read(png(samples, depth, 3, palette=content), on_white(colours))
    for alphas in ([255, 0], [0], [128, 0], [3] * 2**depth):  # What is missing is opaque.
        shares = np.array([*alphas, *[255] * (2**depth - len(alphas))]) / 255
        transparent = png(samples, depth, 3, palette=content, transparency=bytes(alphas))
        assert_read(transparent, on_white(colours, shares[samples[..., 0]]))


@pytest.mark.parametrize('order', ['<', '>'])
def test_tiff(order):
    for depth in (1, 2, 4, 8, 16):
        samples = samples_of(depth, 1)
        colours = samples / (2**depth - 1)
        assert_read(tiff(samples, depth, 1, order=order), on_white(colours))
        if (depth, order) != (16, '>'):  # Pillow does not know that one.
            assert_read(tiff(samples, depth, 0, order=order), on_white(1 - colours))  # White is 0.
    for depth in (8, 16):
        most = 2**depth - 1
        samples = samples_of(depth, 4)
        colours, alpha = samples[..., :3] / most, samples[..., 3] / most
        assert_read(tiff(samples[..., :3], depth, 2, order=order), on_white(colours))
        assert_read(tiff(samples, depth, 2, order=order, extra=2), on_white(colours, alpha), 1.01 * depth / 8)
        associated = np.rint(samples[..., :3] * alpha[..., None])
        expected = 255 * (associated / most + 1 - alpha[..., None])
        made = tiff(np.concatenate([associated, samples[..., 3:]], -1).astype(int), depth, 2, order=order, extra=1)
        np.testing.assert_allclose(read_image(made), expected, atol=2 * depth / 8)  # Of 16 bits Pillow cuts 8 off.
        cyan, black = samples[..., :3] / most, samples[..., 3:] / most
        np.testing.assert_allclose(
            read_image(tiff(samples, depth, 5, order=order)), 255 * (1 - cyan) * (1 - black), atol=2
        )


def test_tiff_of_other_colours():
    grey = samples_of(8, 2)
    colours, alpha = grey[..., :1] / 255, grey[..., 1] / 255
    assert_read(tiff(grey, 8, 1, extra=2), on_white(colours, alpha))
    ramp = np.arange(256)
    more = {320: [*(257 * ramp), *(257 * ramp[::-1]), *[0] * 256]}
    indexed = grey[..., 0]
    expected = on_white(np.stack([indexed, 255 - indexed, 0 * indexed], -1) / 255, alpha)
    assert_read(tiff(grey, 8, 3, extra=2, more=more), expected)
    lightness = np.array([[[0, 0, 0], [255, 0, 0], [137, 0, 0]]])  # CIE L* of 53.7: sRGB 128.
    assert_read(tiff(lightness, 8, 8), np.array([[[0], [255], [128]]]))


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (tiff(np.array([[[1.0], [np.nan]]]), 32, 1, sample_format=3), 'signed or floating-point pixels'),
        (tiff(np.array([[[1], [-1]]]), 16, 1, sample_format=2), 'signed or floating-point pixels'),
        (tiff(np.array([[[1], [-1]]]), 8, 1, sample_format=2), 'signed or floating-point pixels'),
        (tiff(np.array([[[1], [70000]]]), 32, 1), 'pixels of 32 bits'),
        (tiff(np.array([[[1], [2]]]), 8, 1, more={254: [1]}), 'its first picture is a preview'),
        (b'Pf\n1 1\n-1.0\n' + struct.pack('<f', np.inf), 'floating-point pixels'),
        (saved(Image.new('RGB', (9, 9)), 'EPS'), 'EPS is not read here: convert it to JPEG or PNG'),
        (b'\0\0\0\x18ftypheic' + bytes(200), 'HEIC is not read here'),
        (b'\xff\x0a' + bytes(30), 'JPEG XL is not read here'),
    ],
)
def test_what_is_refused(content, reason):
    with pytest.raises(UnreadableImage, match=reason):
        read_image(content)


PREMULTIPLIED_GREY = (b'II', 1, (1,), 1, (8, 8), (1,))


@pytest.mark.skipif(PREMULTIPLIED_GREY not in TiffImagePlugin.OPEN_INFO, reason='kinds that old Pillows do not read')
def test_tiff_of_rare_kinds():
    colours = np.array([[[0, 128, 128], [255, 128, 128], [76, 85, 255]]])  # BT.601: black, white, red.
    assert_read(tiff(colours, 8, 6), np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0]]]))
    assert_read(tiff(np.array([[[0], [2048], [4095], [1606]]]), 12, 1), np.array([[[0], [127.5], [255], [100]]]))
    grey = samples_of(8, 2)
    assert_read(tiff(grey, 8, 1, extra=0), on_white(grey[..., :1] / 255))  # A second sample that says nothing.
    alpha = grey[..., 1:] / 255
    associated = np.rint(grey[..., :1] * alpha).astype(int)
    found = read_image(tiff(np.concatenate([associated, grey[..., 1:]], -1), 8, 1, extra=1), 1)
    np.testing.assert_allclose(found, 255 * (associated / 255 + 1 - alpha), atol=2)


def test_portable_maps():
    wide = np.array([0, 257, 65535, 25700, 0, 0], '>u2').tobytes()
    assert_read(b'P5 3 2 65535\n' + wide, np.array([[0, 1, 255], [100, 0, 0]])[..., None])
    assert_read(b'P5 2 1 1023\n' + np.array([512, 1023], '>u2').tobytes(), np.array([[[127], [255]]]))
    assert_read(b'P6 2 1 65535\n' + wide, np.array([[[0, 1, 255], [100, 0, 0]]]))


@pytest.mark.parametrize('kind', written('AVIF', 'DDS', 'ICO', 'JPEG2000', 'QOI', 'SGI', 'TGA', 'TIFF', 'WEBP'))
def test_transparency_of_other_formats(kind):
    image = Image.new('RGBA', (32, 16), (100, 100, 100, 255))
    image.paste((5, 5, 5, 0), (16, 0, 32, 16))
    if kind == 'ICO':
        image = image.resize((16, 16), Image.Resampling.NEAREST)
    options = {'WEBP': {'lossless': True, 'exact': True}, 'AVIF': {'quality': 100}}.get(kind, {})
    found = read_image(saved(image, kind, **options))
    np.testing.assert_allclose(found[:, : found.shape[1] // 2], 100, atol=2)
    np.testing.assert_array_equal(found[:, found.shape[1] // 2 :], 255)


def test_the_first_of_several_frames():
    first, second = (Image.new('P', (2, 1)) for _ in range(2))
    first.putpalette([10, 20, 30, 40, 50, 60])
    first.putdata([0, 1])
    animated = saved(first, 'GIF', save_all=True, append_images=[second], transparency=1)
    np.testing.assert_array_equal(read_image(animated), [[[10, 20, 30], [255, 255, 255]]])


@pytest.mark.parametrize('kind', written('AVIF', 'JPEG', 'PNG', 'TIFF', 'WEBP'))
@pytest.mark.parametrize('orientation', range(1, 9))
def test_orientation_in_every_format(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.kron([[0, 80], [160, 255]], np.ones((16, 16))).astype(np.uint8)).convert('RGB')
    content = saved(image, kind, exif=exif)
    turned = Image.new('L', image.size)  # The standard's own words are worked in test_images.py.
    turned.paste(image.convert('L'))
    turned.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(turned))
    np.testing.assert_allclose(read_image(content, 1)[4::8, 4::8, 0], expected[4::8, 4::8], atol=3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(['RGB', 'L', 'RGBA', 'LA', 'P', '1', 'I;16']),
    st.integers(1, 8),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([1, 3]),
    st.sampled_from([1, 64, 300]),
)
def test_a_few_rows_at_a_time_give_what_all_at_once_gives(mode, orientation, shape, channels, at_once):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 4), np.uint8)
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200) if mode == 'I;16' else image.convert(mode)
    content = saved(image, 'PNG', exif=exif)
    preprocessing = Preprocessing(16, channels, (0.5,) * channels, (0.5,) * channels)

    def read():
        rng = np.random.default_rng(1)
        whole = read_image(content, channels)
        return (
            whole,
            prepare_for_evaluation(content, preprocessing),
            prepare_for_training(content, preprocessing, Augmentation(), rng),
        )

    with pytest.MonkeyPatch.context() as patched:
        whole, *_ = read()
        patched.setattr(decoding, '_PIXELS_AT_ONCE', at_once)
        again, evaluated, trained = read()
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_array_equal(evaluated, prepare_for_evaluation(whole, preprocessing))
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(trained, prepare_for_training(whole, preprocessing, Augmentation(), rng))


@pytest.mark.parametrize('shape', [(1, 300), (300, 1), (3, 200), (200, 2), (7, 9)])
@pytest.mark.parametrize('interpolation', ['bicubic', 'bilinear'])
def test_the_middle_of_a_long_image_is_that_of_the_whole(monkeypatch, shape, interpolation):
    preprocessing = Preprocessing(32, 3, interpolation=interpolation)
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    whole = prepare_for_evaluation(pixels, preprocessing)
    monkeypatch.setattr(geometry, '_LARGEST_RESIZED', 0)
    assert evaluation_crop(*shape, preprocessing).inner
    middle = prepare_for_evaluation(pixels, preprocessing)
    np.testing.assert_allclose(middle.astype(int), whole, atol=1)
    np.testing.assert_array_equal(prepare_for_evaluation(saved(Image.fromarray(pixels), 'PNG'), preprocessing), middle)


def test_a_line_of_pixels_takes_little_memory():
    """Its shorter side resized to 256, it would have 6.5 thousand million pixels."""
    for shape in ((1, 100_000, 3), (100_000, 1, 3)):
        prepared = prepare_for_evaluation(np.full(shape, 77, np.uint8), Preprocessing())
        assert prepared.shape == (224, 224, 3)
        assert np.all(prepared == 77)


@pytest.mark.filterwarnings('ignore:Image size')
def test_a_file_that_cannot_honestly_hold_its_pixels(tmp_path):
    path = tmp_path / 'big.png'
    path.write_bytes(blank(13_300))
    assert path.stat().st_size < 25_000
    for read in (read_image, lambda path: prepare_for_training(path, Preprocessing(), Augmentation(), None)):
        with pytest.raises(
            UnreadableImage, match=r'big\.png .* 13,300 x 13,300 pixels would take 177 MB, over 1,000 ti'
        ):
            read(path)
    with pytest.raises(UnreadableImage, match=r'more than 178,956,970 pixels: save it smaller, or raise PIL'):
        read_image(blank(14_000))


def test_a_small_drawing_on_a_large_transparent_ground_is_opened():
    drawing = Image.new('RGBA', (6000, 4500))
    drawing.paste(Image.effect_noise((60, 60), 80).convert('RGBA'), (3000, 2000))
    assert decoding.open_image(saved(drawing, 'PNG')).size == (6000, 4500)


def test_the_bound_on_what_a_file_holds(monkeypatch):
    noise = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)), 'PNG')
    plain = saved(Image.new('RGB', (40, 40)), 'PNG')
    monkeypatch.setattr(decoding, 'DECODED_PER_BYTE', 10)
    assert read_image(plain).shape == (40, 40, 3)
    monkeypatch.setattr(decoding, 'FREE_BYTES', 4 * 40 * 40 - 1)
    assert read_image(noise).shape == (40, 40, 3)
    with pytest.raises(UnreadableImage, match='over 10 times the'):
        read_image(plain)


MEASURED = """
import resource, sys
from pathlib import Path
import numpy as np
from flaxmobile.data import Augmentation, Preprocessing, prepare_for_evaluation, prepare_for_training, read_image

begun = 0
for path in map(Path, sys.argv[1:]):
    content = path.read_bytes()
    for read in (
        lambda: prepare_for_evaluation(content, Preprocessing()),
        lambda: prepare_for_training(content, Preprocessing(), Augmentation((1, 1)), np.random.default_rng(0)),
        lambda: read_image(content),
    ):
        read()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(most - begun)
    begun = begun or most  # Of the first, small image: what is loaded once.
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='ru_maxrss is in kilobytes on Linux alone')
def test_bytes_of_memory_that_a_pixel_takes(tmp_path):
    """Of large pictures: a JPEG as it is stored, and one that is turned and has transparency."""
    exif = Image.Exif()
    exif[0x0112] = 6
    rows, columns = np.mgrid[:3000, :4000]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256, rows % 255], -1).astype(np.uint8)
    paths = [tmp_path / name for name in ('small.png', 'photo.jpg', 'turned.png')]
    Image.new('RGBA', (300, 300)).save(paths[0])
    Image.fromarray(pixels[..., :3].copy()).save(paths[1])
    Image.fromarray(pixels).save(paths[2], exif=exif, compress_level=1)
    done = subprocess.run([sys.executable, '-c', MEASURED, *paths], check=True, capture_output=True, text=True)
    _, _, _, *found = (1024 * int(line) / (3000 * 4000) for line in done.stdout.split())
    evaluated, trained, read, *turned = found
    assert evaluated < 5
    assert max(trained, read, *turned) < 10
