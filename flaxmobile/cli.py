"""The `flaxmobile` command: one function a subcommand."""

import errno
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

import flaxmobile
from flaxmobile.models.network import MobileNet
from flaxmobile.suggestions import unknown
from flaxmobile.training.config import TrainConfig, list_configs, load_config

if TYPE_CHECKING:
    from flaxmobile.training.evaluation import Evaluation

Run = Annotated[Path, arg(metavar='RUN', help='Folder that `flaxmobile train` wrote.')]


def train(
    config: Positional[Annotated[str, arg(metavar='CONFIG', help='A config by name, or a Python file with one.')]],
    configuration: OmitArgPrefixes[TrainConfig],
    run_dir: Annotated[Path | None, arg(metavar='DIR', help='Folder for the run; None: runs/CONFIG.')] = None,
    resume: Annotated[
        FlagCreatePairsOff[bool], arg(help='Go on with the run in the folder, from its last checkpoint.')
    ] = False,
    overwrite: Annotated[
        FlagCreatePairsOff[bool], arg(help='Remove the run that the folder holds and start again.')
    ] = False,
) -> int:
    """Train a model and write checkpoints, metrics and a report; every field of the config is an option."""
    from flaxmobile.analysis.counts import layers
    from flaxmobile.training.interruption import TrainingStopped
    from flaxmobile.training.loop import train as run_training

    def count(model: MobileNet) -> int:
        return sum(layer.multiply_adds for layer in layers(model, configuration.image_size, configuration.channels))

    folder = run_dir or Path('runs') / Path(config).stem
    try:
        run_training(configuration, folder, resume=resume, overwrite=overwrite, name=config, multiply_adds=count)
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number
    results = json.loads((folder / 'results.json').read_text())
    print(f'test accuracy {results["test"]["accuracy"]:.2%}; the report: {folder / "report.md"}')
    return 0


