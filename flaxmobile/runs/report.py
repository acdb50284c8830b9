"""The report of a finished run: `report.md`, its pictures, and `results.json` for programs."""

import importlib.metadata
import json
import platform
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from flaxmobile.files import write_whole
from flaxmobile.messages import printable
from flaxmobile.runs import plots
from flaxmobile.runs.folder import RunDescription, changed_fields
from flaxmobile.tasks.evaluation import FIGURES, Evaluation
from flaxmobile.tasks.probe import Probe
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.metrics import duration, read_metrics
from flaxmobile.training.records import Record, check_figures, parse, signed

SHOWN_CLASSES = 200
SHOWN_CONFUSIONS = 10


def write_report(
    run_dir: Path,
    description: RunDescription,
    best_step: int,
    test: Evaluation,
    *,
    seconds: float,
    size: str,
    command: str = '',
    unreadable: Sequence[str] = (),
) -> None:
    """Write the report of a run into its folder: `results.json` first, then the pictures, `report.md` last.

    A picture that cannot be drawn is a line in the report, and a warning.

    Args:
        run_dir: the run's folder, with its `metrics.jsonl`.
        description: what the run is.
        best_step: the checkpoint that `test` evaluated.
        test: the evaluation of the test images, with pictures.
        seconds: how long the run took.
        size: the size of the network, in words.
        command: what to type for the same run.
        unreadable: the images that were left out.

    Raises:
        ValueError: `metrics.jsonl` is damaged, or has no validation of `best_step`.
    """
    records = read_metrics(run_dir / 'metrics.jsonl')
    validation = _last(records, 'validation', best_step)
    if validation is None:
        log = printable(run_dir / 'metrics.jsonl', None)
        raise ValueError(f'{log} has no validation of step {best_step}, which was the best')
    probe, train = _last(records, 'probe'), _last(records, 'train')
    classes = description.classes
    results = _results(test, validation, probe, seconds, unreadable, classes)
    write_whole(run_dir / 'results.json', json.dumps(signed(results)) + '\n')
    parts = [
        _summary(description, validation, test, f'{size}, {len(classes)} classes. Trained in {duration(seconds)}.'),
        _probe(description.config, probe, validation),
        _picture(run_dir / 'curves.png', 'Loss, accuracy and learning rate', lambda: plots.curves(records)),
        _picture(
            run_dir / 'predictions.png',
            'Test images with their predictions',
            lambda: plots.predictions(test.mistakes, test.right, classes),
        ),
        _picture(
            run_dir / 'confusion.png', 'Confusion of the classes', lambda: plots.confusion(test.confusion, classes)
        ),
        _per_class(test, classes),
        _confused(test.confusion, classes),
        _unreadable(unreadable),
        _skipped(0 if train is None else train.get('skipped_updates', 0)),
        _configuration(description.config, command),
        _environment(),
    ]
    report = '\n\n'.join(part for part in parts if part) + '\n'
    write_whole(run_dir / 'report.md', report.encode(errors='backslashreplace'))


def _last(records: Sequence[Record], split: str, step: int | None = None) -> Record | None:
    """The last record of a split, or the last of it at that step; None where there is none."""
    found = (record for record in reversed(records) if record['split'] == split and step in (None, record['step']))
    return next(found, None)


def _results(
    test: Evaluation,
    validation: Record,
    probe: Record | None,
    seconds: float,
    unreadable: Sequence[str],
    classes: Sequence[str],
) -> Record:
    """What `results.json` is to hold."""
    return {
        'test': test.metrics,
        'validation': {name: validation[name] for name in FIGURES},
        'probe': probe and {name: probe[name] for name in Probe._fields},
        'best_step': validation['step'],
        'seconds': round(seconds, 2),
        'unreadable': list(unreadable),
        'classes': list(classes),
        'confusion': test.confusion.tolist(),
    }


def read_results(run_dir: Path) -> Record:
    """What `results.json` holds.

    Raises:
        FileNotFoundError: the run has not ended.
        ValueError: it is damaged.
    """
    path = run_dir / 'results.json'
    try:
        results = parse(path.read_text(errors='replace'))
        check_figures(results.get('test'), ('accuracy',))
    except ValueError as error:
        raise ValueError(
            f'{printable(path, None)} is damaged ({error}): delete it, and resume=True writes it again'
        ) from error
    return results


def _picture(path: Path, title: str, draw: Callable[[], Figure]) -> str:
    """Draw and write a picture; gives the line of the report that shows it, or says why there is none."""
    try:
        path.unlink(missing_ok=True)
        write_whole(path, plots.png(draw()))
    except Exception as error:  # Whatever it is, the results are worth more than a picture.
        reason = f'{path.name} was not written: {type(error).__name__}: {printable(error)}'
        warnings.warn(f'{reason}. The rest of the report is not touched by that', stacklevel=3)
        return f'{title}: {_literal(reason)}.'
    return f'![{title}]({path.name})'


def _literal(text: object) -> str:
    """`text` as Markdown shows it to the letter, on one line."""
    # Within a word `_` stands for itself.
    marks = r'[\\`*\[\]<>|$~&#]|(?<![^\W_])_|_(?![^\W_])|^[+-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]'
    return re.sub(marks, r'\\\g<0>', printable(text, None))


