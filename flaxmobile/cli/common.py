"""What several subcommands share: their arguments, the model that is named, and how results are printed."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg

from flaxmobile.messages import printable

if TYPE_CHECKING:
    from flaxmobile.runs.sources import Source
    from flaxmobile.weights import NamedModel

Model = Annotated[
    str,
    arg(metavar='MODEL', help="A published name (`flaxmobile weights list`), a run's folder, or a file of weights."),
]
WeightsFile = Annotated[
    Path | None,
    arg(
        metavar='FILE',
        help='The weights of a published name or network from this file, of any format.',
    ),
]
IgnoreConvention = FlagCreatePairsOff[
    Annotated[bool, arg(help="Take a file that was made for another padding or BatchNorm than the network's.")]
]
Average = FlagCreatePairsOff[
    Annotated[bool, arg(help='Of a torch checkpoint, take the moving average of the weights.')]
]
ImageSize = Annotated[int | None, arg(help="Height and width in pixels; None: the model's own.")]


@dataclasses.dataclass(frozen=True)
class Opened:
    """How the model is opened that a command is given."""

    weights: WeightsFile = None
    image_size: ImageSize = None
    ignore_convention: IgnoreConvention = False
    ema: Average = False


AS_IT_IS = Opened()


def open_model(given: str, how: Opened = AS_IT_IS) -> 'Source':
    """The model that the command line names, with what is to be known of it said on the side."""
    from flaxmobile.runs.sources import open_source

    file = how.weights
    source = open_source(
        given, file=file, image_size=how.image_size, ignore_convention=how.ignore_convention, ema=how.ema
    )
    if source.weight and source.weight.name != given:
        tell(f'{given}: taking {source.weight.name}')
    if source.model.assumed:
        tell(assumed_of(file or given, source.model))
    return source


def tell(text: str) -> None:
    """Say something on the side, as one line on stderr."""
    print(printable(text, None), file=sys.stderr)


def assumed_of(file: str | Path, model: 'NamedModel') -> str:
    """What a file does not say, and what was taken for it."""
    reasons = {'tensors': f'its tensors fit {model.name} alone', 'arch': f'its `arch` says {model.name}'}
    reason = reasons.get(model.recognized)
    which = f'which network it is of ({reason}), ' if reason else ''
    from flaxmobile.weights.class_names import VOCABULARIES

    count = len(model.loaded.classes)
    names = "ImageNet's names, as it has as many" if count in VOCABULARIES.values() else 'their numbers for names'
    return (
        f'{file} says neither {which}how images are prepared nor what its classes are; taken as usual for '
        f'{model.name}: {model.loaded.preprocessing}, and for its {count:,} classes {names}'
    )


def as_json(content: Any) -> str:
    """As every `--json` prints it."""
    return json.dumps(content, indent=2)


def print_table(table: Any) -> None:
    """Print a table of rich, as wide as the terminal; `[name]` and `:name:` in it mean nothing."""
    from rich.console import Console

    # A file or a pipe has no width of its own, and rich would take it for a narrow terminal.
    Console(width=None if sys.stdout.isatty() else 140, markup=False, emoji=False).print(table)
