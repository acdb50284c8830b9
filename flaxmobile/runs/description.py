"""`run.json`: its content, how files of this and earlier versions are read, and how they are checked."""

import dataclasses
import importlib.metadata
import json
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from flaxmobile.files import write_whole
from flaxmobile.messages import listing, printable
from flaxmobile.runs.splits import Splits, same_images
from flaxmobile.training.checkpoints import descriptions
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.records import DIGEST, parse, signed

FORMAT = 2
"""Format 1 was written before MobileNetV1 had Keras's padding. A run keeps the format that it began with."""
# Options that may change when a run is resumed: none of them changes a parameter. A folder of images and a teacher are
# compared by their contents, not by their path: see `check_data`.
FREE_FIELDS = (
    'dataset',
    'teacher',
    'data_dir',
    'download',
    'max_unreadable',
    'log_every',
    'keep_checkpoints',
    'checkpoint_every',
    'max_skipped_updates',
    'workers',
    'linear_probe',
)


@dataclasses.dataclass(frozen=True)
class RunDescription:
    """The content of `run.json`.

    Attributes:
        config: the run's configuration. If a name meant another network when the run began, the fields say so.
        classes: names of the classes, in the order of the network's outputs.
        images: the fingerprint of each part of the data, by the part's name.
        teacher: the fingerprint of the teacher's weights; None without a teacher.
        format: the format of the version that began the run.
    """

    config: TrainConfig
    classes: tuple[str, ...]
    images: Mapping[str, str] = dataclasses.field(default_factory=dict)
    teacher: int | None = None
    format: int = FORMAT

    def meaning(self, config: TrainConfig) -> TrainConfig:
        """Translate `config`, written for the version that began the run, for this version."""
        return _meaning(config, self.format)

    def as_dict(self) -> dict[str, Any]:
        """The content as plain values that JSON can hold."""
        model = {'name': self.config.model, 'num_classes': len(self.classes)} | self.config.model_overrides
        return {
            'format': self.format,
            'flaxmobile': importlib.metadata.version('flaxmobile'),
            'model': model,
            'classes': self.classes,
            'images': dict(self.images),
            'teacher': self.teacher,
            'preprocessing': dataclasses.asdict(self.config.preprocessing),
            'config': self.config.options(),
        }

    def as_text(self) -> str:
        """The text of `run.json`. Raises TypeError if JSON cannot hold a value."""
        return json.dumps(signed(self.as_dict()), indent=2) + '\n'

    def write(self, run_dir: Path) -> None:
        """Write `run_dir/run.json`."""
        write_whole(run_dir / 'run.json', self.as_text())


def read_description(run_dir: str | Path) -> RunDescription:
    """Read `run_dir/run.json` and compare it with its copies in the checkpoints.

    Copies whose SHA-256 is wrong are ignored. Options that may change when a run is resumed may differ.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the file is damaged, differs from a copy, has a format that this version does not read, or has a
            value that this version does not accept.
    """
    path = Path(run_dir) / 'run.json'
    if not path.is_file():
        what = 'holds no run (it has no run.json)' if path.parent.is_dir() else 'is no folder'
        raise FileNotFoundError(
            f'{run_dir} {what}; a run is the folder that `flaxmobile train` wrote, like runs/fashion_mnist'
        )
    copies = list(descriptions(path.parent))
    try:
        description = _parse(path, path.read_bytes())
    except ValueError as error:
        _refuse(path, error, copies)
    ours = _fields(description)
    for copy, content in copies:
        theirs = _fields(_parse(copy, content, whole=True))
        if differing := [name for name in ours | theirs if not _agree(name, ours.get(name), theirs.get(name))]:
            here, there = _shown(ours.get(differing[0]), theirs.get(differing[0]))
            raise ValueError(
                f'{printable(path, None)} is not what the run was trained with: {listing(differing)} '
                f'{"differ" if len(differing) > 1 else "differs"} from the copy in {printable(copy, None)}, whose '
                f'SHA-256 is right. {differing[0]} is {here}, and {there} in the copy. {_mend(copy, path)}'
            )
    return description


