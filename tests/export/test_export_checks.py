"""What is done with a file that answers otherwise, or cannot be run, or is asked for in vain."""

import dataclasses
import errno
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import SIZE, small

from flaxmobile import files
from flaxmobile.export import Check, export, to_jax
from flaxmobile.export.checks import Answer, Runtime, answer_of, largest_error, write_checked
from flaxmobile.export.extras import needed
from flaxmobile.export.program import make_program

WANTED = np.array([[1.0, -4.0], [2.0, 0.5]], np.float32)
ANSWER = Answer(np.zeros((2, 1)), WANTED)


def runtime(answers: np.ndarray, partitions: int | None = None, module: str = 'numpy') -> Runtime:
    return Runtime('numpy', module, lambda content, images: (answers, partitions))


def test_the_error_is_a_share_of_the_largest_answer() -> None:
    assert largest_error(WANTED + np.float32([[0, 0], [-0.5, 0.25]]), WANTED) == 0.125
    assert largest_error(WANTED.reshape(-1), WANTED) == np.inf
    assert largest_error(np.zeros(2), np.zeros(2)) == 0


def test_a_right_file_is_written_and_described(tmp_path: Path) -> None:
    path, answers = tmp_path / 'model', WANTED + np.float32(2**-14)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        found = write_checked(
            path, b'file', {'Add': 1, 'Conv': 3, 'Abs': 1}, answer=ANSWER, runtime=runtime(answers, 1)
        )
    assert path.read_bytes() == b'file'
    assert found == Check(path, 4, {'Conv': 3, 'Abs': 1, 'Add': 1}, f'numpy {np.__version__}', 2**-16, 1)
    assert list(found.operations) == ['Conv', 'Abs', 'Add']


@pytest.mark.parametrize('wrong', [WANTED * 1.001, WANTED[:1], WANTED * np.nan, -WANTED])
def test_a_wrong_file_is_not_written(wrong: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / 'model'
    path.write_bytes(b'before')
    message = (
        r'model was not written: in numpy .* answers otherwise than the model in float32 in JAX.* 0.0002 is allowed'
    )
    with pytest.raises(ValueError, match=message):
        write_checked(path, b'file', {}, answer=ANSWER, runtime=runtime(wrong))
    assert path.read_bytes() == b'before'


def test_what_a_runtime_raises_is_said(tmp_path: Path) -> None:
    def fails(content: bytes, images: np.ndarray) -> tuple[np.ndarray, None]:
        raise RuntimeError('no kernel\nfor Max')

    with pytest.raises(ValueError, match=r'model was not written: numpy .* does not run it: no kernel\\nfor Max'):
        write_checked(tmp_path / 'model', b'', {}, answer=ANSWER, runtime=Runtime('numpy', 'numpy', fails))
    assert list(tmp_path.iterdir()) == []


def test_probabilities_are_compared_as_logits_are(tmp_path: Path) -> None:
    """An error in a small one is as large as in a large one."""
    logits = np.array([[0, -20, -21, -200]], np.float64)
    wanted = (np.exp(logits) / np.exp(logits).sum()).astype(np.float32)
    answer = Answer(np.zeros((1, 1)), wanted, probabilities=True)
    assert write_checked(tmp_path / 'same', b'', {}, answer=answer, runtime=runtime(wanted)).error == 0
    wrong = wanted[:, [0, 2, 1, 3]]
    assert np.abs(wrong - wanted).max() < 2e-9
    with pytest.raises(ValueError, match=r'answers otherwise .* The error is 0.014 of the largest'):
        write_checked(tmp_path / 'model', b'', {}, answer=answer, runtime=runtime(wrong))
    answer = dataclasses.replace(answer, probabilities=False)
    assert write_checked(tmp_path / 'model', b'', {}, answer=answer, runtime=runtime(wrong)).error < 1e-8


@pytest.mark.parametrize(
    ('said', 'shown'), [("__version__ = '1.5'", 'lonely 1.5'), ('', 'lonely of an unknown version')]
)
def test_a_runtime_of_another_distribution_has_its_version(
    said: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Runtime('numpy-gpu', 'numpy', runtime(WANTED).run).version == f'numpy {np.__version__}'
    (tmp_path / 'lonely.py').write_text(said)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'lonely', raising=False)
    assert Runtime('lonely', 'lonely', runtime(WANTED).run).version == shown


def test_a_runtime_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match='was not compared with JAX: numpy is not installed, which runs it'):
        found = write_checked(tmp_path / 'model', b'file', {}, answer=ANSWER, runtime=runtime(-WANTED, 1, 'no_such'))
    assert (found.runtime, found.error, found.partitions) == (None, None, None)


def test_what_xnnpack_leaves_is_said(tmp_path: Path) -> None:
    runs = dataclasses.replace(runtime(WANTED, 1), left_out=lambda content: {'ROUND': 2, 'CUMSUM': 1})
    with pytest.warns(UserWarning, match="model: XNNPACK does not compute 2 ROUND, 1 CUMSUM, LiteRT's own kernels do"):
        found = write_checked(tmp_path / 'model', b'', {'CUMSUM': 1, 'ROUND': 2}, answer=ANSWER, runtime=runs)
    assert found.left_out == {'ROUND': 2, 'CUMSUM': 1}


