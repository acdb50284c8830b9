"""What several subcommands share: their arguments, the model that is named, and how results are printed."""

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg

from flaxmobile.cli.options import with_options
from flaxmobile.messages import printable

if TYPE_CHECKING:
    from flaxmobile.runs.description import RunDescription
    from flaxmobile.weights import Model

ModelName = Annotated[
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


def open_model(given: str, how: Opened = AS_IT_IS) -> 'Model':
    """The model that the command line names, with what is to be known of it said on the side."""
    from flaxmobile.runs.sources import load

    options: dict[str, Any] = {'image_size': how.image_size, 'ignore_convention': how.ignore_convention, 'ema': how.ema}
    with advising(given):
        model = load(given, file=how.weights, **options)
    if model.weight and model.weight.name != given:
        tell(f'{given}: taking {model.weight.name}')
    if model.assumed:
        tell(f'{how.weights or given} {model.assumed}')
    return model


@contextmanager
def advising(file: str | Path) -> Iterator[None]:
    """Say the command that makes a file which says its network of one whose tensors fit several."""
    from flaxmobile.weights.recognition import AmbiguousError

    try:
        yield
    except AmbiguousError as error:
        shown = shlex.quote(printable(file, None))
        command = f'flaxmobile convert {shown} model.safetensors --model NAME'
        raise ValueError(f'{error}; in the shell `{command}` makes a file that says it') from None


def run_of(given: str, how: Opened = AS_IT_IS) -> 'RunDescription | None':
    """What the run says of itself that the command line names; None where it names something else."""
    from flaxmobile.runs.description import read_description

    folder = Path(given).expanduser()
    return read_description(folder) if how.weights is None and folder.is_dir() else None


def title_of(given: str, model: 'Model', how: Opened = AS_IT_IS) -> str:
    """What the model is called, as one line: the published weight, or the network and where it comes from."""
    return printable(model.weight.name if model.weight else f'{model.name} from {how.weights or given}', None)


def tell(text: str) -> None:
    """Say something on the side, as one line on stderr."""
    print(printable(with_options(text), None), file=sys.stderr)


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Keep off the terminal what libraries in C++ write to stderr by themselves; Python's own stderr stays."""
    sys.stderr.flush()
    terminal, python = os.dup(2), sys.stderr
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        if python is sys.__stderr__:
            sys.stderr = os.fdopen(terminal, 'w', 1, 'utf-8', 'backslashreplace', closefd=False)
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = python
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def as_json(content: Any) -> str:
    """As every `--json` prints it."""
    return json.dumps(content, indent=2)


def print_table(table: Any) -> None:
    """Print a table of rich, as wide as the terminal; `[name]` and `:name:` in it mean nothing."""
    from rich.console import Console

    # A file or a pipe has no width of its own, and rich would take it for a narrow terminal.
    Console(width=None if sys.stdout.isatty() else 140, markup=False, emoji=False).print(table)
