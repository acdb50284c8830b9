"""The report of a finished run: `report.md`, its pictures, and `results.json` for programs."""

import dataclasses
import importlib.metadata
import json
import platform
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax

from flaxmobile.drawing import png
from flaxmobile.files import write_whole
from flaxmobile.markdown import code, literal, table
from flaxmobile.messages import printable
from flaxmobile.runs import plots
from flaxmobile.runs.folder import RunDescription, changed_fields
from flaxmobile.tasks.probe import Probe
from flaxmobile.tasks.task import LOSS, Picture, Result, Task
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.metrics import duration, read_metrics
from flaxmobile.training.records import AnyTask, Record, check_figures, parse, signed


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a report says of a run besides its figures.

    Attributes:
        size: of the network, in words.
        command: what to type for the same run; empty where it is not known.
        seconds: how long it took.
        unreadable: the images that were left out.
    """

    size: str
    command: str = ''
    seconds: float = 0.0
    unreadable: tuple[str, ...] = ()


def write_report(
    run_dir: Path, description: RunDescription, task: Task, best_step: int, test: Result, facts: RunFacts
) -> None:
    """Write the report of a run into its folder: `results.json` first, then the pictures, `report.md` last.

    A picture that cannot be drawn is a line in the report, and a warning.

    Args:
        run_dir: the run's folder, with its `metrics.jsonl`.
        description: what the run is.
        task: what it learnt.
        best_step: the checkpoint that `test` evaluated.
        test: the evaluation of the test images, with pictures.
        facts: what else is told.

    Raises:
        ValueError: `metrics.jsonl` is damaged, or has no validation of `best_step`.
    """
    records = read_metrics(run_dir / 'metrics.jsonl', task)
    validation = _last(records, 'validation', best_step)
    if validation is None:
        log = printable(run_dir / 'metrics.jsonl', None)
        raise ValueError(f'{log} has no validation of step {best_step}, which was the best')
    probe, train = _last(records, 'probe'), _last(records, 'train')
    results = _results(task, test, validation, probe, facts)
    write_whole(run_dir / 'results.json', json.dumps(signed(results)) + '\n')
    drawn = 'Loss' if task.best.measure == LOSS else f'Loss, {task.best.measure.title}'
    curves = Picture('curves.png', f'{drawn} and learning rate', lambda: plots.curves(records, task.best.measure))
    parts = [
        _summary(description, task, validation, test, facts),
        _probe(description.config, probe, task.best.measure.in_table(validation[task.best.measure.name])),
        *(part if isinstance(part, str) else _picture(run_dir, part) for part in (curves, *task.sections(test))),
        _unreadable(facts.unreadable),
        _skipped(0 if train is None else train.get('skipped_updates', 0)),
        _configuration(description.config, facts.command),
        _environment(),
    ]
    report = '\n\n'.join(part for part in parts if part) + '\n'
    write_whole(run_dir / 'report.md', report.encode(errors='backslashreplace'))


def _last(records: Sequence[Record], split: str, step: int | None = None) -> Record | None:
    """The last record of a split, or the last of it at that step; None where there is none."""
    found = (record for record in reversed(records) if record['split'] == split and step in (None, record['step']))
    return next(found, None)


def _results(task: Task, test: Result, validation: Record, probe: Record | None, facts: RunFacts) -> Record:
    """What `results.json` is to hold."""
    return {
        'test': test.metrics,
        'validation': {measure.name: validation[measure.name] for measure in task.measured},
        'probe': probe and {name: probe[name] for name in Probe._fields},
        'best_step': validation['step'],
        'seconds': round(facts.seconds, 2),
        'unreadable': list(facts.unreadable),
        **task.results(test),
    }


def read_results(run_dir: Path, task: AnyTask) -> Record:
    """What `results.json` of a run that learnt such a task holds.

    Raises:
        FileNotFoundError: the run has not ended.
        ValueError: it is damaged.
    """
    path = run_dir / 'results.json'
    try:
        results = parse(path.read_text(errors='replace'))
        check_figures(results.get('test'), task, (task.best.measure.name,))
    except ValueError as error:
        raise ValueError(
            f'{printable(path, None)} is damaged ({error}): delete it, and resume=True writes it again'
        ) from error
    return results


def _picture(run_dir: Path, picture: Picture) -> str:
    """Draw and write a picture; gives the line of the report that shows it, or says why there is none."""
    path = run_dir / picture.file
    try:
        path.unlink(missing_ok=True)
        write_whole(path, png(picture.draw()))
    except Exception as error:  # Whatever it is, the results are worth more than a picture.
        reason = f'{path.name} was not written: {type(error).__name__}: {printable(error)}'
        warnings.warn(f'{reason}. The rest of the report is not touched by that', stacklevel=3)
        return f'{picture.title}: {literal(reason)}.'
    return f'![{picture.title}]({path.name})'


def _summary(description: RunDescription, task: Task, validation: Record, test: Result, facts: RunFacts) -> str:
    config, best = description.config, task.best
    measures = task.shown()
    rows = [
        [split, *(measure.in_table(figures[measure.name]) for measure in measures)]
        for split, figures in (('**test**', test.metrics), ('validation', validation))
    ]
    figures = table(['', *(measure.title for measure in measures)], rows)
    headline = best.measure.in_table(test.metrics[best.measure.name])
    picked = f'{"highest" if best.highest else "lowest"} validation {best.measure.title}'
    sentences = (
        f'{facts.size}, {len(task.classes)} classes. Trained in {duration(facts.seconds)}. The checkpoint is the one '
        f'of the {picked}, after {validation["epoch"]:g} epochs; the test images were read once, at the end.'
    )
    return f'# {config.model} on {literal(config.dataset)}: {headline}\n\n{sentences}\n\n{figures}'


def _probe(config: TrainConfig, probe: Record | None, tuned: str) -> str:
    if probe is None:
        return ''
    trained = f'all but {code(" ".join(config.freeze))} trained' if config.freeze else 'the whole network trained'
    rows = [
        ['20 nearest neighbours of its features', f'{probe["knn_accuracy"]:.2%}'],
        ['linear probe of its features', f'{probe["linear_accuracy"]:.2%}'],
        [f'fine-tuned, {trained}', tuned],
    ]
    return (
        f'## What training added to {code(config.init)}\n\n{table(["", "validation accuracy"], rows)}\n\n'
        f'The first two leave it as it was, and were fitted to {probe["train_images"]:,} training images.'
    )


def _unreadable(names: Sequence[str]) -> str:
    return (
        f'## Left out, as they could not be read ({len(names)})\n\n' + '\n'.join(f'- {literal(name)}' for name in names)
        if names
        else ''
    )


def _skipped(updates: int) -> str:
    return f'{updates} updates were skipped, as the loss, the gradient or the update was not finite.' if updates else ''


def _configuration(config: TrainConfig, command: str) -> str:
    plain = TrainConfig(model=config.model, dataset=config.dataset)
    rows = [[code(name), code(ours), code(default)] for name, (default, ours) in changed_fields(plain, config).items()]
    differing = table(['field', 'here', 'default'], rows)
    fence = max(re.findall('```+', command), default='``') + '`'
    again = f'To do it again:\n\n{fence}\n{command}\n{fence}\n\n' if command else ''
    return f'## Configuration\n\n{again}What differs from the defaults:\n\n{differing}'


def _environment() -> str:
    names = ('flaxmobile', 'jax', 'flax', 'optax', 'orbax-checkpoint')
    packages = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in names)
    devices = f'{jax.device_count()} {jax.devices()[0].device_kind}'
    return (
        f'## Environment\n\n{packages}, Python {platform.python_version()}, {platform.system()} {platform.machine()}, '
        f'devices: {devices}'
    )
