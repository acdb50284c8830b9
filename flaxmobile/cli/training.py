"""The subcommands that take a config: train, preview, compile and benchmark input."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

import flaxmobile
from flaxmobile.cli.common import as_json, print_table, tell
from flaxmobile.messages import printable
from flaxmobile.training.config import TrainConfig, load_config

ConfigName = Positional[Annotated[str, arg(metavar='CONFIG', help='A config by name, or a Python file with one.')]]


def train(
    config: ConfigName,
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

    from flaxmobile.runs.description import read_description
    from flaxmobile.runs.parts import kind_of_task
    from flaxmobile.runs.report import read_results
    from flaxmobile.runs.training import train as run_training
    from flaxmobile.training.interruption import TrainingStopped

    folder = run_dir or Path('runs') / Path(config).stem
    if dry_run:
        from flaxmobile.inspection.dry_run import plan_run

        picture = output or folder.with_name(f'{folder.name}-dry-run.png')
        print(plan_run(configuration, picture, name=config, images=images))
        alone = ' --teacher None (without the teacher, which comes on top)' if configuration.teacher else ''
        print(f'what a device needs to run it: flaxmobile compile {config} --target tpu:v5e:2x2{alone}')
        return 0
    if images is not None or output is not None:
        raise ValueError('--images and --output go with --dry-run')
    meant = read_description(folder).meaning(configuration) if resume and not overwrite else configuration
    again = train_command(config, meant)
    try:
        run_training(configuration, folder, resume=resume, overwrite=overwrite, command=again)
    except TrainingStopped as stopped:
        tell(str(stopped))
        return 128 + stopped.number
    if jax.process_index() == 0:
        task = kind_of_task(configuration)
        best, results = task.best.measure, read_results(folder, task)
        figure = best.in_table(results['test'][best.name])
        print(f'test {best.title} {figure}; the report: {printable(folder / "report.md", None)}')
    return 0


def train_command(config_name: str, config: TrainConfig) -> str:
    """What to type to train as `config` says, which is the config called `config_name` with some fields changed."""
    from flaxmobile.runs.folder import changed_fields
    from flaxmobile.runs.start import FOLLOWED

    words = ['flaxmobile', 'train', config_name]
    before = load_config(config_name)
    changed = changed_fields(before, config)
    # With --init the fields that follow the weights do not start from the config's own.
    explicit = FOLLOWED if 'init' in changed else ()
    for name, value in config.options().items():
        if name not in {*changed, *explicit}:
            continue
        option = name.replace('_', '-')
        if isinstance(value, bool):
            words.append(f'--{option}' if value else f'--no-{option}')
        else:
            words += [f'--{option}', *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return shlex.join(words)


def preview(
    config: ConfigName,
    configuration: OmitArgPrefixes[TrainConfig],
    output: Annotated[
        Path, arg(metavar='FILE', help='The picture to write, a PNG; one that is there is replaced.')
    ] = Path('preview.png'),
    images: Annotated[int, arg(help='How many training images to show, a row each.')] = 6,
) -> int:
    """Show what a config feeds the network, as a picture: training images, and what becomes of them."""
    from flaxmobile.inspection.preview import write_preview

    write_preview(configuration, output, name=config, count=images)
    print(printable(output, None))
    return 0


def compile_step(
    config: ConfigName,
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
    from flaxmobile.inspection.rehearsal import planned_step

    piece = tpu.open_slice(target)
    step, state, batch = planned_step(configuration, num_classes or _num_classes(configuration), piece.devices)
    report = footprint.Report(
        f'{config}: {configuration.model}, {configuration.preprocessing.image_size} pixels, {configuration.dtype}',
        piece,
        configuration.batch_size,
        optax.tree.size(state.params),
        footprint.footprint(tpu.compile_for(piece, step.lower(state, batch))),
    )
    if json:
        print(as_json(report.as_dict()))
    else:
        print_table(report)
    return 0


def _num_classes(config: TrainConfig) -> int:
    from flaxmobile.data import load_dataset

    try:
        return len(load_dataset(config.dataset, config.train_split, data_dir=config.data_dir).classes)
    except OSError:
        return flaxmobile.create_model(config.model).num_classes


def benchmark_input(
    config: ConfigName,
    workers: Annotated[int | None, arg(help="Processes that read and augment; None: the config's.")] = None,
    batch_size: Annotated[int | None, arg(help="Images a batch; None: the config's.")] = None,
    rounds: Annotated[int, arg(help='How often each stage is timed, in turn with the others.')] = 20,
    json: Annotated[FlagCreatePairsOff[bool], arg(help='Print JSON.')] = False,
) -> int:
    """Time the input of a training run: images a second by stage, and of all together."""
    from flaxmobile.inspection.input_speed import measure_input
    from flaxmobile.runs.splits import load_split

    given: dict[str, Any] = {'workers': workers, 'batch_size': batch_size}
    run = replace(load_config(config), **{name: value for name, value in given.items() if value is not None})
    images = load_split(run.data_plan, run.train_split)
    speeds = measure_input(run, images, rounds)
    if json:
        print(as_json(speeds))
    else:
        where = f'{printable(images.name)} ({images.split}), {run.preprocessing.image_size} pixels'
        print(f'{where}, workers: {run.workers}; images a second')
        print('\n'.join(f'{name:<24}{speed:12,.0f}' for name, speed in speeds.items()))
    return 0
