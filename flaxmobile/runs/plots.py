"""The pictures of a report, as matplotlib figures, and the functions and colours that other pictures share."""

import re
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from flaxmobile.messages import listing, printable
from flaxmobile.tasks.evaluation import Example

INK, MUTED, HAIRLINE = '#1f2a37', '#7b8794', '#e4e8ec'
BLUE, ORANGE, GREEN = '#2563a8', '#e2722e', '#2f8f6b'
SHADES = LinearSegmentedColormap.from_list('shades', ['#ffffff', '#cfe0f1', '#7fadd8', BLUE, '#123a66'])
Record = Mapping[str, Any]


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


def curves(records: Sequence[Record]) -> Figure:
    """Loss, accuracy and learning rate against epochs."""
    figure = Figure(figsize=(11, 3.4), layout='constrained')
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, name, scale, title in ((loss, 'loss', 1, 'Loss'), (accuracy, 'accuracy', 100, 'Accuracy, %')):
        for split, colour in (('train', BLUE), ('validation', ORANGE)):
            _curve(axes, [record for record in records if record['split'] == split], name, scale, split, colour)
        _style(axes, title)
    training = [record for record in records if record['split'] == 'train']
    _curve(rate, training, 'learning_rate', 1, '', MUTED)
    _style(rate, 'Learning rate')
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter('{x:g}')
    loss.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _curve(axes: Axes, records: Sequence[Record], name: str, scale: float, label: str, colour: str) -> None:
    epochs = [record['epoch'] for record in records]
    marker = 'o' if label == 'validation' and len(records) <= 40 else ''
    values = [scale * record[name] for record in records]
    axes.plot(epochs, values, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3.5)


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc='left', fontsize=11, color=INK, fontweight='bold', pad=10)
    axes.set_xlabel('epoch', fontsize=9, color=MUTED)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=MUTED)
    axes.grid(axis='y', color=HAIRLINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.02)
    for side, spine in axes.spines.items():
        spine.set(visible=side == 'bottom', color=HAIRLINE)


def schedules(epochs: np.ndarray, rates: np.ndarray, spans: np.ndarray | None, chances: Mapping[str, float]) -> Figure:
    """The schedules of a run, against epochs.

    Args:
        epochs: `[points]`, the epochs at which the next two are given.
        rates: `[points]`, the learning rate.
        spans: `[points]`, the number of updates that the moving average spans; None: there is no average.
        chances: by name, the probability of each random change of an image, the same in all epochs.
    """
    panels = 1 + (spans is not None) + bool(chances)
    figure = Figure(figsize=(1 + 3.6 * panels, 3.2), layout='constrained')
    drawn = [(rates, 'Learning rate')] + ([] if spans is None else [(spans, 'Moving average, updates')])
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for panel, (values, title) in zip(axes, drawn, strict=False):
        panel.plot(epochs, values, color=BLUE, linewidth=1.6)
        _style(panel, title)
        panel.set_ylim(0, 1.05 * values.max())
        panel.yaxis.set_major_formatter(lambda value, _: f'{value:,g}')
    if chances:
        _chances(axes[-1], epochs, chances)
    return figure


def _chances(axes: Axes, epochs: np.ndarray, chances: Mapping[str, float]) -> None:
    names: dict[float, list[str]] = {}
    for name, chance in chances.items():
        names.setdefault(chance, []).append(name)
    top = 0.0
    for chance, alike in sorted(names.items()):
        axes.plot([0, epochs[-1]], [100 * chance] * 2, color=ORANGE, linewidth=1.6)
        top = max(100 * chance + 2, top + 8)
        axes.text(epochs[-1], top, ', '.join(alike), ha='right', va='bottom', fontsize=8, color=INK)
    _style(axes, 'Chance, %')
    axes.set_ylim(0, max(115, top + 10))
    axes.set_yticks(range(0, 101, 20))


def confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    """A confusion matrix of counts [classes, classes], drawn as the share of each true class (a row) in per cent.

    Up to 20 classes each cell shows its figure; up to 120 classes the axes show the names.
    """
    count = len(classes)
    side = float(np.clip(0.55 * count + 0.8, 3.2, 12.5))
    figure = Figure(figsize=(side + 1.4, side), layout='constrained')
    axes = figure.subplots()
    share = 100 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(share, cmap=SHADES, vmin=0, vmax=100, interpolation='nearest')
    size = float(np.clip(72 * 0.55 * side / count, 3.5, 9))
    if count <= 120:
        names = [short(name, 24) for name in classes]
        axes.set_xticks(range(count), names, rotation=90 if count > 5 else 0, fontsize=size, parse_math=False)
        axes.set_yticks(range(count), names, fontsize=size, parse_math=False)
    if count <= 20:
        for row, column in zip(*np.nonzero(np.round(share)), strict=True):
            value = share[row, column]
            colour = 'white' if value > 55 else INK
            axes.text(column, row, f'{value:.0f}', ha='center', va='center', fontsize=size, color=colour)
        axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
        axes.grid(which='minor', color='white', linewidth=1.5)
    axes.tick_params(which='both', length=0, labelcolor=INK)
    axes.set_xlabel('predicted', fontsize=10, color=MUTED, labelpad=8)
    axes.set_ylabel('true', fontsize=10, color=MUTED, labelpad=8)
    axes.set_title('Confusion, % of each true class', loc='left', fontsize=11, color=INK, fontweight='bold', pad=12)
    axes.spines[:].set(visible=count > 20, color=HAIRLINE)
    bar = figure.colorbar(image, ax=axes, aspect=36, pad=0.02, ticks=[0, 50, 100])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    return figure


def predictions(mistakes: Sequence[Example], right: Sequence[Example], classes: Sequence[str]) -> Figure:
    """Test images with true and predicted classes: the worst mistakes first, then some correct predictions."""
    columns, side, gap, caption, heading = 6, 1.6, 0.2, 0.5, 0.45
    panels = {'Wrong, the worst first': mistakes[: 3 * columns], 'Right': right[:columns]}
    panels = {title: part for title, part in panels.items() if part}
    rows = sum(-(-len(part) // columns) for part in panels.values())
    width, height = columns * (side + gap) - gap, rows * (side + caption) + len(panels) * heading
    figure = Figure(figsize=(width, height))
    top = height
    for title, part in panels.items():
        figure.text(0, (top - 0.2) / height, title, fontsize=12, color=INK, fontweight='bold')
        top -= heading
        for number, example in enumerate(part):
            column = number % columns
            top -= side + caption if column == 0 else 0
            box = (column * (side + gap) / width, (top + caption) / height, side / width, side / height)
            _picture(figure.add_axes(box), example, classes)
    return figure


def show(axes: Axes, image: np.ndarray) -> None:
    """Draw an image, uint8 [height, width, channels]. Images below 100 pixels are drawn without smoothing."""
    grey = image.shape[-1] == 1
    interpolation = 'nearest' if max(image.shape) < 100 else 'antialiased'
    pixels = image[..., 0] if grey else image
    axes.imshow(pixels, cmap='gray' if grey else None, vmin=0, vmax=255, interpolation=interpolation)
    axes.set_axis_off()


def _picture(axes: Axes, example: Example, classes: Sequence[str]) -> None:
    show(axes, example.image)
    wrong = example.label != example.prediction
    said = f'{short(classes[example.prediction])}  {100 * example.probability:.0f} %'
    lines = [(-0.04, said, ORANGE if wrong else GREEN)]
    if wrong:
        lines.append((-0.15, f'is {short(classes[example.label])}', MUTED))
    for y, text, colour in lines:
        axes.text(0, y, text, transform=axes.transAxes, va='top', fontsize=9, color=colour, parse_math=False)


def short(name: str, most: int = 16) -> str:
    """A name on one line of at most `most` characters, with unprintable characters escaped."""
    shown = printable(name, None)
    return shown if len(shown) <= most else shown[: most - 1] + '…'
