"""The `flaxmobile` command: one function a subcommand."""

import errno
import functools
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

import flaxmobile
from flaxmobile.compilation import keep_programs
from flaxmobile.memory import use_huge_pages
from flaxmobile.models.network import MobileNet
from flaxmobile.suggestions import unknown
from flaxmobile.training.config import TrainConfig, list_configs, load_config
from flaxmobile.weights.download import cache_folder

if TYPE_CHECKING:
    from flaxmobile.data import Dataset
    from flaxmobile.training.evaluation import Evaluation
    from flaxmobile.training.sources import Source
    from flaxmobile.weights import LoadedModel, NamedModel, Weight

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
    dry_run: Annotated[
        FlagCreatePairsOff[bool], arg(help='Train nothing: say what the run would do, and draw its schedules.')
    ] = False,
    images: Annotated[
        int | None, arg(help="Of a dry run: training images; None: the data set's own, known of ImageNet without it.")
    ] = None,
    output: Annotated[
        Path | None, arg(metavar='FILE', help='Of a dry run: the picture to write; None: runs/CONFIG-dry-run.png.')
    ] = None,
) -> int:
    """Train a model and write checkpoints, metrics and a report; every field of the config is an option."""
    import jax

    from flaxmobile.analysis.counts import layers
    from flaxmobile.training.interruption import TrainingStopped
    from flaxmobile.training.loop import train as run_training

    def count(model: MobileNet) -> int:
        return sum(layer.multiply_adds for layer in layers(model, configuration.image_size, configuration.channels))

    folder = run_dir or Path('runs') / Path(config).stem
    if dry_run:
        from flaxmobile.training.dry_run import dry_run as plan

        picture = output or folder.with_name(f'{folder.name}-dry-run.png')
        print(plan(configuration, picture, name=config, images=images, multiply_adds=count))
        return 0
    if images is not None or output is not None:
        raise ValueError('--images and --output go with --dry-run')
    try:
        run_training(configuration, folder, resume=resume, overwrite=overwrite, name=config, multiply_adds=count)
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.number
    if jax.process_index() == 0:
        results = json.loads((folder / 'results.json').read_text())
        print(f'test accuracy {results["test"]["accuracy"]:.2%}; the report: {folder / "report.md"}')
    return 0


def preview(
    config: Positional[Annotated[str, arg(metavar='CONFIG', help='A config by name, or a Python file with one.')]],
    configuration: OmitArgPrefixes[TrainConfig],
    output: Annotated[
        Path, arg(metavar='FILE', help='The picture to write, a PNG; one that is there is replaced.')
    ] = Path('preview.png'),
    images: Annotated[int, arg(help='How many training images to show, a row each.')] = 6,
) -> int:
    """Show what a config feeds the network, as a picture: training images, and what becomes of them."""
    from flaxmobile.training.preview import write_preview

    write_preview(configuration, output, name=config, count=images)
    print(output)
    return 0


def _open(given: str, file: Path | None = None, image_size: int | None = None) -> 'Source':
    """The model that the command line names, with what is to be known of it said on the side."""
    from flaxmobile.training.sources import open_source

    source = open_source(given, file=file, image_size=image_size)
    if source.weight and source.weight.name != given:
        print(f'{given}: taking {source.weight.name}', file=sys.stderr)
    if source.model.assumed:
        print(_assumed(file or given, source.model), file=sys.stderr)
    return source


def _assumed(file: str | Path, model: 'NamedModel') -> str:
    return (
        f'{file} says neither how images are prepared nor what its classes are; taken as usual for {model.name}: '
        f'{model.loaded.preprocessing}'
    )


