"""The picture of a report on quantisation: the error of each activation, from the image to the answer."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flaxmobile.drawing import BLUE, INK, ORANGE, short, style
from flaxmobile.export.report.results import ActivationError

HIGHEST = 60.0
"""Decibels that are drawn at most: an activation without error has infinitely many."""
NAMED_BLOCKS = 45
"""Names of blocks that there is room for below the bars."""


def activation_picture(errors: Sequence[ActivationError], worst: Sequence[int]) -> Figure:
    """A bar for the SQNR of each activation, in the order in which they are computed.

    Args:
        errors: of the activations.
        worst: the places of the worst, which are coloured, numbered and named beside the bars.
    """
    figure = Figure(figsize=(12, 4), layout='constrained')
    axes, names = figure.subplots(1, 2, width_ratios=(4, 1))
    heights = np.clip([each.sqnr for each in errors], 0, HIGHEST)
    colours = [ORANGE if place in worst else BLUE for place in range(len(errors))]
    axes.bar(range(len(errors)), heights, color=colours, width=0.8)
    for number, place in enumerate(worst, 1):
        box = {'facecolor': 'white', 'edgecolor': 'none', 'pad': 1}
        text = {'ha': 'center', 'va': 'bottom', 'fontsize': 9, 'fontweight': 'bold', 'bbox': box}
        axes.text(place, heights[place] + 1, str(number), color=INK, **text)
        said = f'{number}  {short(errors[place].layer, 40)}\n    {errors[place].sqnr:.1f} dB, {errors[place].operation}'
        names.text(0, 1 - (number - 0.6) / (len(worst) + 0.2), said, va='top', fontsize=9, color=INK, parse_math=False)
    names.set_axis_off()
    names.set_title('The worst', loc='left', fontsize=11, color=INK, fontweight='bold', pad=10)
    _style(axes, [each.layer.split('/')[0] for each in errors])
    return figure


def _style(axes: Axes, blocks: Sequence[str]) -> None:
    named: list[int] = []
    for place, block in enumerate(blocks):
        begins = not place or blocks[place - 1] != block
        if begins and (not named or place - named[-1] >= len(blocks) / NAMED_BLOCKS):
            named.append(place)
    axes.set_xticks(named, [short(blocks[place]) for place in named], rotation=90, fontsize=8, parse_math=False)
    style(axes, 'Signal to quantisation noise of each activation, dB: less is worse', margin=0.01)
