"""A folder is written whole, or what was there stays; nothing of it is ever lost."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flaxmobile.files import check_folder_of, whole_folder, write_whole

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def filled(path: Path, content: str) -> Path:
    path.mkdir(parents=True)
    (path / 'file').write_text(content)
    return path


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob('*') if path.is_file()}


def write(path: Path, *, overwrite: bool = False) -> None:
    with whole_folder(path, overwrite=overwrite) as new:
        filled(new, 'new')


def before(patched: pytest.MonkeyPatch, step: str, path: Path, act: Callable[[], None]) -> None:
    """Do `act` once, before `step` gives the name `path` to something new."""
    real, steps = getattr(Path, step), [act]

    def stepping(self: Path, *given: Any, **named: Any) -> Any:
        if steps and (self if step == 'mkdir' else given[0]) == path:
            steps.pop()()
        return real(self, *given, **named)

    patched.setattr(Path, step, stepping)


@pytest.mark.parametrize('step', ['mkdir', 'rename'])
@pytest.mark.parametrize('error', [FULL, KeyboardInterrupt()], ids=['full', 'Ctrl-C'])
def test_what_was_there_comes_back(
    error: BaseException, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = filled(tmp_path / 'model', 'before')

    def fail() -> None:
        raise error

    before(monkeypatch, step, path, fail)
    with pytest.raises(type(error)) as raised:
        write(path, overwrite=True)
    assert raised.value is error
    assert [each.name for each in tmp_path.iterdir()] == ['model']
    assert contents(path) == {'file': 'before'}


def test_what_cannot_come_back_is_kept_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path / 'model', 'before')
    before(monkeypatch, 'mkdir', path, lambda: bool(filled(path, 'of somebody else')))
    with pytest.raises(OSError, match=r'/model was not replaced, and what was there could not .* name back: it is in '):
        write(path, overwrite=True)
    (kept,) = set(tmp_path.iterdir()) - {path}
    assert contents(tmp_path) == {'model/file': 'of somebody else', f'{kept.name}/before/file': 'before'}


@pytest.mark.parametrize('name', ['before', 'new'])
def test_any_name_is_one(name: str, tmp_path: Path) -> None:
    write(filled(tmp_path / name, 'before'), overwrite=True)
    assert contents(tmp_path) == {f'{name}/file': 'new'}


def test_folders_that_were_made_go_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mkdir = tmp_path / 'some' / 'folder' / 'model', os.mkdir

    def full(*_: object) -> None:
        raise FULL

    def full_by_then(made: Path, *rest: Any, **named: Any) -> None:
        if Path(made) == path.parent and path.parents[1].exists():
            raise FULL
        mkdir(made, *rest, **named)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        write_whole(path, 'new')
    assert list(tmp_path.iterdir()) == []
    before(monkeypatch, 'rename', path, full)
    with pytest.raises(OSError, match='No space left'):
        write(path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(os, 'mkdir', full_by_then)
    with pytest.raises(OSError, match='No space left'):
        write(path)
    assert list(tmp_path.iterdir()) == []


def test_foreign_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, ours = filled(tmp_path / 'model', 'before'), {'file', 'inside/file'}
    filled(path / 'inside', 'before')
    check_folder_of(path, ours, 'model', overwrite=True)
    (tmp_path / 'photos').mkdir()
    (path / 'linked').symlink_to(tmp_path / 'photos')
    (path / 'inside' / 'notes').touch()
    with pytest.raises(FileExistsError, match=r'it holds what no model does \(inside/notes, linked\): name another'):
        check_folder_of(path, ours, 'model', overwrite=True)
    monkeypatch.setattr(os, 'access', lambda asked, _: asked != path)
    with pytest.raises(PermissionError, match=rf'^{path} may not be written to: name another folder$'):
        check_folder_of(path, ours, 'model', overwrite=True)