def evaluate(
    model: Positional[Model],
    data: Annotated[
        str | None, arg(metavar='NAME', help='Data set or folder of images; None: the one of the run.')
    ] = None,
    split: Annotated[
        str | None,
        arg(help="Its part, like 'test' or 'train[:10%]'; None: the run's test split, ImageNet's 'validation'."),
    ] = None,
    data_dir: Annotated[str | None, arg(metavar='DIR', help='Where TFDS keeps prepared data sets.')] = None,
    download: Annotated[
        FlagCreatePairsOff[bool], arg(help='Fetch and prepare a data set that is not there yet.')
    ] = False,
    weights: WeightsFile = None,
    image_size: ImageSize = None,
    batch_size: Annotated[int | None, arg(help="Images at once; None: the run's, or 64.")] = None,
) -> int:
    """Evaluate a model: accuracy, top 5, loss and the classes it does worst on, beside what was published."""
    import jax

    from flaxmobile.training.evaluation import evaluate as run_evaluation
    from flaxmobile.training.step import make_evaluation_step, make_mesh, replicate

    named = _open(model, weights, image_size)
    loaded, config = named.model.loaded, named.config
    dataset = _dataset(named, data, split, data_dir, download)
    if batch_size is None:
        batch_size = config.batch_size if config else 64
    mesh = make_mesh()
    result = run_evaluation(
        make_evaluation_step(loaded.model, loaded.preprocessing, mesh),
        replicate(loaded.variables, mesh),
        dataset,
        loaded.preprocessing,
        -(-batch_size // mesh.size) * mesh.size,
        mesh,
        classes=loaded.classes,
    )
    for name in dataset.unreadable:
        print(f'left out, as it cannot be read: {name}', file=sys.stderr)
    if jax.process_index() > 0:
        return 0
    print(f'{named.title} on {dataset.name} ({dataset.split})')
    _print_evaluation(result, loaded.classes)
    if named.weight and named.weight.top1:
        print(_published(named.weight, loaded.preprocessing.image_size))
    return 0


def _dataset(named: 'Source', data: str | None, split: str | None, data_dir: str | None, download: bool) -> 'Dataset':
    """The data set asked for, by what the run was configured with where that is not said."""
    from flaxmobile.data import load_dataset

    data = _data(named, data)
    if named.config is None and data == 'imagenet2012':
        split = split or 'validation'
    config: TrainConfig | type[TrainConfig] = named.config or TrainConfig  # The class has the defaults.
    return load_dataset(
        data,
        split or config.test_split,
        data_dir=data_dir or config.data_dir,
        download=download,
        max_unreadable=config.max_unreadable,
    )


def _data(named: 'Source', data: str | None) -> str:
    found = data or (named.config.dataset if named.config else None)
    if found is None:
        raise ValueError(f'say which images {named.title} is to see: --data imagenet2012, or a folder of images')
    return found


def _published(weight: 'Weight', image_size: int) -> str:
    """The published accuracy at that image size, or at those that were published."""
    sizes = [image_size] if image_size in weight.top1 else list(weight.top1)
    figures = ', '.join(f'{weight.top1[size]:.2f}% at {size} pixels' for size in sizes)
    return f'published for ImageNet-1k: accuracy {figures}'


def _print_evaluation(result: 'Evaluation', classes: Sequence[str]) -> None:
    top5 = f', top 5 {result.accuracy_top5:.2%}' if len(classes) > 5 else ''
    print(f'accuracy {result.accuracy:.2%}{top5}, loss {result.loss:.4f}, {result.count:,} images')
    images = result.confusion.sum(axis=1)
    seen = [number for number in range(len(classes)) if images[number]]
    recall = {number: result.confusion[number, number] / images[number] for number in seen}
    worst = sorted(seen, key=lambda number: recall[number])[:5]
    print('worst classes: ' + ', '.join(f'{classes[number]} {recall[number]:.1%}' for number in worst))


def predict(
    model: Positional[Model],
    images: Positional[
        Annotated[
            tuple[Path, ...],
            arg(metavar='IMAGE...', help='Images, or folders of images.', help_behavior_hint='(required)'),
        ]
    ],
    top: Annotated[int, arg(help='How many classes to name, the most probable first.')] = 5,
    json: Annotated[FlagCreatePairsOff[bool], arg(help='Print JSON.')] = False,
    weights: WeightsFile = None,
    image_size: ImageSize = None,
) -> int:
    """Say what is on images, with probabilities; exit code 1 where one cannot be read."""
    from flaxmobile.training.prediction import predict_files

    if not images:
        raise ValueError('name at least one image, or a folder of images')
    results = predict_files(_open(model, weights, image_size).model.loaded, images, top)
    print(_as_json(results) if json else '\n'.join(_lines(result) for result in results))
    return int(any('error' in result for result in results))


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=2)


