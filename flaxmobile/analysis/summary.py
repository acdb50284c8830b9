"""A network layer by layer, next to what ordinary convolutions would cost."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from flaxmobile.analysis.counts import Layer, count_layers
from flaxmobile.models.registry import create_model, entry

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class Cost(NamedTuple):
    """Trainable parameters and multiply-adds for one image."""

    parameters: int
    multiply_adds: int


def total(rows: tuple[Layer, ...]) -> Cost:
    """The sum over `rows`."""
    return Cost(sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows))


def ordinary_twin(rows: tuple[Layer, ...]) -> dict[str, Cost]:
    """What each layer costs in the twin without depthwise separation, by the layer's name.

    A depthwise convolution and the pointwise one that combines its channels are together one ordinary convolution of
    the same kernel, stride and output, with one BatchNorm: `k * k * c * c'` weights in place of `k * k * c + c * c'`;
    what squeeze-excite puts between them stays. The depthwise layer costs nothing there, the pointwise one all.
    MobileNetV1's paper compares with this network in its Table 4.
    """
    twin = {row.name: Cost(row.parameters, row.multiply_adds) for row in rows}
    separated = None
    for row in rows:
        if row.kind == 'depthwise':
            separated = row
        elif separated and row.kind == 'pointwise' and 'squeeze_excite' not in row.name:
            height, width, features = row.output_shape
            weights = separated.kernel_size[0] * separated.kernel_size[1] * separated.output_shape[-1] * features
            norm = row.parameters - separated.output_shape[-1] * features
            twin[separated.name] = Cost(0, 0)
            twin[row.name] = Cost(weights + norm, height * width * weights)
            separated = None
    return twin


class Summary:
    """The table of a network, for rich to print: exact numbers where the width allows, else rounded ones."""

    def __init__(self, title: str, rows: tuple[Layer, ...]) -> None:
        self.title, self.rows = title, rows

    def __rich_console__(self, console: 'Console', options: 'ConsoleOptions') -> 'RenderResult':
        """The table and a sentence on the twin."""
        from rich.table import Table

        twin, whole = ordinary_twin(self.rows), total(self.rows)
        ordinary = Cost(*(sum(costs) for costs in zip(*twin.values(), strict=True)))
        number = _exact if options.max_width >= 120 else _rounded
        attention = sum(row.multiply_adds for row in self.rows if row.kind == 'attention')
        columns = 10 if options.max_width >= 98 else 8
        table = Table(title=self.title, box=None, show_footer=True, padding=(0, 2, 0, 0), title_style='bold')
        for index, (heading, footer) in enumerate(_columns(whole, ordinary, number)[:columns]):
            table.add_column(heading, footer, justify='right' if index else 'left', no_wrap=True)
        for row in self.rows:
            table.add_row(*_cells(row, whole, twin[row.name], number)[:columns])
        yield table
        if attention:
            yield f'{attention:,} of the multiply-adds are products inside attention.'
        yield (
            f'With ordinary convolutions in place of the depthwise separable ones: {ordinary.parameters:,} parameters, '
            f'{ordinary.multiply_adds:,} multiply-adds.\nSeparation saves a factor of '
            f'{ordinary.parameters / whole.parameters:.1f} in parameters and of '
            f'{ordinary.multiply_adds / whole.multiply_adds:.1f} in multiply-adds.'
        )


def render(name: str, image_size: int | None = None, **overrides: Any) -> Summary:
    """The table of a registered network at `image_size` pixels (its own where None), for rich to print.

    `overrides` are fields of the model, as for `create_model`.
    """
    size = entry(name).image_size if image_size is None else image_size
    return Summary(f'{name}, {size}x{size}', count_layers(create_model(name, **overrides), size))


def _exact(value: int) -> str:
    return f'{value:,}'


def _rounded(value: int) -> str:
    for unit, words in ((10**9, ' G'), (10**6, ' M'), (10**3, ' k')):
        if value >= unit:
            return f'{value / unit:.3g}{words}' if value < 999.5 * unit else f'{value / unit:.0f}{words}'
    return str(value)


def _columns(whole: Cost, ordinary: Cost, number: Callable[[int], str]) -> list[tuple[str, str]]:
    return [
        ('layer', 'total'),
        ('kernel', ''),
        ('s', ''),
        ('output', ''),
        ('params', number(whole.parameters)),
        ('share', '100 %'),
        ('mult-adds', number(whole.multiply_adds)),
        ('share', '100 %'),
        ('ordinary', number(ordinary.parameters)),
        ('mult-adds', number(ordinary.multiply_adds)),
    ]


def _cells(row: Layer, whole: Cost, twin: Cost, number: Callable[[int], str]) -> list[str]:
    kernel = f'{row.kernel_size[0]}x{row.kernel_size[1]}' + (' dw' if row.kind == 'depthwise' else '')
    convolution = row.kind not in ('dense', 'attention')
    merged = twin == Cost(0, 0)
    return [
        row.name.replace('squeeze_excite', 'se').replace('attention', 'attn'),
        kernel if convolution else '',
        str(row.strides[0]) if convolution else '',
        'x'.join(map(str, row.output_shape)),
        number(row.parameters),
        f'{100 * row.parameters / whole.parameters:.1f} %',
        number(row.multiply_adds),
        f'{100 * row.multiply_adds / whole.multiply_adds:.1f} %',
        '↓' if merged else number(twin.parameters),
        '↓' if merged else number(twin.multiply_adds),
    ]
