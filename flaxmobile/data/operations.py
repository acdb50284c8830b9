"""The operations of augmentation on a picture, by given numbers: torchvision's functions, by the same Pillow.

Pictures are Pillow's, of mode `L` or `RGB`, and keep their size and mode. In parentheses stands the function of
`torchvision.transforms.v2.functional` that each equals.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Picture = Image.Image
Fill = tuple[int, ...]
Warp = Callable[[Picture, float, Image.Resampling, Fill], Picture]
Matrix = tuple[float, float, float, float, float, float]


def to_picture(pixels: np.ndarray) -> Picture:
    """A picture of mode `L` or `RGB` from uint8 [height, width, 1 or 3]."""
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels))


def to_pixels(picture: Picture) -> np.ndarray:
    """The pixels uint8 [height, width, 1 or 3] of a picture of mode `L` or `RGB`."""
    pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def auto_contrast(picture: Picture) -> Picture:
    """Stretch each channel so that its darkest pixel is 0 and its brightest 255 (`autocontrast`)."""
    return ImageOps.autocontrast(picture)


def equalize(picture: Picture) -> Picture:
    """Give each channel a histogram as even as can be (`equalize`)."""
    return ImageOps.equalize(picture)


def invert(picture: Picture) -> Picture:
    """Subtract each pixel from 255 (`invert`)."""
    return ImageOps.invert(picture)


def posterize(picture: Picture, bits: float) -> Picture:
    """Keep the `bits` most significant bits of each pixel, 0 to 8 (`posterize`, which has 1 to 8)."""
    kept = 256 - 2 ** (8 - int(bits))
    return _by_table(picture, [value & kept for value in range(256)])


def solarize(picture: Picture, threshold: float) -> Picture:
    """Invert what is not below `threshold`, 0 to 256 (`solarize`)."""
    return ImageOps.solarize(picture, threshold)  # type: ignore[arg-type]  # It compares, and no more.


def solarize_add(picture: Picture, addition: float) -> Picture:
    """Add `addition` to what is below 128, at most up to 255 (timm's `solarize_add`; torchvision has none)."""
    return _by_table(picture, [min(255, value + int(addition)) if value < 128 else value for value in range(256)])


def _by_table(picture: Picture, table: list[int]) -> Picture:
    return picture.point(table * len(picture.getbands()))


def color(picture: Picture, factor: float) -> Picture:
    """Move away from the grey picture: 0 gives that, 1 changes nothing (`adjust_saturation`). Grey stays as it is."""
    return ImageEnhance.Color(picture).enhance(factor)


def contrast(picture: Picture, factor: float) -> Picture:
    """Move away from the mean of the grey picture: 0 gives that, 1 changes nothing (`adjust_contrast`)."""
    return ImageEnhance.Contrast(picture).enhance(factor)


def brightness(picture: Picture, factor: float) -> Picture:
    """Multiply by `factor` (`adjust_brightness`)."""
    return ImageEnhance.Brightness(picture).enhance(factor)


def sharpness(picture: Picture, factor: float) -> Picture:
    """Move away from the smoothed picture: 0 gives that, 1 changes nothing (`adjust_sharpness`)."""
    return ImageEnhance.Sharpness(picture).enhance(factor)


def rotate(picture: Picture, degrees: float, resampling: Image.Resampling, fill: Fill) -> Picture:
    """Turn counter-clockwise about the centre (`rotate`)."""
    return picture.rotate(degrees, resampling, fillcolor=fill)


def shear_x(picture: Picture, slope: float, resampling: Image.Resampling, fill: Fill) -> Picture:
    """Move each row `slope` times its distance from the top to the left.

    (`affine` with a shear of `atan(slope)` about the corner.)
    """
    return _affine(picture, 'shear_x', slope, resampling, fill)


def shear_y(picture: Picture, slope: float, resampling: Image.Resampling, fill: Fill) -> Picture:
    """Move each column `slope` times its distance from the left edge up (`affine`, as for `shear_x`)."""
    return _affine(picture, 'shear_y', slope, resampling, fill)


def translate_x(picture: Picture, pixels: float, resampling: Image.Resampling, fill: Fill) -> Picture:
    """Move to the right (`affine` with a translation)."""
    return _affine(picture, 'translate_x', pixels, _whole(pixels, resampling), fill)


def translate_y(picture: Picture, pixels: float, resampling: Image.Resampling, fill: Fill) -> Picture:
    """Move down (`affine` with a translation)."""
    return _affine(picture, 'translate_y', pixels, _whole(pixels, resampling), fill)


def _whole(pixels: float, resampling: Image.Resampling) -> Image.Resampling:
    # Of whole pixels every filter would do the same, twenty times slower.
    return Image.Resampling.NEAREST if pixels == int(pixels) else resampling


def _affine(picture: Picture, operation: str, value: float, resampling: Image.Resampling, fill: Fill) -> Picture:
    where = matrix(operation, value, *picture.size)
    return picture.transform(picture.size, Image.Transform.AFFINE, where, resampling, fillcolor=fill)


def matrix(operation: str, value: float, width: int, height: int) -> Matrix:
    """Where the points of a warped picture come from: (x, y) from (a x + b y + c, d x + e y + f), in pixels.

    Args:
        operation: a name of `WARPS`.
        value: what that takes.
        width: of the picture.
        height: of the picture.
    """
    match operation:
        case 'shear_x':
            return 1, value, 0, 0, 1, 0
        case 'shear_y':
            return 1, 0, 0, value, 1, 0
        case 'translate_x':
            return 1, 0, -value, 0, 1, 0
        case 'translate_y':
            return 1, 0, 0, 0, 1, -value
    cosine, sine = math.cos(math.radians(value)), math.sin(math.radians(value))
    x, y = width / 2, height / 2
    return cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y


PLAIN: Mapping[str, Callable[[Picture], Picture]] = {
    'auto_contrast': auto_contrast,
    'equalize': equalize,
    'invert': invert,
}
VALUED: Mapping[str, Callable[[Picture, float], Picture]] = {
    'posterize': posterize,
    'solarize': solarize,
    'solarize_add': solarize_add,
    'color': color,
    'contrast': contrast,
    'brightness': brightness,
    'sharpness': sharpness,
}
WARPS: Mapping[str, Warp] = {
    'rotate': rotate,
    'shear_x': shear_x,
    'shear_y': shear_y,
    'translate_x': translate_x,
    'translate_y': translate_y,
}


def apply(
    picture: Picture,
    operation: str,
    value: float,
    resampling: Image.Resampling = Image.Resampling.NEAREST,
    fill: Fill = (),
) -> Picture:
    """Do the operation of that name. Those of `PLAIN` take no value, and only those of `WARPS` a filter and a fill."""
    if operation in PLAIN:
        return PLAIN[operation](picture)
    if operation in VALUED:
        return VALUED[operation](picture, value)
    return WARPS[operation](picture, value, resampling, fill)