def _lines(result: dict[str, Any]) -> str:
    if 'error' in result:
        return f'{result["image"]}\n  cannot be read: {result["error"]}'
    lines = [f'  {guess["probability"]:6.1%}  {guess["class"]}' for guess in result['predictions']]
    return '\n'.join([result['image'], *lines])


def probe(
    model: Positional[Model],
    data: Annotated[
        str | None, arg(metavar='NAME', help='Data set or folder of images; None: the one of the run.')
    ] = None,
    train_split: Annotated[str | None, arg(help="Its part to fit; None: the run's train split, or 'train'.")] = None,
    test_split: Annotated[str | None, arg(help="Its part to test; None: the run's test split, or 'test'.")] = None,
    data_dir: Annotated[str | None, arg(metavar='DIR', help='Where TFDS keeps prepared data sets.')] = None,
    weights: WeightsFile = None,
    image_size: ImageSize = None,
    batch_size: Annotated[int, arg(help='Images at once.')] = 64,
) -> int:
    """See how good a model's features are for other classes: nearest neighbours and a linear classifier on them."""
    from flaxmobile.data import load_dataset
    from flaxmobile.training.probe import NEIGHBOURS
    from flaxmobile.training.probe import probe as run_probe
    from flaxmobile.training.step import make_mesh

    named = _open(model, weights, image_size)
    config = named.config if named.config and data in (None, named.config.dataset) else None
    data = _data(named, data)
    own = (config.train_split, config.test_split, config.data_dir) if config else ('train', 'test', None)
    splits = (train_split or own[0], test_split or own[1])
    train, test = (load_dataset(data, split, data_dir=data_dir or own[2]) for split in splits)
    mesh = make_mesh()
    found = run_probe(named.model.loaded, train, test, -(-batch_size // mesh.size) * mesh.size, mesh)
    print(
        f'{named.title} on {train.name}: fitted to {found.train_images:,} images of {train.split}, tested on '
        f'{found.test_images:,} of {test.split}, at {named.model.loaded.preprocessing.image_size} pixels'
    )
    print(f'{NEIGHBOURS} nearest neighbours {found.knn_accuracy:.2%}')
    print(f'linear probe {found.linear_accuracy:.2%} (penalty {found.penalty:g})')
    return 0


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
        print(_as_json([vars(weight) | fields for weight, fields in zip(found, more, strict=True)]))
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
    given = path if path.is_file() else _open(source).model
    written = files.convert(given, target, model_name=model, layout=layout, overwrite=overwrite)
    print(f'{target}: {written.name}, {len(written.loaded.classes)} classes')
    for note in _notes(source, written, layout or files.named_by(target)):
        print(note, file=sys.stderr)
    return 0


def _notes(source: str, written: 'NamedModel', named_by: str) -> Iterator[str]:
    """What the numbers alone do not tell."""
    from flaxmobile.layers import TENSORFLOW, get_convention

    if written.assumed:
        yield _assumed(source, written)
    tensorflow = get_convention(written.loaded.model.convention) == TENSORFLOW
    if not tensorflow and 'keras' in (named_by, written.assumed):
        yield (
            f'{written.name} pads and normalises as torch does: with these numbers Keras answers something else. '
            "The networks whose names begin with tf_ are Keras's"
        )
    if tensorflow and named_by in ('torch', 'timm', 'torchvision'):
        yield (
            f'{written.name} pads and normalises as TensorFlow does: with these numbers a torch network answers the '
            "same only if it does too, as timm's with pad_type='same' and bn_eps=1e-3"
        )


def summary(
    name: Positional[Annotated[str, arg(metavar='NAME', help='A model, as `flaxmobile list` prints it.')]],
    image_size: ImageSize = None,
    width_multiplier: Annotated[float | None, arg(help="Width of the layers; None: the name's own.")] = None,
) -> int:
    """Show a model by layer: shapes, parameters, multiply-adds, and what depthwise separation saves."""
    from flaxmobile.analysis.summary import render

    options = {} if width_multiplier is None else {'width_multiplier': width_multiplier}
    _print_table(render(name, image_size=image_size, **options))
    return 0


def _print_table(table: Any) -> None:
    from rich.console import Console

    # A file or a pipe has no width of its own, and rich would take it for a narrow terminal.
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def benchmark(
    model: Positional[
        Annotated[
            str,
            arg(
                metavar='MODEL',
                help='A network by name (`flaxmobile list`), untrained; or what the other commands take: a published '
                "name, a run's folder, or a file we wrote.",
            ),
        ]
    ],
    batch_size: Annotated[int, arg(help='Images at once.')] = 1,
    image_size: ImageSize = None,
    weights: WeightsFile = None,
    rounds: Annotated[int, arg(help='How often each piece of work is timed, in turn with the others.')] = 50,
    by_layer: Annotated[
        FlagCreatePairsOff[bool], arg(help="Inference layer by layer, by the profiler's trace.")
    ] = False,
    train: Annotated[FlagCreatePairsOff[bool], arg(help='A training step too, of SGD with momentum.')] = False,
    json: Annotated[FlagCreatePairsOff[bool], arg(help='Print JSON.')] = False,
) -> int:
    """Time a model on this machine: latency, images a second, and its share of what the machine can multiply.

    `flaxmobile benchmark input CONFIG` times the input of a training run instead.
    """
    from flaxmobile.analysis import latency

    latency.check(batch_size=batch_size, rounds=rounds)
    title, loaded = _trained_or_not(model, weights, image_size)
    result = latency.benchmark(
        loaded.model,
        loaded.variables,
        batch_size=batch_size,
        image_size=loaded.preprocessing.image_size,
        channels=loaded.preprocessing.channels,
        rounds=rounds,
        train_step=_train_step(loaded, batch_size) if train else None,
        by_layer=by_layer,
    )
    if json:
        print(_as_json(latency.as_dict(title, result)))
    else:
        _print_table(latency.Report(title, result))
    return 0


def benchmark_input(
    config: Positional[Annotated[str, arg(metavar='CONFIG', help='A config by name, or a Python file.')]],
    workers: Annotated[int | None, arg(help="Processes that read and augment; None: the config's.")] = None,
    batch_size: Annotated[int | None, arg(help="Images a batch; None: the config's.")] = None,
    rounds: Annotated[int, arg(help='How often each stage is timed, in turn with the others.')] = 20,
    json: Annotated[FlagCreatePairsOff[bool], arg(help='Print JSON.')] = False,
) -> int:
    """Time the input of a training run: images a second by stage, and of all together."""
    from flaxmobile.data import load_dataset
    from flaxmobile.training.input_speed import input_speed

    given: dict[str, Any] = {'workers': workers, 'batch_size': batch_size}
    run = replace(load_config(config), **{name: value for name, value in given.items() if value is not None})
    images = load_dataset(
        run.dataset, run.train_split, data_dir=run.data_dir, seed=run.seed, max_unreadable=run.max_unreadable
    )
    speeds = input_speed(run, images, rounds)
    if json:
        print(_as_json(speeds))
    else:
        print(f'{images.name} ({images.split}), {run.image_size} pixels, workers: {run.workers}; images a second')
        print('\n'.join(f'{name:<24}{speed:12,.0f}' for name, speed in speeds.items()))
    return 0


def _trained_or_not(given: str, file: Path | None, image_size: int | None) -> tuple[str, 'LoadedModel']:
    """The model as `_open` finds it, by its title; untrained where only a network is named: speed needs no weights."""
    networks = flaxmobile.list_models()
    if file or given not in networks or Path(given).exists():
        try:
            source = _open(given, file, image_size)
        except ValueError as error:
            near = '' if Path(given).exists() else f'; {unknown("network", given, networks)}'
            raise ValueError(f'{error}{near}') from None
        return source.title, source.model.loaded
    import jax

    from flaxmobile.data import Preprocessing
    from flaxmobile.models.registry import entry
    from flaxmobile.training.state import initial_variables
    from flaxmobile.weights import LoadedModel

    network = flaxmobile.create_model(given)
    preprocessing = Preprocessing(entry(given).image_size if image_size is None else image_size)
    return given, LoadedModel(network, initial_variables(network, jax.random.key(0), (1, 64, 64, 3)), preprocessing, ())


def _train_step(loaded: 'LoadedModel', batch_size: int) -> Callable[[], Any]:
    from flaxmobile.training.rehearsal import random_batch, rehearse, repeated

    return repeated(*rehearse(loaded, random_batch(loaded, batch_size)))


def compile_step(
    config: Positional[Annotated[str, arg(metavar='CONFIG', help='A config by name, or a Python file with one.')]],
    configuration: OmitArgPrefixes[TrainConfig],
    target: Annotated[
        str, arg(metavar='SLICE', help='What to compile for: tpu:v5e:2x2, tpu:v4:2x2x1, tpu:v5p:2x2x1, tpu:v6e:2x2...')
    ],
    num_classes: Annotated[
        int | None,
        arg(help="Classes to tell apart; None: those of the data set if it is here, else the network's own."),
    ] = None,
    json: Annotated[FlagCreatePairsOff[bool], arg(help='Print JSON.')] = False,
) -> int:
    """Compile a config's training step for a TPU that need not be there, and say what it needs of it.

    Memory, FLOPs, bytes moved, collectives, and the images a second that they allow at most. Every field of the config
    is an option, as with `train`.
    """
    import optax

    from flaxmobile.analysis import footprint, tpu
    from flaxmobile.training.rehearsal import planned_step

    piece = tpu.open_slice(target)
    step, state, batch = planned_step(configuration, num_classes or _num_classes(configuration), piece.devices)
    report = footprint.Report(
        f'{config}: {configuration.model}, {configuration.image_size} pixels, {configuration.dtype}',
        piece,
        configuration.batch_size,
        optax.tree.size(state.params),
        footprint.footprint(tpu.compile_for(piece, step.lower(state, batch))),
    )
    if json:
        print(_as_json(report.as_dict()))
    else:
        _print_table(report)
    return 0


def _num_classes(config: TrainConfig) -> int:
    from flaxmobile.data import load_dataset

    try:
        return len(load_dataset(config.dataset, config.train_split, data_dir=config.data_dir).classes)
    except OSError:
        return flaxmobile.create_model(config.model).num_classes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0; 1 for an unreadable image; 2 for wrong input; 128 + n for signal n.

    Without `arguments` they are the process's own, and so is the process: it keeps compiled programs on disk, and where
    it computes for long it begins anew with huge pages.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = '--debug' in words
    words = [word for word in words if word != '--debug']
    if words[:1] in (['--version'], ['-V']):
        print(f'flaxmobile {flaxmobile.__version__}')
        raise SystemExit(0)
    if arguments is None:
        keep_programs(cache_folder() / 'xla')
        if words[:1] in (['train'], ['evaluate'], ['benchmark']):
            use_huge_pages()
        if words[:1] == ['train']:  # A run may end at any moment, and libraries it imports swallow KeyboardInterrupt.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with _with_others(words, debug):
            raise SystemExit(_run(words))
    except BrokenPipeError:  # Whoever read the output has enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        if debug or not _is_for_people(error):
            raise
        print(f'flaxmobile: {_message(error)}', file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _is_for_people(error: BaseException) -> bool:
    """Whether its message is meant for who gave the command."""
    return isinstance(error, ValueError | TypeError | OSError | ArithmeticError | ImportError) or _is_of_memory(error)


def _is_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or str(error).startswith('RESOURCE_EXHAUSTED')


def _told(error: BaseException, debug: bool) -> tuple[int, str]:
    """The exit status for what a command raised, and what is printed."""
    if isinstance(error, KeyboardInterrupt):
        return 130, 'stopped'
    if _is_for_people(error) and not debug:
        return 2, f'flaxmobile: {_message(error)}'
    return 1, ''.join(traceback.format_exception(error))


def _with_others(words: Sequence[str], debug: bool) -> AbstractContextManager[None]:
    """What makes this process one of several where a launcher started several, for commands that share their work."""
    if words[:1] not in (['train'], ['evaluate']) or {'--help', '-h'} & set(words):
        return nullcontext()
    from flaxmobile.training.distributed import joined

    told, training = functools.partial(_told, debug=debug), words[0] == 'train'
    advice = '; start all processes again with --resume, to go on from the last checkpoint' if training else ''
    return joined(told, advice, stoppable=training)


def _run(words: list[str]) -> int:
    configuration = _configuration(words)
    if words[:2] == ['benchmark', 'input']:
        status: int = tyro.cli(benchmark_input, prog='flaxmobile benchmark input', args=words[2:])
        return status
    commands: dict[str, Callable[..., int]] = {
        **{name: functools.partial(command, configuration=configuration) for name, command in _CONFIGURED.items()},
        'evaluate': evaluate,
        'predict': predict,
        'probe': probe,
        'list': list_models,
        'weights': list_weights,
        'convert': convert,
        'summary': summary,
        'benchmark': benchmark,
    }
    about = 'The MobileNet family for JAX. `flaxmobile COMMAND --help` says more; --version gives the version.'
    return tyro.extras.subcommand_cli_from_dict(commands, prog='flaxmobile', description=about, args=words)


_CONFIGURED: dict[str, Callable[..., int]] = {'train': train, 'preview': preview, 'compile': compile_step}


def _configuration(words: Sequence[str]) -> TrainConfig:
    """What the options of a command that takes a config start from: the config named first."""
    if not words or words[0] not in _CONFIGURED or '--help' in words[1:2] or '-h' in words[1:2]:
        return TrainConfig(model='mobilenetv2_100', dataset='imagenet2012')
    if len(words) < 2 or words[1].startswith('-'):
        raise ValueError(f'flaxmobile {words[0]} needs a CONFIG first: {", ".join(list_configs())}, or a Python file')
    config = load_config(words[1])
    if words[0] != 'train' or not any(word.split('=')[0] == '--init' for word in words):
        return config
    from flaxmobile.training.finetuning import follow

    # A first reading, for what the weights say: the second one puts the user's own options on top of that.
    @functools.wraps(_CONFIGURED[words[0]])
    def read(configuration: TrainConfig, run_dir: Path | None = None, resume: bool = False, **_: Any) -> TrainConfig:
        folder = run_dir or Path('runs') / Path(words[1]).stem
        if not configuration.init:
            return config
        return follow(replace(config, model=configuration.model), configuration.init, folder if resume else None)

    return tyro.cli(functools.partial(read, configuration=config), prog=f'flaxmobile {words[0]}', args=words[1:])


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        what = f'{error.filename} was not written' if error.filename else error.strerror
        return f'no space is left on the disk: {what}; what was there before is untouched'
    if _is_of_memory(error):
        return f'there is not enough memory; a smaller batch or image size needs less ({error})'
    return str(error) or type(error).__name__