def _code(text: object) -> str:
    """`text` as code, on one line, in a table or elsewhere."""
    shown = printable(text, None).replace('|', r'\|')
    fence = '`' * (1 + max(map(len, re.findall('`+', shown)), default=0))
    space = ' ' if '`' in shown else ''
    return f'{fence}{space}{shown}{space}{fence}'


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [' | '.join(map(str, row)) for row in (header, ['---', *['---:'] * (len(header) - 1)], *rows)]
    return '\n'.join(f'| {line} |' for line in lines)


def _summary(description: RunDescription, validation: dict[str, Any], test: Evaluation, facts: str) -> str:
    config, classes = description.config, description.classes
    columns = ['accuracy', *(['accuracy_top5'] if len(classes) > 5 else []), 'loss', 'count']
    formats = {'accuracy': '{:.2%}', 'accuracy_top5': '{:.2%}', 'loss': '{:.4f}', 'count': '{:,.0f}'}
    titles = {'accuracy_top5': 'top 5', 'count': 'images'}
    rows = [
        [split, *(formats[column].format(figures[column]) for column in columns)]
        for split, figures in (('**test**', test.metrics), ('validation', validation))
    ]
    table = _table(['', *(titles.get(column, column) for column in columns)], rows)
    return (
        f'# {config.model} on {_literal(config.dataset)}: {test.accuracy:.2%}\n\n'
        f'{facts} The checkpoint is the one of the highest validation accuracy, after {validation["epoch"]:g} epochs; '
        f'the test images were read once, at the end.\n\n{table}'
    )


def _probe(config: TrainConfig, probe: dict[str, Any] | None, validation: dict[str, Any]) -> str:
    if probe is None:
        return ''
    trained = f'all but {_code(" ".join(config.freeze))} trained' if config.freeze else 'the whole network trained'
    rows = [
        ['20 nearest neighbours of its features', f'{probe["knn_accuracy"]:.2%}'],
        ['linear probe of its features', f'{probe["linear_accuracy"]:.2%}'],
        [f'fine-tuned, {trained}', f'{validation["accuracy"]:.2%}'],
    ]
    return (
        f'## What training added to {_code(config.init)}\n\n{_table(["", "validation accuracy"], rows)}\n\n'
        f'The first two leave it as it was, and were fitted to {probe["train_images"]:,} training images.'
    )


def _per_class(test: Evaluation, classes: Sequence[str]) -> str:
    hits = np.diag(test.confusion)
    recall = hits / np.maximum(test.confusion.sum(axis=1), 1)
    precision = hits / np.maximum(test.confusion.sum(axis=0), 1)
    order = np.argsort(recall, kind='stable')
    rows = [
        [
            _literal(classes[number]),
            f'{recall[number]:.1%}',
            f'{precision[number]:.1%}',
            f'{test.confusion[number].sum():,}',
        ]
        for number in order[:SHOWN_CLASSES]
    ]
    left = f'\n\nThe {len(classes) - SHOWN_CLASSES} best classes are left out.' if len(classes) > SHOWN_CLASSES else ''
    return f'## By class, the worst first\n\n{_table(["class", "recall", "precision", "test images"], rows)}{left}'


def _confused(confusion: np.ndarray, classes: Sequence[str]) -> str:
    wrong = confusion - np.diag(np.diag(confusion))
    order = np.argsort(wrong, axis=None, kind='stable')[::-1][:SHOWN_CONFUSIONS]
    pairs = [np.unravel_index(place, wrong.shape) for place in order if wrong.flat[place]]
    rows = [
        [_literal(classes[true]), _literal(classes[predicted]), wrong[true, predicted]] for true, predicted in pairs
    ]
    return f'## Confused most often\n\n{_table(["true", "predicted", "test images"], rows)}' if rows else ''


def _unreadable(names: Sequence[str]) -> str:
    return (
        f'## Left out, as they could not be read ({len(names)})\n\n'
        + '\n'.join(f'- {_literal(name)}' for name in names)
        if names
        else ''
    )


def _skipped(updates: int) -> str:
    return f'{updates} updates were skipped, as the loss, the gradient or the update was not finite.' if updates else ''


def _configuration(config: TrainConfig, command: str) -> str:
    plain = TrainConfig(model=config.model, dataset=config.dataset)
    rows = [
        [_code(name), _code(ours), _code(default)] for name, (default, ours) in changed_fields(plain, config).items()
    ]
    table = _table(['field', 'here', 'default'], rows)
    fence = max(re.findall('```+', command), default='``') + '`'
    again = f'To do it again:\n\n{fence}\n{command}\n{fence}\n\n' if command else ''
    return f'## Configuration\n\n{again}What differs from the defaults:\n\n{table}'


def _environment() -> str:
    names = ('flaxmobile', 'jax', 'flax', 'optax', 'orbax-checkpoint')
    packages = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in names)
    devices = f'{jax.device_count()} {jax.devices()[0].device_kind}'
    return (
        f'## Environment\n\n{packages}, Python {platform.python_version()}, {platform.system()} {platform.machine()}, '
        f'devices: {devices}'
    )
