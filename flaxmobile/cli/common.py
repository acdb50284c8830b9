"""What several subcommands share: their arguments, the model that is named, and how results are printed."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from flaxmobile.messages import printable

if TYPE_CHECKING:
    from flaxmobile.training.sources import Source
    from flaxmobile.weights import NamedModel

Model = Annotated[
    str,
    arg(metavar='MODEL', help="A published name (`flaxmobile weights list`), a run's folder, or a file we wrote."),
]
WeightsFile = Annotated[
    Path | None,
    arg(
        metavar='FILE',
        help='The weights of a published name or network from this file, of any format.',
    ),
]
ImageSize = Annotated[int | None, arg(help="Height and width in pixels; None: the model's own.")]


def open_model(given: str, file: Path | None = None, image_size: int | None = None) -> 'Source':
    """The model that the command line names, with what is to be known of it said on the side."""
    from flaxmobile.training.sources import open_source

    source = open_source(given, file=file, image_size=image_size)
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
    return (
        f'{file} says neither how images are prepared nor what its classes are; taken as usual for {model.name}: '
        f'{model.loaded.preprocessing}'
    )


def as_json(content: Any) -> str:
    """As every `--json` prints it."""
    return json.dumps(content, indent=2)


def print_table(table: Any) -> None:
    """Print a table of rich, as wide as the terminal; `[name]` and `:name:` in it mean nothing."""
    from rich.console import Console

    # A file or a pipe has no width of its own, and rich would take it for a narrow terminal.
    Console(width=None if sys.stdout.isatty() else 140, markup=False, emoji=False).print(table)
