"""The subcommands for files of weights: weights list and convert."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from flaxmobile.cli.common import Average, IgnoreConvention, Opened, advising, as_json, open_model, tell
from flaxmobile.messages import printable, unknown

if TYPE_CHECKING:
    from flaxmobile.weights import Weight


def list_weights(
    action: Positional[Annotated[Literal['list'], arg(metavar='list', help='Say which there are.')]],
    pattern: Positional[
        Annotated[str, arg(metavar='PATTERN', help="Part of a name, with * and ?: 'mobilenetv4*'.")]
    ] = '*',
    json: Annotated[FlagCreatePairsOff[bool], arg(help='Print JSON, with all that is known of each.')] = False,
) -> int:
    """List the published weights: classes, image sizes, published accuracy, licence."""
    from flaxmobile import weights

    found = weights.list_weights(pattern)
    if not found:
        raise ValueError(unknown('weights', pattern, {weight.model for weight in weights.list_weights()}))
    if json:
        more = [{'num_classes': weight.num_classes, 'path': str(weights.cache_path(weight))} for weight in found]
        print(as_json([vars(weight) | fields for weight, fields in zip(found, more, strict=True)]))
    else:
        print('\n'.join(_table(found)))
    return 0


def _table(found: Sequence['Weight']) -> list[str]:
    """A line for each weight, the one that its network's name stands for marked by a star."""
    from flaxmobile.weights import find

    rows = [('name', 'classes', 'pixels', 'top-1 in %', 'license')]
    for weight in found:
        star = '*' if find(weight.model) == weight else ''
        sizes = dict.fromkeys((weight.image_size, weight.test_size))
        figures = [f'{weight.top1[size]:.1f}' if size in weight.top1 else '-' for size in sizes]
        pixels = ', '.join(map(str, sizes))
        rows.append((weight.name + star, f'{weight.num_classes or "-"}', pixels, ', '.join(figures), weight.license))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    terms = [weight.terms for weight in found if weight.terms]
    return [
        *lines,
        '',
        *terms,
        "* what a network's name alone stands for; pixels and top-1: as trained, and as best evaluated",
    ]


def convert(
    source: Positional[
        Annotated[str, arg(metavar='IN', help="A file of weights, a run's folder, or a published name.")]
    ],
    target: Positional[
        Annotated[Path, arg(metavar='OUT', help='File to write: .safetensors, .npz, .pth, .pt, .h5 or .weights.h5.')]
    ],
    model: Annotated[
        str | None,
        arg(
            metavar='NAME',
            help='The network, as `flaxmobile list` prints it, of a file that does not say; None: the one it fits.',
        ),
    ] = None,
    layout: Annotated[
        Literal['timm', 'torchvision', 'keras'] | None,
        arg(help="Whose names the tensors get; None: ours in .safetensors and .npz, else the format's own."),
    ] = None,
    overwrite: Annotated[FlagCreatePairsOff[bool], arg(help='Replace a file that is there.')] = False,
    ignore_convention: IgnoreConvention = False,
    ema: Average = False,
) -> int:
    """Convert weights between safetensors, torch, Keras and NumPy, number for number."""
    from flaxmobile.weights import saving

    path = Path(source).expanduser()
    saving.check_target(target, layout, overwrite=overwrite)
    if path.is_file():
        options: dict[str, Any] = {'layout': layout, 'overwrite': overwrite, 'ema': ema}
        with advising(path):
            written = saving.convert(path, target, model, ignore_convention=ignore_convention, **options)
    else:
        written = open_model(source, Opened(ema=ema))
        if model not in (None, written.name):
            raise ValueError(f'{written.name} is to be written, not {model}')
        written.save(target, layout=layout, overwrite=overwrite)
    print(f'{printable(target, None)}: {written.name}, {written.num_classes} classes')
    if path.is_file() and written.assumed:
        tell(f'{source} {written.assumed}')
    return 0