def evaluate(
    run: Positional[Run],
    data: Annotated[
        str | None, arg(metavar='NAME', help='Data set or folder of images; None: the one of the run.')
    ] = None,
    split: Annotated[
        str | None, arg(help="Its part, like 'test' or 'train[:10%]'; None: the run's test split.")
    ] = None,
    data_dir: Annotated[str | None, arg(metavar='DIR', help='Where TFDS keeps prepared data sets.')] = None,
) -> int:
    """Evaluate a trained model: accuracy, top 5, loss and the classes it does worst on."""
    from flaxmobile.data import load_dataset
    from flaxmobile.training.evaluation import evaluate as run_evaluation
    from flaxmobile.training.run import load_run, read_description
    from flaxmobile.training.step import make_evaluation_step, make_mesh, replicate

    config = read_description(run).config
    loaded = load_run(run)
    dataset = load_dataset(
        data or config.dataset,
        split or config.test_split,
        data_dir=data_dir or config.data_dir,
        max_unreadable=config.max_unreadable,
    )
    mesh = make_mesh()
    result = run_evaluation(
        make_evaluation_step(loaded.model, loaded.preprocessing, mesh),
        replicate(loaded.variables, mesh),
        dataset,
        loaded.preprocessing,
        -(-config.batch_size // mesh.size) * mesh.size,
        mesh,
        classes=loaded.classes,
    )
    print(f'{config.model} from {run} on {dataset.name} ({dataset.split})')
    for name in dataset.unreadable:
        print(f'left out, as it cannot be read: {name}', file=sys.stderr)
    _print_evaluation(result, loaded.classes)
    return 0


def _print_evaluation(result: 'Evaluation', classes: Sequence[str]) -> None:
    top5 = f', top 5 {result.accuracy_top5:.2%}' if len(classes) > 5 else ''
    print(f'accuracy {result.accuracy:.2%}{top5}, loss {result.loss:.4f}, {result.count:,} images')
    images = result.confusion.sum(axis=1)
    seen = [number for number in range(len(classes)) if images[number]]
    recall = {number: result.confusion[number, number] / images[number] for number in seen}
    worst = sorted(seen, key=lambda number: recall[number])[:5]
    print('worst classes: ' + ', '.join(f'{classes[number]} {recall[number]:.1%}' for number in worst))


def predict(
    run: Positional[Run],
    images: Positional[
        Annotated[
            tuple[Path, ...],
            arg(metavar='IMAGE...', help='Images, or folders of images.', help_behavior_hint='(required)'),
        ]
    ],
    top: Annotated[int, arg(help='How many classes to name, the most probable first.')] = 5,
    json: Annotated[FlagCreatePairsOff[bool], arg(help='Print JSON.')] = False,
) -> int:
    """Say what is on images, with probabilities; exit code 1 where one cannot be read."""
    from flaxmobile.training.prediction import predict_files
    from flaxmobile.training.run import load_run

    if not images:
        raise ValueError('name at least one image, or a folder of images')
    results = predict_files(load_run(run), images, top)
    print(_as_json(results) if json else '\n'.join(_lines(result) for result in results))
    return int(any('error' in result for result in results))


def _as_json(results: list[dict[str, Any]]) -> str:
    return json.dumps(results, indent=2)


def _lines(result: dict[str, Any]) -> str:
    if 'error' in result:
        return f'{result["image"]}\n  cannot be read: {result["error"]}'
    lines = [f'  {guess["probability"]:6.1%}  {guess["class"]}' for guess in result['predictions']]
    return '\n'.join([result['image'], *lines])


def list_models(
    pattern: Positional[
        Annotated[str, arg(metavar='PATTERN', help="Part of a name, with * and ?: 'mobilenetv2*'.")]
    ] = '*',
) -> int:
    """List the models."""
    names = flaxmobile.list_models(pattern)
    if not names:
        raise ValueError(unknown('model', pattern, flaxmobile.list_models()))
    print('\n'.join(names))
    return 0


def summary(
    name: Positional[Annotated[str, arg(metavar='NAME', help='A model, as `flaxmobile list` prints it.')]],
    image_size: Annotated[int | None, arg(help="Height and width in pixels; None: the model's own.")] = None,
    width_multiplier: Annotated[float | None, arg(help="Width of the layers; None: the name's own.")] = None,
) -> int:
    """Show a model by layer: shapes, parameters, multiply-adds, and what depthwise separation saves."""
    from rich.console import Console

    from flaxmobile.analysis.summary import render

    options = {} if width_multiplier is None else {'width_multiplier': width_multiplier}
    # A file or a pipe has no width of its own, and rich would take it for a narrow terminal.
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(render(name, image_size=image_size, **options))
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0; 1 for an unreadable image; 2 for wrong input; 128 + n for signal n."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = '--debug' in words
    words = [word for word in words if word != '--debug']
    if words[:1] in (['--version'], ['-V']):
        print(f'flaxmobile {flaxmobile.__version__}')
        raise SystemExit(0)
    try:
        raise SystemExit(_run(words))
    except BrokenPipeError:  # Whoever read the output has enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (ValueError, TypeError, OSError, ArithmeticError, ImportError) as error:
        if debug:
            raise
        print(f'flaxmobile: {_message(error)}', file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _run(words: list[str]) -> int:
    commands: dict[str, Callable[..., int]] = {
        'train': functools.partial(train, configuration=_configuration(words)),
        'evaluate': evaluate,
        'predict': predict,
        'list': list_models,
        'summary': summary,
    }
    about = 'The MobileNet family for JAX. `flaxmobile COMMAND --help` says more; --version gives the version.'
    return tyro.extras.subcommand_cli_from_dict(commands, prog='flaxmobile', description=about, args=words)


def _configuration(words: Sequence[str]) -> TrainConfig:
    """What the options of `train` start from: the config named first."""
    if words[:1] != ['train'] or '--help' in words[1:2] or '-h' in words[1:2]:
        return TrainConfig(model='mobilenetv2_100', dataset='imagenet2012')
    if len(words) < 2 or words[1].startswith('-'):
        raise ValueError(f'flaxmobile train needs a CONFIG first: {", ".join(list_configs())}, or a Python file')
    return load_config(words[1])


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        what = f'{error.filename} was not written' if error.filename else error.strerror
        return f'no space is left on the disk: {what}; what was there before is untouched'
    return str(error) or type(error).__name__
