"""A run's folder: what it says of itself, and how it becomes a model with its variables again."""

import dataclasses
import shutil
import unicodedata
import warnings
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout
from flax import linen as nn

from flaxmobile.data import Preprocessing
from flaxmobile.messages import listing, printable
from flaxmobile.models.network import variable_shapes
from flaxmobile.runs.description import FREE_FIELDS, RunDescription, read_description
from flaxmobile.runs.locating import started_from
from flaxmobile.runs.parts import kind_of_task
from flaxmobile.runs.splits import same_images
from flaxmobile.tasks.classification import Classification
from flaxmobile.training.checkpoints import Checkpoints
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.metrics import is_cut_off, read_metrics
from flaxmobile.training.records import AnyTask
from flaxmobile.weights import Model

# Everything a run writes, and so everything that `--overwrite` removes.
CONTENTS = (
    'checkpoints',
    'tensorboard',
    'metrics.jsonl',
    'results.json',
    'report.md',
    'curves.png',
    *Classification.pictures,
    'skipped_batch.npz',
    'run.json',
)
LOCK = '.lock'


def load_run(path: str | Path) -> Model:
    """The model of a training run, with the variables of its best checkpoint (its last, before the first validation).

    Where the run kept a moving average, the variables are the average. Damaged checkpoints are passed over, with a
    warning that names them; that there is no validation yet, or that its record is cut off, is a warning too.

    Raises:
        FileNotFoundError: the folder holds no run, or no checkpoint yet.
        ValueError: something in it is damaged or of another version.
    """
    description = read_description(path)
    config = description.config
    module = config.build_model(len(description.classes))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    nothing = f'{path} holds no checkpoint yet: train it with resume=True'
    if not (Path(path) / 'checkpoints').is_dir():
        raise FileNotFoundError(nothing)
    task = kind_of_task(config)
    with closing(Checkpoints(path, highest=task.best.highest, read_only=True)) as checkpoints:
        checkpoints.validated(validation_values(path, task))
        step = checkpoints.last if checkpoints.best is None else checkpoints.best
        if step is None and checkpoints.damaged:
            raise ValueError(f'{path} cannot be used: {checkpoints.tell_damage()}')
        if step is None:
            raise FileNotFoundError(nothing)
        if checkpoints.damaged:
            warnings.warn(checkpoints.tell_damage(), stacklevel=2)
        if checkpoints.best is None:
            warnings.warn(f'{path} has no validation yet: the last checkpoint, step {step}, is used', stacklevel=2)
        variables = checkpoints.restore_variables(step, abstract_variables(module, config.preprocessing, device))
    return Model(
        module,
        variables,
        config.preprocessing,
        description.classes,
        name=config.model,
        overrides=config.model_overrides,
        started_from=started_from(config.init),
    )


def abstract_variables(model: nn.Module, preprocessing: Preprocessing, sharding: jax.sharding.Sharding) -> Any:
    """Shapes, dtypes and sharding of a model's variables, as a restored checkpoint is to have them."""
    shapes = variable_shapes(model, preprocessing.channels)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def validation_values(run_dir: str | Path, task: AnyTask) -> dict[int, float]:
    """The task's best measure on the validation images, by step; a last record that is cut off is told, not counted.

    Raises:
        FileNotFoundError: there are checkpoints and no `metrics.jsonl`.
        ValueError: it is damaged.
    """
    log = Path(run_dir) / 'metrics.jsonl'
    if not log.is_file():
        if any((Path(run_dir) / 'checkpoints').glob('[0-9]*')):
            raise FileNotFoundError(
                f'{run_dir} has no metrics.jsonl, which says which checkpoint is the best: a run is the whole folder'
            )
        return {}
    if is_cut_off(log):
        warnings.warn(f'the last line of {log} is cut off: what it recorded does not count', stacklevel=3)
    name = task.best.measure.name
    return {record['step']: record[name] for record in read_metrics(log, task) if record['split'] == 'validation'}


def last_checkpoint(run_dir: str | Path) -> int | None:
    """The step of the last good checkpoint of a run, None where there is none."""
    if not (Path(run_dir) / 'checkpoints').is_dir():
        return None
    with closing(Checkpoints(run_dir, read_only=True)) as checkpoints:
        return checkpoints.last


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Make `run_dir` and keep other runs out of it, until this ends or the process dies, however it dies.

    Raises:
        BlockingIOError: another run is in it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with _lock(run_dir):
        for name in CONTENTS:
            for half in run_dir.glob(f'.{name}.*'):  # What a process that was killed had begun to write.
                half.unlink()
        yield


