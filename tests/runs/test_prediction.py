import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import CLASSES, Blobs

from flaxmobile.data import read_image
from flaxmobile.data.loading import load_dataset
from flaxmobile.runs import prediction
from flaxmobile.runs.folder import load_run
from flaxmobile.runs.prediction import predict_files
from flaxmobile.training.config import TrainConfig
from flaxmobile.weights import Model
from flaxmobile.weights.model import probabilities_of


def test_probabilities_do_not_depend_on_the_batch(tiny: TrainConfig, finished_run: Path) -> None:
    loaded = load_run(finished_run)
    images = np.stack([read_image(Blobs('test')[index].image, 1) for index in range(7)])
    probabilities = loaded.predict(images, batch_size=3)
    logits = np.asarray(
        jax.jit(loaded.module.apply)(loaded.variables, loaded.preprocessing.normalize(images)), np.float64
    )
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-6)


def test_files_and_folders(tiny: TrainConfig, finished_run: Path, tmp_path: Path) -> None:
    sides = {}
    for index in range(6):
        example = Blobs('test')[index]
        path = tmp_path / 'deep' / f'{index}.PNG'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(example.image))  # type: ignore[arg-type]
        sides[str(path)] = CLASSES[example.label]
    (tmp_path / 'deep/notes.txt').write_text('no image')
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'\x89PNG broken')
    (tmp_path / 'deep/._0.PNG').write_bytes(b'what macOS leaves beside a file')
    (tmp_path / 'deep/.hidden').mkdir()
    shutil.copy(tmp_path / 'deep/0.PNG', tmp_path / 'deep/.hidden/0.PNG')
    with pytest.warns(UserWarning, match=r'passed over files that are no images: 1 \(notes\.txt\)$'):
        results = predict_files(load_run(finished_run), [broken, tmp_path / 'deep', tmp_path / 'none.png'], top=2)
    assert [result['image'] for result in results] == [str(broken), *sorted(sides), str(tmp_path / 'none.png')]
    assert 'broken.png' in results[0]['error']
    assert 'none.png' in results[-1]['error']
    for result in results[1:-1]:
        first, second = result['predictions']
        assert first['class'] == sides[result['image']]
        assert 1 > first['probability'] > second['probability'] > 0


def test_a_folder_shows_the_images_that_training_would_see(
    tiny: TrainConfig, finished_run: Path, tmp_path: Path
) -> None:
    content = bytes(Blobs('test')[0].image)  # type: ignore[arg-type]
    for name in ('photos/a/1', 'photos/a/2.jfif', 'photos/b/3.ppm', 'photos/b/4.png', 'photos/b/._4.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    loaded, root = load_run(finished_run), tmp_path / 'photos'
    results = predict_files(loaded, [root], top=1)
    batches = load_dataset(str(root), 'train+test').evaluation_batches(4, loaded.preprocessing)
    assert [result['image'] for result in results] == [
        str(root / name) for name in ('a/1', 'a/2.jfif', 'b/3.ppm', 'b/4.png')
    ]
    assert sum(batch['mask'].sum() for batch in batches) == 4
    (root / 'b/5.heic').write_bytes(b'\0\0\0\x18ftypheic' + bytes(99))
    *_, last = predict_files(loaded, [root], top=1)
    assert last['image'].endswith('5.heic')
    assert 'HEIC is not read here: convert it to JPEG or PNG' in last['error']


def test_what_cannot_be_asked(tiny: TrainConfig, finished_run: Path, tmp_path: Path) -> None:
    loaded = load_run(finished_run)
    with pytest.raises(FileNotFoundError, match=r'holds no image$'):
        predict_files(loaded, [tmp_path], top=5)
    (tmp_path / 'notes.txt').write_text('no image')
    with pytest.raises(FileNotFoundError, match=r'holds no image; .* no images: 1 \(notes\.txt\)'):
        predict_files(loaded, [tmp_path], top=5)
    with pytest.raises(ValueError, match='top must be 1 or more'):
        predict_files(loaded, [tmp_path], top=0)


def test_a_folder_goes_through_in_batches(
    tiny: TrainConfig, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(7):
        (tmp_path / f'{index}.png').write_bytes(bytes(Blobs('test')[index].image))  # type: ignore[arg-type]
    (tmp_path / '3.png').write_bytes(b'broken')
    loaded, at_once, run = load_run(finished_run), [], prediction.predict_batch

    def counting(loaded: Model, images: np.ndarray, batch_size: int) -> np.ndarray:
        at_once.append(len(images))
        return run(loaded, images, batch_size)

    monkeypatch.setattr(prediction, 'predict_batch', counting)
    whole = predict_files(loaded, [tmp_path], top=4)
    parts = predict_files(loaded, [tmp_path], top=4, batch_size=2)
    assert at_once == [6, 2, 1, 2, 1]
    assert [result['image'] for result in parts] == [result['image'] for result in whole]
    assert 'error' in parts[3]
    for ours, theirs in zip(parts, whole, strict=True):
        assert [guess['class'] for guess in ours.get('predictions', [])] == [
            guess['class'] for guess in theirs.get('predictions', [])
        ]
    compiled = probabilities_of(loaded.module, loaded.preprocessing)._cache_size()
    predict_files(loaded, [tmp_path], top=4, batch_size=2)
    assert probabilities_of(loaded.module, loaded.preprocessing)._cache_size() == compiled
