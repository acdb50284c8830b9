"""The folder of a page: what is written, what is refused, and that nothing is left behind."""

import json
import re
import shutil
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_networks import LABELS, SIZE, small

from flaxmobile.export import Int8, to_web
from flaxmobile.export.web import LIST, PAGE, check_page
from flaxmobile.export.web.runtime import ARCHIVE, runtime_files
from flaxmobile.files import whole_folder

Run = Callable[..., tuple[int, str, str]]
OWN = {'app.js', 'classifier.js', 'icon.svg', 'index.html', 'picture.js', 'resampling.js', 'style.css'}


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}


def test_the_runtime_lies_in_the_package() -> None:
    with tarfile.open(ARCHIVE) as archive:
        assert archive.getnames() == runtime_files()
        for name in runtime_files():
            content = archive.extractfile(name).read()
            assert (content[:4] == b'\0asm') == name.endswith('.wasm')
            if name.endswith('index.js'):
                # The page's import map has this name alone.
                assert set(re.findall(rb'^import .* from "(.*)";$', content, re.MULTILINE)) == {b'@litertjs/wasm-utils'}
        assert b'Apache License' in archive.extractfile('litert/LICENSE').read()
    assert '@litertjs/core' in (PAGE.parents[3] / 'NOTICE').read_text()


def test_the_page_names_no_other_server() -> None:
    assert files_in(PAGE) == OWN
    for name in OWN:
        found = re.findall(r'(?:https?:)?//[\w.-]+\.\w+', (PAGE / name).read_text())
        assert set(found) <= {'http://www.w3.org'}, name  # The name of SVG's elements, which nobody asks for.


def test_what_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    file, folder, nothing = tmp_path / 'file', tmp_path / 'folder', tmp_path / 'nothing'
    file.touch()
    (folder / 'litert').mkdir(parents=True)
    check_page(nothing)
    with pytest.raises(FileExistsError, match=r'file is a file: name a folder$'):
        check_page(file, overwrite=True)
    with pytest.raises(FileExistsError, match=r'folder is already there: overwrite=True replaces it$'):
        to_web(small('v1'), folder)
    check_page(folder, overwrite=True)
    (folder / 'litert' / 'thesis.txt').touch()
    with pytest.raises(FileExistsError, match=r'is not replaced, as it holds what no page does \(litert/thesis.txt\)'):
        to_web(small('v1'), folder, overwrite=True)
    with pytest.raises(ValueError, match=r'this model has none \(num_classes=0\)'):
        to_web(small('no classes'), nothing)
    assert files_in(tmp_path) == {'file', 'folder/litert/thesis.txt'}


def test_the_command_refuses_a_folder_before_the_model_is_looked_for(command: Run, tmp_path: Path) -> None:
    status, out, err = command('web', 'no_such_model', tmp_path)
    assert (status, out) == (2, '')
    assert err == f'flaxmobile: {tmp_path} is already there: --overwrite replaces it\n'
    (tmp_path / 'notes.txt').touch()
    status, out, err = command('web', 'no_such_model', tmp_path / 'notes.txt' / 'page')
    assert (status, out) == (2, '')
    assert err == f'flaxmobile: {tmp_path}/notes.txt is a file: name a file in a folder\n'


@pytest.mark.parametrize(
    ('words', 'wanted'),
    [
        (['--int8'], '--int8 needs images to find the ranges of the activations on: give --calibration'),
        (['--calibration', '.'], '--calibration goes with --int8'),
        (['--calibration-images', 500], '--calibration-images goes with --int8'),
        (['--int8', '--calibration', '.', '--float16'], '--int8 and --float16 are two kinds of weights: give one of'),
    ],
)
def test_the_command_refuses_weights_before_the_model_is_looked_for(
    words: list[str], wanted: str, command: Run, tmp_path: Path
) -> None:
    status, out, err = command('web', 'no_such_model', tmp_path / 'page', *words)
    assert (status, out) == (2, '')
    assert err.startswith(f'flaxmobile: {wanted}')
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_page_takes_no_int8_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'^int8_io=True goes with a file alone: the page gives the network float32'):
        to_web(small('v1'), tmp_path / 'page', int8=Int8(np.zeros((16, SIZE, SIZE, 3), np.uint8), int8_io=True))
    assert list(tmp_path.iterdir()) == []


