import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from flaxmobile import memory
from flaxmobile.cli import command

MADVISE = 'always [madvise] never\n'
FAULTS = """
import os, resource, sys
if sys.argv[1] == 'huge':
    print('a process')
    sys.stdout.flush()
    from flaxmobile.memory import use_huge_pages
    use_huge_pages()
import jax, jax.numpy as jnp

@jax.jit
def products(tall, wide):  # The first product is temporary memory: 64 MiB.
    return tall @ wide @ wide.T

operands = jnp.ones((2**12, 4)), jnp.ones((4, 2**12))
products(*operands).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    products(*operands).block_until_ready()
print(sys.argv[1:], resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.fixture(autouse=True)
def _untold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(('MALLOC_', 'GLIBC_')):
            monkeypatch.delenv(name)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The processes that this one would have become."""
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, 'execv', lambda *call: calls.append((*call, os.environ['GLIBC_TUNABLES'])))
    monkeypatch.setattr(platform, 'libc_ver', lambda: ('glibc', '2.36'))
    monkeypatch.setattr(sys, 'argv', [__file__, *sys.argv[1:]])
    monkeypatch.setitem(os.environ, 'GLIBC_TUNABLES', '')
    monkeypatch.delenv('GLIBC_TUNABLES')
    return calls


def _setting(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (folder / 'enabled').write_text(text)
    monkeypatch.setattr(memory, 'SETTING', folder / 'enabled')


def test_the_same_words_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[tuple[object, ...]]) -> None:
    _setting(tmp_path, monkeypatch, MADVISE)
    memory.use_huge_pages()
    assert begun == [(sys.executable, sys.orig_argv, 'glibc.malloc.hugetlb=1')]
    memory.use_huge_pages()
    assert len(begun) == 1


@pytest.mark.parametrize('text', ['[always] madvise never\n', 'always madvise [never]\n'])
def test_not_where_it_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[tuple[object, ...]], text: str
) -> None:
    _setting(tmp_path, monkeypatch, text)
    memory.use_huge_pages()
    monkeypatch.setattr(memory, 'SETTING', tmp_path / 'not Linux')
    memory.use_huge_pages()
    assert not begun


@pytest.mark.parametrize('name', ['GLIBC_TUNABLES', 'MALLOC_ARENA_MAX'])
def test_the_users_environment_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[tuple[object, ...]], name: str
) -> None:
    _setting(tmp_path, monkeypatch, MADVISE)
    monkeypatch.setenv(name, '1')
    memory.use_huge_pages()
    assert not begun


def test_not_what_cannot_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[tuple[object, ...]]
) -> None:
    _setting(tmp_path, monkeypatch, MADVISE)
    for name in ('-', '-c'):  # A program from standard input can be read once.
        monkeypatch.setattr(sys, 'argv', [name])
        memory.use_huge_pages()
    monkeypatch.setattr(sys, 'argv', [__file__])
    for library in (('glibc', '2.31'), ('', '')):
        monkeypatch.setattr(platform, 'libc_ver', lambda library=library: library)
        memory.use_huge_pages()
    assert not begun


@pytest.mark.parametrize(
    ('words', 'wanted'),
    [
        (['train', 'no_such_config'], True),
        (['evaluate', 'no_such_run'], True),
        (['benchmark', 'no_such_model'], True),
        (['train', '--help'], False),
        (['list', 'mobilenetv2*'], False),
    ],
)
def test_commands_that_compute_for_long(monkeypatch: pytest.MonkeyPatch, words: list[str], wanted: bool) -> None:
    called: list[bool] = []
    monkeypatch.setattr(command, 'use_huge_pages', lambda: called.append(True))
    monkeypatch.setattr(command, 'keep_programs', lambda folder: None)
    monkeypatch.setattr(command.signal, 'signal', lambda number, handler: None)
    monkeypatch.setattr(sys, 'argv', ['flaxmobile', *words])
    with pytest.raises(SystemExit):
        command.main()
    assert bool(called) is wanted


def _page_faults(folder: Path, word: str) -> tuple[list[str], int]:
    program = folder / 'program.py'
    program.write_text(FAULTS)
    done = subprocess.run([sys.executable, str(program), word], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    words, faults = last.rsplit(' ', 1)
    assert words == f"['{word}']"
    return lines, int(faults)


@pytest.mark.slow
@pytest.mark.skipif(
    not memory.SETTING.exists()
    or '[madvise]' not in memory.SETTING.read_text()
    or not memory._knows_huge_pages(*platform.libc_ver()),
    reason='this machine gives huge pages to all or to none, or its C library cannot ask',
)
def test_fewer_page_faults(tmp_path: Path) -> None:
    small, huge = _page_faults(tmp_path, 'small')[1], _page_faults(tmp_path, 'huge')
    assert huge[0] == ['a process', 'a process']
    assert small > 20 * 2**14  # Every call touches 2 ** 14 pages of 4 KiB.
    assert huge[1] < small / 20