def _refuse(path: Path, error: ValueError, copies: Sequence[tuple[Path, bytes]]) -> NoReturn:
    """Raise ValueError for a `run.json` with the fault `error`, and say how to restore it from a good copy."""
    if not copies:
        raise error
    copy, content = copies[0]
    try:
        _parse(copy, content, whole=True)
    except ValueError as refused:
        if str(refused.__cause__) == str(error.__cause__):  # The copy has the same fault, so the file is not damaged.
            _parse(path, path.read_bytes(), whole=True)
        raise ValueError(f'{error}; {refused}') from error
    raise ValueError(f'{error}. {_mend(copy, path)}') from error


def _parse(path: Path, content: bytes, *, whole: bool = False) -> RunDescription:
    """Parse `content`, the content of the file `path`. With `whole`, it is known to be as it was written.

    Raises:
        ValueError: as `read_description` does.
    """
    wrote = ''
    try:
        text = content.decode()
        found = parse(text)
        written = found['format']
        if type(written) is int and 1 <= written <= FORMAT:
            if whole or f'"{DIGEST}":' in text:
                wrote = f'flaxmobile {printable(found.get("flaxmobile"))}'
            fields = {name: _tuples(value) for name, value in found['config'].items()}
            config = _meaning(TrainConfig.from_options(fields), written)
            return RunDescription(config, _names(found['classes']), _images(found['images']), _teacher(found), written)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        name = printable(path, None)
        reason = f'no {printable(error.args[0])}' if isinstance(error, KeyError) else printable(error)
        if wrote:
            raise ValueError(
                f'{name} is as it was written, by {wrote}, and this version does not take it: {reason}. Use the '
                'version that wrote it'
            ) from error
        another = '' if isinstance(error, KeyError) else ' or was written by another version of flaxmobile'
        raise ValueError(f'{name} is damaged{another} ({reason})') from error
    raise ValueError(
        f'{printable(path, None)} has format {printable(repr(written))}, and this version of flaxmobile reads formats '
        f'1 to {FORMAT}: update it'
    )


def _meaning(config: TrainConfig, written: int) -> TrainConfig:
    """Translate a configuration that was written in the format `written` for this version."""
    if written == 1 and config.model.startswith('tf_mobilenetv1_') and config.convention is None:
        return dataclasses.replace(config, convention='tensorflow')  # The name meant this padding then.
    return config


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _names(classes: Any) -> tuple[str, ...]:
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError(f'classes is {classes!r}, no list of names')
    return tuple(classes)


def _images(fingerprints: Any) -> dict[str, str]:
    known = isinstance(fingerprints, dict) and set(fingerprints) <= set(Splits._fields)
    if not known or not all(isinstance(words, str) for words in fingerprints.values()):
        raise ValueError(f'images is {fingerprints!r}, no fingerprints of {", ".join(Splits._fields)}')
    return dict(fingerprints)


def _teacher(content: Mapping[str, Any]) -> int | None:
    checksum = content.get('teacher')
    if checksum is not None and (not isinstance(checksum, int) or isinstance(checksum, bool)):
        raise ValueError(f'teacher is {checksum!r}, no checksum')
    return checksum


def _fields(description: RunDescription) -> dict[str, Any]:
    """The values by which two descriptions are compared, by name; each class and each part has an entry."""
    options = description.config.options()
    return {
        **{f'config.{name}': value for name, value in options.items() if name not in FREE_FIELDS},
        **{f'classes[{number}]': name for number, name in enumerate(description.classes)},
        **{f'images.{part}': fingerprint for part, fingerprint in description.images.items()},
        'teacher': description.teacher,
        'format': description.format,
    }


def _agree(name: str, ours: Any, theirs: Any) -> bool:
    if ours == theirs or not (isinstance(ours, str) and isinstance(theirs, str)):
        return bool(ours == theirs)
    if name.startswith('classes['):  # One name, in two Unicode forms.
        return unicodedata.normalize('NFC', ours) == unicodedata.normalize('NFC', theirs)
    return name.startswith('images.') and (same_images(theirs, ours) or same_images(ours, theirs))


def _shown(ours: Any, theirs: Any) -> tuple[str, str]:
    """Both values as Python writes them. Texts that look alike are escaped, so that their difference shows."""
    forms = [unicodedata.normalize('NFKC', value) if isinstance(value, str) else value for value in (ours, theirs)]
    here, there = (ascii(value) if forms[0] == forms[1] else repr(value) for value in (ours, theirs))
    return printable(here), printable(there)


def _mend(copy: Path, path: Path) -> str:
    command = printable(shlex.join(['cp', str(copy), str(path)]), None)
    return f'Put the copy in its place: {command}'
