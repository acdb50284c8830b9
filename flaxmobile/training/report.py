"""The report of a finished run: `report.md`, its pictures, and `results.json` for programs."""

import importlib.metadata
import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import flaxmobile
from flaxmobile.training import plots
from flaxmobile.training.config import TrainConfig, load_config
from flaxmobile.training.evaluation import Evaluation
from flaxmobile.training.files import write_whole
from flaxmobile.training.metrics import duration, read_metrics
from flaxmobile.training.run import RunDescription, changed_fields

SHOWN_CLASSES = 200
SHOWN_CONFUSIONS = 10


def write_report(
    run_dir: Path,
    description: RunDescription,
    best_step: int,
    test: Evaluation,
    seconds: float,
    unreadable: Sequence[str],
) -> None:
    """Write the report of a run into its folder, `results.json` last.

    Args:
        best_step: the checkpoint that `test` evaluated.
        test: the evaluation of the test images, with pictures.
        seconds: how long the run took.
        unreadable: the images that were left out.
    """
    records = read_metrics(run_dir / 'metrics.jsonl')
    validation = next(
        record for record in reversed(records) if record['split'] == 'validation' and record['step'] == best_step
    )
    classes = description.classes
    write_whole(run_dir / 'curves.png', plots.png(plots.curves(records)))
    write_whole(run_dir / 'confusion.png', plots.png(plots.confusion(test.confusion, classes)))
    write_whole(run_dir / 'predictions.png', plots.png(plots.predictions(test.mistakes, test.right, classes)))
    parts = [
        _summary(description, validation, test, seconds),
        _pictures(),
        _per_class(test, classes),
        _confused(test.confusion, classes),
        _unreadable(unreadable),
        _configuration(description),
        _environment(),
    ]
    write_whole(run_dir / 'report.md', '\n\n'.join(part for part in parts if part) + '\n')
    figures = ('loss', 'accuracy', 'accuracy_top5', 'count')
    results = {
        'test': test.metrics,
        'validation': {name: validation[name] for name in figures},
        'best_step': best_step,
        'seconds': round(seconds, 2),
        'unreadable': list(unreadable),
        'classes': list(classes),
        'confusion': test.confusion.tolist(),
    }
    write_whole(run_dir / 'results.json', json.dumps(results) + '\n')


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [' | '.join(map(str, row)) for row in (header, ['---', *['---:'] * (len(header) - 1)], *rows)]
    return '\n'.join(f'| {line} |' for line in lines)


def _summary(description: RunDescription, validation: dict[str, Any], test: Evaluation, seconds: float) -> str:
    config, classes = description.config, description.classes
    top5 = len(classes) > 5
    header = ['', 'accuracy', *(['top 5'] if top5 else []), 'loss', 'images']
    rows = [
        [split, f'{figures["accuracy"]:.2%}', *([f'{figures["accuracy_top5"]:.2%}'] if top5 else [])]
        + [f'{figures["loss"]:.4f}', f'{round(figures["count"]):,}']
        for split, figures in (('**test**', test.metrics), ('validation', validation))
    ]
    return (
        f'# {config.model} on {config.dataset}: {test.accuracy:.2%}\n\n'
        f'{_model(config, len(classes))} on {len(classes)} classes, trained in {duration(seconds)}. The checkpoint is the one '
        f'of the highest validation accuracy, after {validation["epoch"]:g} epochs; the test images were read once, at the '
        f'end.\n\n{_table(header, rows)}'
    )


def _model(config: TrainConfig, num_classes: int) -> str:
    from flaxmobile.analysis.counts import count

    counts = count(
        config.model,
        image_size=config.image_size,
        channels=config.channels,
        num_classes=num_classes,
        **config.model_overrides,
    )
    return (
        f'A network of {counts.parameters:,} parameters and {counts.multiply_adds:,} multiply-adds an image of '
        f'{config.image_size}x{config.image_size}'
    )


def _pictures() -> str:
    return (
        '![Loss, accuracy and learning rate](curves.png)\n\n![Test images with their predictions](predictions.png)\n\n'
        '![Confusion of the classes](confusion.png)'
    )


def _per_class(test: Evaluation, classes: Sequence[str]) -> str:
    hits = np.diag(test.confusion)
    recall = hits / np.maximum(test.confusion.sum(axis=1), 1)
    precision = hits / np.maximum(test.confusion.sum(axis=0), 1)
    order = np.argsort(recall, kind='stable')
    rows = [
        [classes[number], f'{recall[number]:.1%}', f'{precision[number]:.1%}', f'{test.confusion[number].sum():,}']
        for number in order[:SHOWN_CLASSES]
    ]
    left = f'\n\nThe {len(classes) - SHOWN_CLASSES} best classes are left out.' if len(classes) > SHOWN_CLASSES else ''
    return f'## By class, the worst first\n\n{_table(["class", "recall", "precision", "test images"], rows)}{left}'


def _confused(confusion: np.ndarray, classes: Sequence[str]) -> str:
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(wrong, axis=None, kind='stable')[::-1][:SHOWN_CONFUSIONS]
    pairs = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place]]
    rows = [[classes[true], classes[predicted], wrong[true, predicted]] for true, predicted in pairs]
    return f'## Confused most often\n\n{_table(["true", "predicted", "test images"], rows)}' if rows else ''


def _unreadable(names: Sequence[str]) -> str:
    return (
        f'## Left out, as they could not be read ({len(names)})\n\n' + '\n'.join(f'- {name}' for name in names)
        if names
        else ''
    )


def _configuration(description: RunDescription) -> str:
    config = description.config
    plain = TrainConfig(model=config.model, dataset=config.dataset)
    rows = [
        [f'`{name}`', f'`{ours}`', f'`{default}`'] for name, (default, ours) in changed_fields(plain, config).items()
    ]
    table = _table(['field', 'here', 'default'], rows)
    command = f'To do it again:\n\n```\n{_command(description)}\n```\n\n' if description.name else ''
    return f'## Configuration\n\n{command}What differs from the defaults:\n\n{table}'


def _command(description: RunDescription) -> str:
    words = ['flaxmobile train', description.name]
    for name, (_, value) in changed_fields(load_config(description.name), description.config).items():
        option = name.replace('_', '-')
        if isinstance(value, bool):
            words.append(f'--{option}' if value else f'--no-{option}')
        else:
            words.append(f'--{option} ' + (' '.join(map(str, value)) if isinstance(value, tuple) else str(value)))
    return ' '.join(words)


def _environment() -> str:
    packages = ', '.join(
        f'{name} {importlib.metadata.version(name)}' for name in ('jax', 'flax', 'optax', 'orbax-checkpoint')
    )
    devices = f'{jax.device_count()} {jax.devices()[0].device_kind}'
    return (
        f'## Environment\n\nflaxmobile {flaxmobile.__version__}, {packages}, Python {platform.python_version()}, '
        f'{platform.system()} {platform.machine()}, devices: {devices}'
    )