@contextmanager
def _lock(run_dir: Path) -> Iterator[None]:
    lock = FileLock(run_dir / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(
            f'another run is writing to {run_dir}: wait for it, stop it, or take another folder (run_dir)'
        ) from None
    try:
        yield
    finally:
        lock.release()


def check_lock(run_dir: Path) -> None:
    """See that no run is writing to `run_dir`; changes nothing. Raises BlockingIOError as `locked` does."""
    if (run_dir / LOCK).exists():
        with _lock(run_dir):
            pass


def check_data(run_dir: Path, now: RunDescription) -> RunDescription:
    """See that a run goes on with the classes, the images and the teacher that it began with.

    A folder of images, and a teacher, may lie elsewhere now.

    Returns:
        What the run is from now on: `now`, with the names of the classes written as they were when it began.

    Raises:
        ValueError: they are others.
    """
    before = read_description(run_dir)
    earlier, later = ([unicodedata.normalize('NFC', name) for name in one.classes] for one in (before, now))
    given, known = now.config.dataset, before.config.dataset
    where = f'; the data set was {printable(known)} and is {printable(given)}' if given != known else ''
    other = 'Bring the old ones back, or begin another run, from its weights with init=...'
    if earlier != later:
        gone = [name for name in earlier if name not in later]
        new = [name for name in later if name not in earlier]
        changed = f'gone: {_told(gone, new)}; new: {_told(new, gone)}' if gone or new else 'in another order'
        raise ValueError(
            f'{printable(run_dir)} was trained on other classes: they were {len(before.classes)} and are '
            f'{len(now.classes)} ({changed}){where}. {other}'
        )
    for part, images in before.images.items():
        if not same_images(images, now.images[part]):
            raise ValueError(
                f'{printable(run_dir)} has seen other images: those of the {part} split were {images} and are '
                f'{now.images[part]}{where}. {other}'
            )
    if where and all('(names ' in images and ' contents ' not in images for images in before.images.values()):
        raise ValueError(
            f'{printable(run_dir)} was begun by a version that did not record the contents of images, by which a '
            f'folder that moved is known{where}: resume it once at the old path'
        )
    if where and not all(' contents ' in images for images in before.images.values()):
        raise ValueError(
            f'{printable(run_dir)} holds a run with another configuration (dataset was {printable(known)} and is '
            f'{printable(given)}): only a folder of images is known by what is in it. Resume the run with the same'
        )
    if before.teacher != now.teacher:
        raise ValueError(
            f'{printable(run_dir)} has learnt from other weights than those of {printable(now.config.teacher)} now '
            f'(teacher was {printable(before.config.teacher)}). {other}'
        )
    return dataclasses.replace(now, classes=before.classes, format=before.format)


def _told(names: Collection[str], others: Collection[str]) -> str:
    """The names; those that look like one of `others` with their characters' numbers."""
    alike = {unicodedata.normalize('NFKC', name) for name in others}
    shown = [ascii(name) if unicodedata.normalize('NFKC', name) in alike else name for name in names]
    return listing(shown) or 'none'


def check_folder(run_dir: Path, config: TrainConfig, *, resume: bool, overwrite: bool) -> None:
    """See that a run may be written to `run_dir`; changes nothing.

    Raises:
        FileExistsError: it holds a run, and neither `resume` nor `overwrite` is set; or a run's files without a run.
        FileNotFoundError: there is nothing to resume.
        NotADirectoryError: it is a file.
        ValueError: both are set, or the run there has another configuration.
    """
    if resume and overwrite:
        raise ValueError('resume=True goes on with a run and overwrite=True removes it: give one of them')
    if run_dir.exists() and not run_dir.is_dir():
        raise NotADirectoryError(f'{run_dir} is a file; a run needs a folder (run_dir)')
    if resume:
        before = read_description(run_dir)
        differing = changed_fields(before.config, before.meaning(config))
        if names := [name for name in differing if name not in FREE_FIELDS]:
            changes = ', '.join(f'{name} was {differing[name][0]!r} and is {differing[name][1]!r}' for name in names)
            raise ValueError(f'{run_dir} holds a run with another configuration ({changes}): resume it with the same')
    present = [name for name in CONTENTS if (run_dir / name).exists()]
    if not resume and present and 'run.json' not in present:
        raise FileExistsError(
            f'{run_dir} holds no run (it has no run.json), but a run would write over what is there: '
            f'{", ".join(present)}. Take another folder (run_dir)'
        )
    if not (resume or overwrite) and present:
        raise FileExistsError(
            f'{run_dir} already holds a run. Use resume=True to go on with it, overwrite=True to remove it and start '
            'again, or run_dir for another folder'
        )


def changed_fields(before: TrainConfig, after: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The options in which two configurations differ, each with both values."""
    earlier, later = before.options(), after.options()
    return {name: (earlier[name], later[name]) for name in earlier if earlier[name] != later[name]}


def clear_folder(run_dir: Path) -> None:
    """Remove what a run wrote to `run_dir`, and nothing else; `run.json` last, so that this can be done again."""
    for path in (*run_dir.glob('skipped_batch.*.npz'), *(run_dir / name for name in CONTENTS)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
