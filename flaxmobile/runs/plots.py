"""The pictures of a run, as matplotlib figures: its curves, and what it is going to do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flaxmobile.drawing import BLUE, INK, MUTED, ORANGE, style
from flaxmobile.tasks.task import LOSS, Measure

Record = Mapping[str, Any]


def curves(records: Sequence[Record], measure: Measure) -> Figure:
    """Loss, the measure that picks the best checkpoint (which may be the loss), and learning rate against epochs."""
    figure, measures = Figure(figsize=(11, 3.4), layout='constrained'), dict.fromkeys((LOSS, measure))
    *panels, rate = figure.subplots(1, len(measures) + 1)
    for axes, drawn in zip(panels, measures, strict=True):
        for split, colour in (('train', BLUE), ('validation', ORANGE)):
            found = [record for record in records if record['split'] == split and drawn.name in record]
            _curve(axes, found, drawn.name, 100 if drawn.kind == 'share' else 1, split, colour)
        _style(axes, drawn.title[:1].upper() + drawn.title[1:] + (', %' if drawn.kind == 'share' else ''))
    training = [record for record in records if record['split'] == 'train']
    _curve(rate, training, 'learning_rate', 1, '', MUTED)
    _style(rate, 'Learning rate')
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter('{x:g}')
    panels[0].legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _curve(axes: Axes, records: Sequence[Record], name: str, scale: float, label: str, colour: str) -> None:
    epochs = [record['epoch'] for record in records]
    marker = 'o' if label == 'validation' and len(records) <= 40 else ''
    values = [scale * record[name] for record in records]
    axes.plot(epochs, values, color=colour, label=label, linewidth=1.6, marker=marker, markersize=3.5)


def _style(axes: Axes, title: str) -> None:
    style(axes, title, margin=0.02)
    axes.set_xlabel('epoch', fontsize=9, color=MUTED)


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
