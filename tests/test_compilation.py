import os
import subprocess
import sys
from pathlib import Path

import pytest

HEARD = """
import sys, jax
from pathlib import Path

def heard(event, **_):
    if event.startswith('/jax/compilation_cache/cache_'):
        print(event.rsplit('/')[-1])

jax.monitoring.register_event_listener(heard)
"""
COMMAND = """
from flaxmobile.cli import main
main()
"""
ONE_PROGRAM = """
from flaxmobile.compilation import keep_programs
keep_programs(Path(sys.argv[1]))
jax.jit(lambda x: x + 1)(1.0)
"""


def run(code: str, *words: object, **environment: str) -> list[str]:
    """What JAX says of its cache while `code` runs in a process of its own that prints no error."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')}
    done = subprocess.run(
        [sys.executable, '-c', HEARD + code, *map(str, words)],
        env={**kept, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, '')
    return [line for line in done.stdout.splitlines() if line.startswith('cache_')]


@pytest.mark.slow
def test_a_second_command_compiles_nothing(tmp_path: Path) -> None:
    words = ('benchmark', 'mobilenetv1_025', '--image-size', '32', '--rounds', '1')
    first = run(COMMAND, *words, FLAXMOBILE_CACHE=str(tmp_path), PYTHONHASHSEED='1')
    assert len(first) > 1
    assert set(first) == {'cache_misses'}
    assert len(list((tmp_path / 'xla').glob('*-cache'))) == len(first)
    assert run(COMMAND, *words, FLAXMOBILE_CACHE=str(tmp_path), PYTHONHASHSEED='2') == ['cache_hits'] * len(first)


def test_the_environment_goes_first(tmp_path: Path) -> None:
    ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
    assert run(ONE_PROGRAM, ours, JAX_COMPILATION_CACHE_DIR=str(theirs)) == ['cache_misses']
    assert list(theirs.iterdir())
    assert run(ONE_PROGRAM, ours, JAX_ENABLE_COMPILATION_CACHE='false') == []
    assert run(ONE_PROGRAM, ours, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='60') == []
    assert not list(tmp_path.glob('ours/*-cache'))


def test_a_folder_that_cannot_be_made_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / 'taken').write_text('a file')
    assert run(ONE_PROGRAM, tmp_path / 'taken' / 'xla') == []


def test_the_library_alone_keeps_nothing() -> None:
    assert run('import flaxmobile, flaxmobile.cli\njax.jit(lambda x: x + 1)(1.0)') == []
