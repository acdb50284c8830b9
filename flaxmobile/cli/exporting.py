"""The subcommands that make of a model what runs elsewhere: export and web."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from flaxmobile.cli.common import AS_IT_IS, ModelName, Opened, open_model, silent_libraries, title_of
from flaxmobile.messages import printable

if TYPE_CHECKING:
    from flaxmobile.export import Check


def export(
    model: Positional[ModelName],
    path: Positional[
        Annotated[Path, arg(metavar='OUT', help='File to write: .tflite (LiteRT), .onnx or .jax (plain JAX).')]
    ],
    float16: Annotated[
        FlagCreatePairsOff[bool], arg(help='Keep the weights as float16, half the size; .tflite only.')
    ] = False,
    uint8_input: Annotated[
        FlagCreatePairsOff[bool],
        arg(help='Take pixels, uint8 RGB, and normalise them inside; else float32, normalised already.'),
    ] = False,
    softmax: Annotated[FlagCreatePairsOff[bool], arg(help='Answer probabilities in place of logits.')] = False,
    overwrite: Annotated[FlagCreatePairsOff[bool], arg(help='Replace a file that is there.')] = False,
    opened: OmitArgPrefixes[Opened] = AS_IT_IS,
) -> int:
    """Write a model as a file that runs elsewhere, and compare what it answers there with JAX."""
    from flaxmobile.export import by_suffix
    from flaxmobile.export.target import check_target

    check_target(path, float16=float16, overwrite=overwrite)
    exported = open_model(model, opened)
    with silent_libraries():
        check = by_suffix.export(
            exported, path, float16=float16, uint8_input=uint8_input, softmax=softmax, overwrite=overwrite
        )
    side = exported.preprocessing.image_size
    print(f'{printable(path, None)}: {title_of(model, exported, opened)}, {side}x{side} pixels, {_size(check.size)}')
    if check.error is not None:
        print(_compared(check))
    if check.operations:
        print(', '.join(f'{count} {name}' for name, count in check.operations.items()))
    return 0


def web(
    model: Positional[ModelName],
    folder: Positional[Annotated[Path, arg(metavar='OUT_DIR', help='Folder to write.')]],
    overwrite: Annotated[FlagCreatePairsOff[bool], arg(help='Replace a page that is there.')] = False,
    opened: OmitArgPrefixes[Opened] = AS_IT_IS,
) -> int:
    """Write a page that classifies pictures in the browser by a model: a folder of files for any web server."""
    from flaxmobile.export.web import check_page, to_web

    check_page(folder, overwrite=overwrite)
    shown = open_model(model, opened)
    with silent_libraries():
        check = to_web(shown, folder, overwrite=overwrite)
    side = shown.preprocessing.image_size
    print(f'{printable(folder, None)}: {title_of(model, shown, opened)}, {side}x{side} pixels, {_size(check.size)}')
    if check.error is not None:
        print(_compared(check))
    print(f'to see it: python -m http.server --directory {shlex.quote(printable(folder, None))}')
    return 0


def _size(count: int) -> str:
    return f'{count / 1e6:.2f} MB'


def _compared(check: 'Check') -> str:
    told = f'{check.runtime} answers as the model in float32 in JAX, to {check.error:.1e} of the largest answer'
    return told if check.partitions is None else f'{told}; XNNPACK partitions: {check.partitions}'
