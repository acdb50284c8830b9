"""A network layer by layer, next to what ordinary convolutions would cost."""

from typing import TYPE_CHECKING, Any, NamedTuple

from flaxmobile.analysis.counts import Layer, layers
from flaxmobile.models.registry import create_model, entry

if TYPE_CHECKING:
    from rich.console import RenderableType


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


def render(name: str, image_size: int | None = None, **overrides: Any) -> 'RenderableType':
    """The table of a registered network at `image_size` pixels (its own where None), for rich to print.

    `overrides` are fields of the model, as for `create_model`.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    size = image_size or entry(name).image_size
    rows = layers(create_model(name, **overrides), size)
    twin, whole = ordinary_twin(rows), total(rows)
    ordinary = Cost(sum(cost.parameters for cost in twin.values()), sum(cost.multiply_adds for cost in twin.values()))
    table = Table(title=f'{name}, {size}x{size}', title_style='bold', header_style='bold', show_footer=True)
    table.add_column('layer', footer='total')
    for heading in ('kernel', 'stride', 'output'):
        table.add_column(heading, justify='right', no_wrap=True)
    for heading, footer in _columns(whole, ordinary):
        table.add_column(heading, footer=footer, justify='right', no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, whole, twin[row.name]))
    words = Text(
        f'With ordinary convolutions in place of the depthwise separable ones: {ordinary.parameters:,} parameters '
        f'and {ordinary.multiply_adds:,} multiply-adds; separation saves {ordinary.parameters / whole.parameters:.1f}x '
        f'and {ordinary.multiply_adds / whole.multiply_adds:.1f}x.'
    )
    return Group(table, words)


def _columns(whole: Cost, ordinary: Cost) -> list[tuple[str, str]]:
    return [
        ('parameters', f'{whole.parameters:,}'),
        ('share', '100 %'),
        ('multiply-adds', f'{whole.multiply_adds:,}'),
        ('share', '100 %'),
        ('ordinary: parameters', f'{ordinary.parameters:,}'),
        ('multiply-adds', f'{ordinary.multiply_adds:,}'),
    ]


def _cells(row: Layer, whole: Cost, twin: Cost) -> list[str]:
    kernel = f'{row.kernel_size[0]}x{row.kernel_size[1]}' + (' dw' if row.kind == 'depthwise' else '')
    merged = twin == Cost(0, 0)
    return [
        row.name,
        '' if row.kind == 'dense' else kernel,
        '' if row.kind == 'dense' else str(row.strides[0]),
        'x'.join(map(str, row.output_shape)),
        f'{row.parameters:,}',
        f'{100 * row.parameters / whole.parameters:.1f} %',
        f'{row.multiply_adds:,}',
        f'{100 * row.multiply_adds / whole.multiply_adds:.1f} %',
        '↓' if merged else f'{twin.parameters:,}',
        '↓' if merged else f'{twin.multiply_adds:,}',
    ]