def test_a_warning_names_the_file_where_it_will_lie(tmp_path: Path) -> None:
    def fill() -> None:
        with whole_folder(tmp_path / 'a' / 'page') as made:
            made.mkdir()
            warnings.warn(f'{made}/model.tflite: slow', stacklevel=1)
            (made / 'model.tflite').touch()

    with pytest.warns(UserWarning, match=rf'^{tmp_path}/a/page/model.tflite: slow$'):
        fill()
    assert files_in(tmp_path) == {'a/page/model.tflite'}


def test_an_error_names_the_file_where_it_was_to_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: object, path: Path, **__: object) -> None:
        raise ValueError(f'{path} was not written')

    monkeypatch.setattr('flaxmobile.export.web.to_litert', wrong)
    with pytest.raises(ValueError, match=rf'^{tmp_path}/page/model\.tflite was not written$'):
        to_web(small('v1'), tmp_path / 'page')


def test_a_page_of_another_version_is_replaced(tmp_path: Path) -> None:
    (tmp_path / 'sounds').mkdir()
    for name in ('index.html', 'sounds/click.wav'):
        (tmp_path / name).touch()
    (tmp_path / LIST).write_text('index.html\nsounds/click.wav\n')
    check_page(tmp_path, overwrite=True)
    (tmp_path / 'sounds' / 'mine.wav').touch()
    with pytest.raises(FileExistsError, match=r'as it holds what no page does \(sounds/mine\.wav\)'):
        check_page(tmp_path, overwrite=True)


def test_a_page_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError('no')

    monkeypatch.setattr('flaxmobile.export.web.to_litert', fail)
    folder = tmp_path / 'page'
    with pytest.raises(ValueError, match=r'^no$'):
        to_web(small('v1'), folder)
    assert list(tmp_path.iterdir()) == []
    folder.mkdir()
    (folder / 'model.json').write_text('before')
    with pytest.raises(ValueError, match=r'^no$'):
        to_web(small('v1'), folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ['page']
    assert (folder / 'model.json').read_text() == 'before'


@pytest.mark.export
def test_the_command_writes_a_page(command: Run, tmp_path: Path) -> None:
    weights, folder = tmp_path / 'small.safetensors', tmp_path / 'new' / 'page'
    small('v1').save(weights)
    status, out, err = command('web', weights, folder, '--image-size', 40)
    assert (status, err) == (0, '')
    first, second, third = out.splitlines()
    size = (folder / 'model.tflite').stat().st_size / 1e6
    assert first == f'{folder}: tf_mobilenetv1_025 from {weights}, 40x40 pixels, {size:.2f} MB'
    assert second.startswith('ai-edge-litert ')
    assert third == f'to see it: python -m http.server --directory {folder}'
    assert files_in(folder) == {*OWN, *runtime_files(), 'model.tflite', 'model.json', LIST}
    assert set((folder / LIST).read_text().splitlines()) == files_in(folder)
    said = json.loads((folder / 'model.json').read_text())
    assert (said['outputs'], said['labels']) == (['logits'], list(LABELS))
    assert said['preprocessing']['image_size'] == 40
    assert small('v1').preprocessing.image_size == SIZE
    assert [path.name for path in folder.parent.iterdir()] == ['page']
    shutil.rmtree(folder / 'litert')
    assert command('web', weights, folder, '--overwrite')[0] == 0
    assert json.loads((folder / 'model.json').read_text())['preprocessing']['image_size'] == SIZE
    assert set(runtime_files()) < files_in(folder)
    assert (folder.stat().st_mode & 0o777) == (folder.parent.stat().st_mode & 0o777)
