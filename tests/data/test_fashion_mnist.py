import gzip
import hashlib
import importlib.util
import lzma
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flaxmobile.data import Preprocessing, fashion_mnist, load_dataset
from flaxmobile.data.idx import read_idx

GREY = Preprocessing(28, 1, (0.286,), (0.353,), 1.0)
has_debian_files = all(path.is_file() for path in fashion_mnist.idx_files(fashion_mnist.DEBIAN_FOLDER))


def test_the_embedded_set_is_what_the_script_made():
    content = lzma.decompress(fashion_mnist.EMBEDDED.read_bytes())
    assert hashlib.sha256(content).hexdigest() == 'c6ba207e45e2447dcf65287028e86f2fb589569ad005f4ff1b6fcc763660a837'
    assert fashion_mnist.EMBEDDED.stat().st_size < 6e6
    assert 'MIT' in (fashion_mnist.EMBEDDED.parent / 'LICENSE').read_text()


def test_every_ten_images_hold_each_class_once():
    for split, part in fashion_mnist.read_embedded().items():
        assert part.images.shape == ({'train': 10_000, 'test': 2_000}[split], 28, 28)
        assert np.all(np.sort(part.labels.reshape(-1, 10)) == np.arange(10))


def test_known_images():
    train = fashion_mnist.read_embedded()['train']
    # The first image of the original is the ankle boot (9) of every introduction to it; this is its fourth row.
    row = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 13, 73, 0, 0, 1, 4, 0, 0, 0, 0, 1, 1, 0]
    assert train.labels[9] == 9
    np.testing.assert_array_equal(train.images[9, 3], row)
    # Mean and deviation of the whole training set, as everyone normalises it.
    assert abs(train.images.mean() / 255 - 0.2860) < 0.003
    assert abs(train.images.std() / 255 - 0.3530) < 0.003


def test_no_test_image_is_among_the_training_images():
    parts = fashion_mnist.read_embedded()
    train, test = ({image.tobytes() for image in parts[split].images} for split in ('train', 'test'))
    assert (len(train), len(test), len(train & test)) == (10_000, 2_000, 0)


def test_what_is_loaded_is_what_is_embedded(data_dir, capfd):
    parts = fashion_mnist.read_embedded()
    test = load_dataset('fashion_mnist_mini', 'test', data_dir=data_dir)
    train = load_dataset('fashion_mnist_mini', 'train[90%:]', data_dir=data_dir)
    assert capfd.readouterr() == ('', '')
    assert test.classes[9] == 'Ankle boot'
    for dataset, expected in (
        (test, parts['test']),
        (train, fashion_mnist.Labelled(*(a[9000:] for a in parts['train']))),
    ):
        batches = list(dataset.evaluation_batches(250, GREY))
        np.testing.assert_array_equal(np.concatenate([batch['image'][..., 0] for batch in batches]), expected.images)
        np.testing.assert_array_equal(np.concatenate([batch['label'] for batch in batches]), expected.labels)


@pytest.mark.skipif(not has_debian_files, reason='needs dataset-fashion-mnist')
def test_remaking_gives_the_same():
    script = Path(__file__).parents[2] / 'scripts' / 'make_fashion_mnist_mini.py'
    spec = importlib.util.spec_from_file_location('make_fashion_mnist_mini', script)
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    full, embedded = fashion_mnist.read_full(fashion_mnist.DEBIAN_FOLDER), fashion_mnist.read_embedded()
    for split, step in maker.STEPS.items():
        for made, kept in zip(maker.select(full[split], step), embedded[split], strict=True):
            np.testing.assert_array_equal(made, kept)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b''.join(size.to_bytes(4, 'big') for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def few_files(tmp_path):
    """The four files, of 20 images each."""
    rng = np.random.default_rng(0)
    for path in fashion_mnist.idx_files(tmp_path):
        size = (20, 28, 28) if 'images' in path.name else (20,)
        write_idx(path, rng.integers(0, 10, size, np.uint8))
    return tmp_path


def test_idx(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / 'good', array)
    np.testing.assert_array_equal(read_idx(tmp_path / 'good'), array)
    good = (tmp_path / 'good').read_bytes()
    for content in (good[:-9], b'', b'text', gzip.compress(b'\0\0\x08\1\0\0\0\7...'), gzip.compress(b'\0')):
        (tmp_path / 'bad').write_bytes(content)
        with pytest.raises(ValueError, match='bad is damaged'):
            read_idx(tmp_path / 'bad')


def test_the_full_set_from_a_folder(few_files):
    train = load_dataset('fashion_mnist', 'train', data_dir=few_files)
    [batch] = train.evaluation_batches(20, GREY)
    np.testing.assert_array_equal(batch['image'][..., 0], read_idx(few_files / 'train-images-idx3-ubyte.gz'))
    np.testing.assert_array_equal(batch['label'], read_idx(few_files / 'train-labels-idx1-ubyte.gz'))


def test_a_damaged_file_leaves_nothing_behind(few_files):
    (few_files / 't10k-labels-idx1-ubyte.gz').write_bytes(b'damaged')
    with pytest.raises(ValueError, match='t10k-labels'):
        load_dataset('fashion_mnist', 'train', data_dir=few_files)
    assert not [path for path in (few_files / 'fashion_mnist').rglob('*') if path.is_file()]


def test_missing_files_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, 'DEBIAN_FOLDER', tmp_path / 'nothing')
    with pytest.raises(FileNotFoundError, match='apt-get install dataset-fashion-mnist'):
        load_dataset('fashion_mnist', 'train', data_dir=tmp_path)


def test_two_processes_may_prepare_at_once(few_files):
    program = """
import sys
from flaxmobile.data import fashion_mnist, load_dataset
read = fashion_mnist.read_full
def wait_and_read(folder):
    print('ready', flush=True)
    sys.stdin.readline()
    return read(folder)
fashion_mnist.read_full = wait_and_read
import contextlib
contextlib.redirect_stdout = contextlib.nullcontext
print(len(load_dataset('fashion_mnist', 'test', data_dir=sys.argv[1])))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', program, str(few_files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:  # Both are in the midst of preparing.
        while 'ready' not in process.stdout.readline():
            assert process.poll() is None
    for process in processes:
        output, error = process.communicate('go\n', timeout=60)
        assert process.returncode == 0, error
        assert output.split()[-1] == '20'
    assert [path.name for path in (few_files / 'fashion_mnist').iterdir()] == ['1.0.0']
