"""What a benchmark leaves: a table, a JSON file, a plot."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from benchmarks.timing import machine
from flaxmobile.analysis.latency import Times

Row = dict[str, Any]
CASE = ('task', 'network', 'batch')


def row(task: str, network: str, batch: int, contender: str, times: Times | str, unit: str = 'ms') -> Row:
    """One contender's result, or the reason why there is none."""
    result = {'reason': times} if isinstance(times, str) else {'unit': unit, **times._asdict()}
    return {'task': task, 'network': network, 'batch': batch, 'contender': contender, **result}


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The rows with `ratio`: ours over theirs in the same case, below 1 where ours is faster or smaller."""
    ours = {_case(row): row['median'] for row in rows if row['contender'] == 'ours' and 'median' in row}
    return [
        {**row, 'ratio': ours[_case(row)] / row['median']} if 'median' in row and _case(row) in ours else dict(row)
        for row in rows
    ]


def _case(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in CASE)


def print_table(rows: Sequence[Row]) -> None:
    """On the terminal, a case after the other."""
    table = Table('task', 'network', 'batch', 'contender', caption='median and quartiles; a slow one has fewer rounds')
    for name in ('median', 'quartiles', 'rounds', 'ours / theirs'):
        table.add_column(name, justify='right')
    for _, group in itertools.groupby(with_ratios(rows), key=_case):
        for row in group:
            table.add_row(*(str(row[name]) for name in (*CASE, 'contender')), *_cells(row))
        table.add_section()
    Console(width=None if Console().is_terminal else 140).print(table)


def _cells(row: Row) -> tuple[str, ...]:
    if 'reason' in row:
        return (row['reason'].strip().splitlines()[-1],)
    median, lower, upper = (
        f'{row[name]:.3g}' if row[name] < 100 else f'{row[name]:.0f}' for name in ('median', 'lower', 'upper')
    )
    ratio = f'{row["ratio"]:.2f}' if 'ratio' in row else ''
    return f'{median} {row["unit"]}', f'{lower} - {upper}', str(row['rounds']), ratio


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """The machine and the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({'machine': machine(), 'rows': with_ratios(rows)}, indent=1) + '\n')


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Bars of each contender's throughput over ours, by network: a panel for each task and batch."""
    measured = [row for row in with_ratios(rows) if 'ratio' in row]
    panels = sorted({(row['task'], row['batch']) for row in measured})
    names = list(dict.fromkeys(row['contender'] for row in measured))
    if not panels:
        return
    figure = Figure(figsize=(11, 3 * len(panels) + 1), layout='constrained')
    axes = figure.subplots(len(panels), 1, squeeze=False)
    width = 0.8 / len(names)
    for axis, (task, batch) in zip(axes[:, 0], panels, strict=True):
        case = [row for row in measured if (row['task'], row['batch']) == (task, batch)]
        networks = list(dict.fromkeys(row['network'] for row in case))
        for index, name in enumerate(names):
            own = {
                networks.index(row['network']) - 0.4 + (index + 0.5) * width: row['ratio']
                for row in case
                if row['contender'] == name
            }
            if own:  # Bars that are not there have a color of their own in the legend.
                axis.bar(own.keys(), own.values(), width, label=name, color=matplotlib.colormaps['tab10'](index))
        axis.axhline(1, color='black', linewidth=0.8)
        axis.set(title=f'{task}, batch {batch}', ylabel='throughput / ours')
        axis.set_xticks(range(len(networks)), [name.replace('_', '\n', 1) for name in networks])
    handles = {name: bars for axis in axes[:, 0] for bars, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc='outside lower center', ncols=5, frameon=False)
    figure.savefig(path, dpi=150)
