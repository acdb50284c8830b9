"""The library speaks of arguments, the command of options."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest

import flaxmobile
from flaxmobile.cli import options
from flaxmobile.cli.options import with_options
from flaxmobile.quantization.training import QuantizationAware
from flaxmobile.training.config import TrainConfig

PACKAGE = Path(flaxmobile.__file__).parent


@pytest.mark.parametrize(
    ('said', 'read'),
    [
        ('a.npz is already there: overwrite=True replaces it', 'a.npz is already there: --overwrite replaces it'),
        ('(ema=True, or init_ema=True of a run)', '(--ema, or --init-ema of a run)'),
        ('teacher=None leaves it out', '--teacher None leaves it out'),
        ('warmup_epochs=0 trains without', '--warmup-epochs 0 trains without'),
        ('begin another, with init=...', 'begin another, with --init'),
        ('take another folder (run_dir)', 'take another folder (--run-dir)'),
        ('Give data_dir, where it is, or download=True', 'Give --data-dir, where it is, or --download'),
        (
            'file=... goes with a published name (weights.list_weights()) or a network (list_models())',
            '--weights goes with a published name (`flaxmobile weights list`) or a network (`flaxmobile list`)',
        ),
        (
            'another configuration (batch_size was 64 and is 3, model was a and is b): resume',
            'another configuration (--batch-size was 64 and is 3, --model was a and is b): resume',
        ),
        ('load_variables(path, model, ignore_convention=True)', 'load_variables(path, model, ignore_convention=True)'),
        ('runs/overwrite=True/a and config.run_dir', 'runs/overwrite=True/a and config.run_dir'),
        ("my_ema=True, 'ema=True', run_dir.py, run_dir='a'", "my_ema=True, 'ema=True', run_dir.py, run_dir='a'"),
    ],
)
def test_arguments_become_options(said: str, read: str) -> None:
    assert with_options(said) == read


def test_the_options_are_the_command_s() -> None:
    """Each of them is one that some subcommand takes."""
    written = ''.join(path.read_text() for path in (PACKAGE / 'cli').glob('*.py'))
    fields = {field.name for part in (TrainConfig, QuantizationAware) for field in dataclasses.fields(part)}
    for argument, option in options.OPTIONS.items():
        name = option.removeprefix('--').replace('-', '_')
        assert name in fields or re.search(rf'^    {name}: ', written, re.MULTILINE), (argument, option)


def test_the_library_does_not_speak_of_options() -> None:
    found = []
    for path in sorted(PACKAGE.rglob('*.py')):
        if path.parent.name == 'cli':
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.search('--[a-z]', node.value):
                found.append(f'{path.relative_to(PACKAGE)}:{node.lineno}: {node.value}')
    assert found == []