@pytest.mark.parametrize('pieces', [0, 3])
def test_a_graph_in_pieces_is_said(pieces: int, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=f'XNNPACK takes the graph in {pieces} pieces'):
        write_checked(tmp_path / 'model', b'', {}, answer=ANSWER, runtime=runtime(WANTED, pieces))


def test_the_models_own_answers_have_to_be_finite() -> None:
    model = small('short')
    variables = {**model.variables, 'params': {**model.variables['params']}}
    variables['params']['classifier'] = jax.tree.map(lambda leaf: leaf * jnp.inf, variables['params']['classifier'])
    program = make_program(model)
    with pytest.raises(ValueError, match='the model answers numbers that are not finite'):
        answer_of(dataclasses.replace(model, variables=variables), program, None)


@pytest.mark.parametrize(
    ('images', 'words'),
    [
        (np.zeros((2, SIZE, SIZE, 3), np.float32), r'images are float32 \[2, 48, 48, 3\]: give pixels, uint8 \[images'),
        (np.zeros((2, 32, 32, 3), np.uint8), r'uint8 \[images, 48, 48, 3\]'),
        (np.zeros((0, SIZE, SIZE, 3), np.uint8), r'uint8 \[0, 48, 48, 3\]'),
        (np.zeros((SIZE, SIZE, 3), np.uint8), r'uint8 \[48, 48, 3\]'),
    ],
)
def test_other_images_are_refused(images: np.ndarray, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        to_jax(small('short'), tmp_path / 'model.jax', images=images)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('name', 'options', 'words'),
    [
        ('model.onxx', {}, r"'.onxx' is not among .tflite \(LiteRT\), .onnx \(ONNX\), .mlpackage \(Core ML\), .jax"),
        ('model', {}, "'' is not among"),
        ('model.onnx', {'float16': True}, 'float16=True goes with a .tflite or .mlpackage file alone'),
    ],
)
def test_bad_input_is_refused(name: str, options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        export(small('short'), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_softmax_needs_classes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='this model has no classes'):
        export(small('no classes'), tmp_path / 'model.jax', softmax=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['model.tflite', 'model.onnx', 'model.jax'])
def test_a_file_that_is_there_stays(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b'mine')
    with pytest.raises(FileExistsError, match='is already there: overwrite=True replaces it'):
        export(small('short'), path)
    assert path.read_bytes() == b'mine'


@pytest.mark.parametrize(
    ('name', 'package', 'words'),
    [
        ('model.tflite', 'litert_converter', r"LiteRT needs the package litert_converter: .*'flaxmobile\[litert\]'"),
        ('model.onnx', 'onnx', r"'flaxmobile\[onnx\]'"),
    ],
)
def test_a_missing_extra_is_named(
    name: str, package: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=words):
        export(small('short'), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_part_of_a_package_is_named_in_full() -> None:
    with pytest.raises(
        ModuleNotFoundError, match=r'^a SavedModel needs the package json\.export: pip .*\[saved-model\]'
    ):
        needed('json.export', 'a SavedModel', 'saved-model')


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / 'model'

    def run(content: bytes, images: np.ndarray) -> tuple[np.ndarray, None]:
        path.write_bytes(b'mine')
        return WANTED, None

    slow = Runtime('numpy', 'numpy', run)
    with pytest.raises(FileExistsError, match='model is already there: overwrite=True replaces it'):
        write_checked(path, b'file', {}, answer=ANSWER, runtime=slow)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [('model', b'mine')]
    write_checked(path, b'file', {}, answer=ANSWER, runtime=slow, overwrite=True)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [('model', b'file')]


def test_a_file_system_without_links_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(files.os, 'link', refuse)
    files.write_whole(tmp_path / 'model', b'first', overwrite=False)
    with pytest.raises(FileExistsError, match='is already there'):
        files.write_whole(tmp_path / 'model', b'second', overwrite=False)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [('model', b'first')]


def test_where_no_file_can_lie_is_said_before_anything_is_traced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: Any = None
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(NotADirectoryError, match=r'notes\.txt is a file: name a file in a folder$'):
        to_jax(nothing, tmp_path / 'notes.txt' / 'models' / 'model.jax')
    monkeypatch.setattr(files.os, 'access', lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(PermissionError, match=rf'^nothing may be written into {tmp_path}: name another folder$'):
        to_jax(nothing, tmp_path / 'models' / 'model.jax')


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them begins and ends while the other writes, in the same process."""
    path, real = tmp_path / 'model', os.fsync

    def fsync(descriptor: int) -> None:
        monkeypatch.setattr(files.os, 'fsync', real)
        files.write_whole(path, b'second')
        assert path.read_bytes() == b'second'

    monkeypatch.setattr(files.os, 'fsync', fsync)
    files.write_whole(path, b'first')
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [('model', b'first')]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, 'fsync', full)
    with pytest.raises(OSError, match='No space left') as failed:
        write_checked(tmp_path / 'model.jax', b'file', {}, answer=ANSWER, runtime=runtime(WANTED))
    assert failed.value.filename == str(tmp_path / 'model.jax')
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_get_its_name_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / 'model', Path.rename
    path.mkdir()
    (path / 'file').write_text('before')

    def fails(self: Path, target: Path) -> Path:
        if self.name == 'model' and target == path:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, 'rename', fails)
    with pytest.raises(OSError, match='Input/output error'), files.whole_folder(path, overwrite=True) as new:
        new.mkdir()
    assert (path / 'file').read_text() == 'before'
    assert [each.name for each in tmp_path.iterdir()] == ['model']
