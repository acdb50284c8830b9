"""The pictures of a classifier, as matplotlib figures: confusion, and examples with their predictions."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from flaxmobile.drawing import BLUE, GREEN, HAIRLINE, INK, MUTED, ORANGE, short, show
from flaxmobile.tasks.classification.summary import JudgedExample

SHADES = LinearSegmentedColormap.from_list('shades', ['#ffffff', '#cfe0f1', '#7fadd8', BLUE, '#123a66'])


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


def predictions(mistakes: Sequence[JudgedExample], right: Sequence[JudgedExample], classes: Sequence[str]) -> Figure:
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


def _picture(axes: Axes, example: JudgedExample, classes: Sequence[str]) -> None:
    show(axes, example.image)
    wrong = example.label != example.prediction
    said = f'{short(classes[example.prediction])}  {100 * example.probability:.0f} %'
    lines = [(-0.04, said, ORANGE if wrong else GREEN)]
    if wrong:
        lines.append((-0.15, f'is {short(classes[example.label])}', MUTED))
    for y, text, colour in lines:
        axes.text(0, y, text, transform=axes.transAxes, va='top', fontsize=9, color=colour, parse_math=False)
