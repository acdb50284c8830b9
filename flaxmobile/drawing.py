"""What all pictures share: colours, how an image and a name are drawn, and a figure as a PNG."""

import re
import warnings
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flaxmobile.messages import listing, printable

INK, MUTED, HAIRLINE = '#1f2a37', '#7b8794', '#e4e8ec'
BLUE, ORANGE, GREEN = '#2563a8', '#e2722e', '#2f8f6b'


def png(figure: Figure) -> bytes:
    """The figure as a PNG of 200 dots per inch. One warning names all characters that the font does not have."""
    FigureCanvasAgg(figure)
    content = BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        figure.savefig(content, format='png', dpi=200, facecolor='white', bbox_inches='tight', pad_inches=0.2)
    missing: dict[str, None] = {}
    for warning in caught:
        if glyph := re.match(r'Glyph (\d+) .*missing from', str(warning.message)):
            missing[chr(int(glyph[1]))] = None
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        warnings.warn(
            f"a picture shows boxes for what matplotlib's font does not have: {listing(missing)}", stacklevel=2
        )
    return content.getvalue()


def style(axes: Axes, title: str, *, margin: float) -> None:
    """Give axes the look of all diagrams: a title at the left, fine lines across, no frame; `margin` as a share."""
    axes.set_title(title, loc='left', fontsize=11, color=INK, fontweight='bold', pad=10)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=MUTED)
    axes.grid(axis='y', color=HAIRLINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=margin)
    for side, spine in axes.spines.items():
        spine.set(visible=side == 'bottom', color=HAIRLINE)


def show(axes: Axes, image: np.ndarray) -> None:
    """Draw an image, uint8 [height, width, channels]. Images below 100 pixels are drawn without smoothing."""
    grey = image.shape[-1] == 1
    interpolation = 'nearest' if max(image.shape) < 100 else 'antialiased'
    pixels = image[..., 0] if grey else image
    axes.imshow(pixels, cmap='gray' if grey else None, vmin=0, vmax=255, interpolation=interpolation)
    axes.set_axis_off()


def short(name: str, most: int = 16) -> str:
    """A name on one line of at most `most` characters, with unprintable characters escaped."""
    shown = printable(name, None)
    return shown if len(shown) <= most else shown[: most - 1] + '…'
