"""The subcommands for files of weights: weights list and convert."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from flaxmobile.cli.common import as_json, assumed_of, open_model, tell
from flaxmobile.messages import printable, unknown

if TYPE_CHECKING:
    from flaxmobile.weights import NamedModel, Weight


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
        rows.append((weight.name + star, f'{weight.num_classes}', pixels, ', '.join(figures), weight.license))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, '', "* what a network's name alone stands for; pixels and top-1: as trained, and as best evaluated"]


def convert(
    source: Positional[
        Annotated[str, arg(metavar='IN', help="A file of weights, a run's folder, or a published name.")]
    ],
    target: Positional[
        Annotated[Path, arg(metavar='OUT', help='File to write: .safetensors, .npz, .pth, .pt, .h5 or .weights.h5.')]
    ],
    model: Annotated[
        str | None,
        arg(metavar='NAME', help='The network, as `flaxmobile list` prints it, of a file that does not say.'),
    ] = None,
    layout: Annotated[
        Literal['timm', 'torchvision', 'keras'] | None,
        arg(help="Whose names the tensors get; None: ours in .safetensors and .npz, else the format's own."),
    ] = None,
    overwrite: Annotated[FlagCreatePairsOff[bool], arg(help='Replace a file that is there.')] = False,
) -> int:
    """Convert weights between safetensors, torch, Keras and NumPy, number for number."""
    from flaxmobile.weights import files

    path = Path(source).expanduser()
    files.check_target(target, layout, overwrite=overwrite)
    given = path if path.is_file() else open_model(source).model
    written = files.convert(given, target, model_name=model, layout=layout, overwrite=overwrite)
    print(f'{printable(target, None)}: {written.name}, {len(written.loaded.classes)} classes')
    for note in _notes(source, written, layout or files.named_by(target)):
        tell(note)
    return 0


def _notes(source: str, written: 'NamedModel', named_by: str) -> Iterator[str]:
    """What the numbers alone do not tell."""
    from flaxmobile.layers import get_convention

    if written.assumed:
        yield assumed_of(source, written)
    padding = get_convention(written.loaded.model.convention).padding
    tensorflow = padding != 'symmetric'
    if not tensorflow and 'keras' in (named_by, written.assumed):
        yield (
            f'{written.name} pads and normalises as torch does: with these numbers Keras answers something else. '
            "The networks whose names begin with tf_ are Keras's"
        )
    if tensorflow and named_by in ('torch', 'timm', 'torchvision'):
        yield (
            f'{written.name} pads and normalises as TensorFlow does: with these numbers a torch network answers the '
            "same only if it does too, as timm's with pad_type='same' and bn_eps=1e-3"
            + (', for images whose height and width are multiples of 32' if padding == 'bottom_right' else '')
        )
