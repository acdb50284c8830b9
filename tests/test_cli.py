import errno
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import CLASSES, LENGTHS, Blobs, blob_file, finished_run, tiny  # noqa: F401 - fixtures

import flaxmobile
from flaxmobile import data
from flaxmobile.cli import command as command_module
from flaxmobile.cli import main, networks
from flaxmobile.data import loading
from flaxmobile.layers.normalization import SingleValues
from flaxmobile.tasks.classification import Classification
from flaxmobile.training import interruption
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.metrics import Display

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config_file(tiny: TrainConfig, tmp_path: Path) -> Path:  # noqa: F811
    """A config of the user's own, the tiny one."""
    path = tmp_path / 'mine.py'
    imports = (
        'from flaxmobile.data import Augmentation, Preprocessing\n'
        'from flaxmobile.quantization.training import QuantizationAware\n'
        'from flaxmobile.training.config import TrainConfig'
    )
    path.write_text(f'{imports}\n\nconfig = {tiny!r}\n')
    return path


def test_help_and_version(command: Run) -> None:
    status, out, _ = command('--help')
    assert status == 0
    for name in ('train', 'preview', 'evaluate', 'predict', 'list', 'convert', 'summary', 'benchmark', 'compile'):
        assert name in out
        status, part, _ = command(name, '--help')
        assert status == 0
        assert f'usage: flaxmobile {name}' in part
    assert command('--version') == (0, f'flaxmobile {flaxmobile.__version__}\n', '')


def test_help_of_a_config_shows_its_own_defaults(command: Run) -> None:
    status, out, _ = command('train', 'fashion_mnist_mini', '--help')
    assert status == 0
    assert '--run-dir' in out
    assert '--learning-rate' in out
    assert '(default: fashion_mnist_mini)' in ' '.join(out.split())


@pytest.mark.parametrize(
    ('words', 'wanted'),
    [
        (['trian', 'fashion_mnist_mini'], "unknown command 'trian'. Did you mean: train"),
        (['evaluate', 'run', '--batchsize', '3'], 'Images at once'),
        (['predict', 'examples/fashion_mnist/bag.png', 'run'], 'bag.png is an image: name the model first'),
        (['train', 'fashion_mnist_mini', '--dataset', 'nodir'], "none has a name like 'nodir'"),
        (['train'], 'needs a CONFIG first: cifar10'),
        (['preview'], 'flaxmobile preview needs a CONFIG first: cifar10'),
        (['train', 'fashion_mist_mini'], "unknown config 'fashion_mist_mini'. Did you mean: fashion_mnist"),
        (['train', 'fashion_mnist_mini', '--epocs', '3'], '--epochs'),
        (['train', 'fashion_mnist_mini', '--epochs', 'three'], 'three'),
        (['train', 'fashion_mnist_mini', '--epochs', '-1'], 'epochs must be'),
        (['evaluate', 'no/such/run'], 'there is no run and no file no/such/run'),
        (['predict', 'no/such/run', 'a.png'], 'there is no run and no file no/such/run'),
        (['predict', 'no/such/run'], 'name at least one image'),
        (['list', 'mobilenetv9'], "unknown model 'mobilenetv9'"),
        (['summary', 'mobilenetv2_10'], 'mobilenetv2_100'),
        (['benchmark', 'mobilenetv2_10'], "unknown network 'mobilenetv2_10'. Did you mean: mobilenetv2_"),
        (['benchmark', 'mobilenetv1_025', '--rounds', '0'], 'rounds must be 1 or more, not 0'),
        (['benchmark', 'mobilenetv1_025', '--batch-size', '-1', '--train'], 'batch_size must be 1 or more, not -1'),
        (['benchmark', 'mobilenetv1_025', '--image-size', '0'], 'image_size must be a whole number from 1 to 16,384'),
        (['train', 'image_folder'], '/images: --dataset FOLDER names the one with your images'),
        (['compile'], 'flaxmobile compile needs a CONFIG first: cifar10'),
        (
            ['compile', 'cifar10', '--target', 'tpu:v7:2x2'],
            "unknown target 'tpu:v7:2x2': there are tpu:v4:2x2x1, tpu:v5e:",
        ),
    ],
)
def test_wrong_input_is_said_without_a_traceback(command: Run, words: list[str], wanted: str) -> None:
    status, out, err = command(*words)
    assert status == 2
    assert wanted in ' '.join((out + err).split())
    assert 'Traceback' not in out + err


@pytest.mark.parametrize(
    ('words', 'wanted'),
    [
        (
            ['cifar10', '--epochs', '1', '--warmup-epochs', '1'],
            '--warmup-epochs (1.0) must be less than --epochs (1.0): --warmup-epochs 0 trains without a warm-up',
        ),
        (['cifar10', '--epochs', '-1'], '--epochs must be a number above 0, not -1.0'),
        (['cifar10', '--batch-size', '0'], '--batch-size must be a whole number, 1 or more, not 0'),
        (['cifar10', '--crop-fraction', '0'], '--crop-fraction must be a number from 0.05 to 1, not 0.0'),
        (['cifar10', '--batch-size', '0', '--init', 'a'], '--batch-size must be a whole number, 1 or more, not 0'),
    ],
)
def test_a_value_that_a_config_refuses_is_said_in_a_line(command: Run, words: list[str], wanted: str) -> None:
    assert command('train', *words) == (2, '', f'flaxmobile: {wanted}\n')


def test_a_run_is_no_config(command: Run, tmp_path: Path) -> None:
    (tmp_path / 'run.json').touch()
    status, out, err = command('train', tmp_path)
    assert (status, out) == (2, '')
    assert err.startswith(f'flaxmobile: {tmp_path} is the folder of a run, and no config. ')
    assert 'this folder (--run-dir) and --resume; to train anew from its weights, ' in err
    assert err.endswith('this folder as --init\n')


HOSTILE = 'x\x1b]0;owned\x07\nflaxmobile: all is well\u202e'
HARMLESS = r'x\x1b]0;owned\x07\nflaxmobile: all is well\u202e'


def test_a_file_s_name_cannot_act_on_the_terminal(command: Run, tmp_path: Path) -> None:
    path = tmp_path / f'{HOSTILE}.safetensors'
    path.write_bytes(b'no weights')
    status, out, err = command('evaluate', path, '--data', 'cifar10')
    assert (status, out) == (2, '')
    assert err.startswith('flaxmobile: ')
    assert f'{HARMLESS}.safetensors: ' in err
    assert err.count('\n') == 1


def test_the_names_of_classes_cannot_act_on_the_terminal(
    command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [
        {'image': HOSTILE, 'predictions': [{'class': HOSTILE, 'probability': 1.0}]},
        {'image': 'b', 'error': HOSTILE},
    ]
    monkeypatch.setattr('flaxmobile.cli.models.open_model', lambda *_: None)
    monkeypatch.setattr('flaxmobile.runs.prediction.predict_files', lambda *_: found)
    status, out, _ = command('predict', 'mine', tmp_path)
    assert status == 1
    assert out.splitlines() == [HARMLESS, f'  100.0%  {HARMLESS}', 'b', f'  cannot be read: {HARMLESS}']


def test_a_long_message_is_bounded(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError('no' * 100_000)

    monkeypatch.setattr('flaxmobile.cli.models.open_model', fail)
    assert len(command('evaluate', 'mine')[2]) < 2_100


def test_what_a_run_shows_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(Classification, 3, 1.0) as display:
        display.say(f'[red]{HOSTILE.replace(chr(10), "")}\nsecond line')
    assert capsys.readouterr().out == '[red]' + HARMLESS.replace(r'\n', '') + '\nsecond line\n'


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(FileNotFoundError):
        main(['evaluate', 'no/such/run', '--debug'])


def test_the_models_are_listed(command: Run) -> None:
    status, out, _ = command('list', 'mobilenetv2_1?0')
    assert status == 0
    assert out.split() == ['mobilenetv2_100', 'mobilenetv2_130', 'mobilenetv2_140']


def test_a_model_is_summed_up(command: Run) -> None:
    # 3,504,872 parameters: torchvision's own count of MobileNetV2.
    status, out, _ = command('summary', 'mobilenetv2_100')
    assert status == 0
    assert '3,504,872' in out


def test_a_network_is_timed_without_weights(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, 'socket', None)
    status, out, _ = command('benchmark', 'mobilenetv1_025', '--image-size', '32', '--rounds', '2', '--by-layer')
    assert status == 0
    assert 'mobilenetv1_025, 1 at a time of 32x32 pixels' in out
    for name in ('inference', 'stem', 'block_00/depthwise', 'classifier', 'no layer', 'total'):
        assert any(line.startswith(name) for line in out.splitlines()), name


def test_a_network_without_classes_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """MobileNetV5 has none; its 294 million parameters are not drawn here."""
    monkeypatch.setattr('flaxmobile.training.state.initial_variables', lambda *_: {'params': {}})
    title, model = networks._trained_or_not('mobilenetv5_300m', None, None)
    assert (title, model.task, model.num_classes, model.preprocessing.image_size) == (title, None, 0, 768)


@pytest.mark.slow
def test_a_run_is_timed_with_a_training_step(command: Run, tiny: TrainConfig, finished_run: Path) -> None:  # noqa: F811
    words = ('--batch-size', '3', '--rounds', '2', '--train', '--json')
    status, out, _ = command('benchmark', finished_run, *words)
    assert status == 0
    result = json.loads(out)
    assert (result['batch_size'], result['image_size'], set(result['work'])) == (3, 8, {'inference', 'training step'})
    # Two dense layers: 64 pixels to 8, those to 4 classes.
    assert result['multiply_adds_per_image'] == 64 * 8 + 8 * 4
    assert result['work']['inference']['multiply_adds'] == 3 * (64 * 8 + 8 * 4)
    assert result['work']['training step']['multiply_adds'] == 3 * (2 * 64 * 8 + 3 * 8 * 4)
    for work in result['work'].values():
        assert work['images_per_second'] == pytest.approx(3e3 / work['times']['median'])
        assert work['share_of_peak'] == pytest.approx(work['multiply_adds_per_second'] / result['peak'])


def test_train_with_changed_fields(
    command: Run, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: dict[str, Any] = {}

    def training(config: TrainConfig, run_dir: Path, **options: Any) -> None:
        called.update(config=config, run_dir=run_dir, **options)
        (tmp_path / run_dir).mkdir(parents=True)
        (tmp_path / run_dir / 'results.json').write_text('{"test": {"accuracy": 0.9125}}')

    monkeypatch.setattr('flaxmobile.runs.training.train', training)
    monkeypatch.chdir(tmp_path)
    status, out, _ = command('train', config_file, '--epochs', '7', '--flip', '--crop-scale', '0.5', '1', '--overwrite')
    assert status == 0
    assert called['config'].epochs == 7
    assert called['config'].augmentation.flip
    assert called['config'].augmentation.crop_scale == (0.5, 1.0)
    assert (called['run_dir'], called['overwrite'], called['resume']) == (Path('runs/mine'), True, False)
    assert out.splitlines()[-1] == 'test accuracy 91.25%; the report: runs/mine/report.md'


@pytest.mark.parametrize(
    ('error', 'status', 'message'),
    [
        (interruption.TrainingStopped('stopped at step 8', signal.SIGTERM), 143, 'stopped at step 8'),
        (FloatingPointError('the loss became nan'), 2, 'flaxmobile: the loss became nan'),
        (
            OSError(errno.ENOSPC, 'No space left on device', 'runs/a/report.md'),
            2,
            'no space is left on the disk: runs/a/report',
        ),
        (OSError(errno.EFBIG, 'File too large', 'a.npz'), 2, 'size of files is reached: a.npz was not written'),
        (OSError(errno.EDQUOT, 'Quota exceeded', 'a.npz'), 2, 'disk quota is used up: a.npz was not written'),
        (KeyboardInterrupt(), 130, ''),
    ],
)
def test_how_a_run_ends(
    command: Run, config_file: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, message: str
) -> None:
    def training(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr('flaxmobile.runs.training.train', training)
    ended, _, err = command('train', config_file)
    assert ended == status
    assert message in err
    assert 'Traceback' not in err


def test_evaluate(command: Run, tiny: TrainConfig, finished_run: Path) -> None:  # noqa: F811
    status, out, _ = command('evaluate', finished_run)
    assert status == 0
    # Of 37 images, those with a true label: 34.
    assert 'blobs (test)' in out
    assert 'accuracy 91.89%' in out
    assert '37 images' in out
    status, out, _ = command('evaluate', finished_run, '--split', 'validation')
    assert 'accuracy 90.00%' in out
    assert '30 images' in out


def test_evaluate_says_that_it_takes_a_part(
    command: Run,
    tiny: TrainConfig,  # noqa: F811
    finished_run: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, 'load_dataset', loading.load_dataset, raising=False)
    for number in range(20):
        path = tmp_path / 'photos' / CLASSES[number % 4] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(Blobs('test')[number].image))  # type: ignore[arg-type]
    photos = str(tmp_path / 'photos')
    for words, shown, count in (([], 'test', '4'), (['--split', 'train+test'], 'train+test', '20')):
        status, out, _ = command('evaluate', finished_run, '--data', photos, *words)
        first, second, *_ = out.splitlines()
        assert status == 0
        assert first.endswith(
            f'{photos} ({shown}: {count} of its 20 images, as it has no folders of splits and a fifth of each class is '
            'test; --split train+test takes all)'
        )
        assert second.endswith(f'{count} images')
    for split in ('train', 'test'):
        shutil.copytree(photos, tmp_path / 'divided' / split)
    _, out, _ = command('evaluate', finished_run, '--data', tmp_path / 'divided')
    assert out.splitlines()[0].endswith('divided (test)')


@pytest.mark.usefixtures('tiny')
def test_other_images_are_told(command: Run, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setitem(LENGTHS, 'test', 36)
    with pytest.warns(UserWarning, match='not the test images of the run: they were 37 images, and those of blobs'):
        assert command('evaluate', finished_run)[0] == 0


def test_predict(command: Run, tiny: TrainConfig, finished_run: Path, blob_file: Path, tmp_path: Path) -> None:  # noqa: F811
    truth = CLASSES[Blobs('test')[0].label]
    status, out, _ = command('predict', finished_run, blob_file, '--top', '2')
    assert status == 0
    name, first, second = out.splitlines()
    assert name == str(blob_file)
    assert first.split()[1] == truth
    assert float(first.split()[0].rstrip('%')) > float(second.split()[0].rstrip('%'))
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'broken')
    status, out, _ = command('predict', finished_run, broken, blob_file, '--json')
    assert status == 1
    results = json.loads(out)
    assert [result['image'] for result in results] == [str(broken), str(blob_file)]
    assert 'broken.jpg' in results[0]['error']
    assert results[1]['predictions'][0]['class'] == truth
    assert sum(guess['probability'] for guess in results[1]['predictions']) == pytest.approx(1, abs=1e-5)


def test_the_command_loads_nothing_heavy() -> None:
    code = (
        'import sys, flaxmobile.cli; '
        'print(*{"tensorflow", "torch", "grain", "orbax", "matplotlib", "tensorflow_datasets", "PIL", "tensorboardX"}'
        ' & set(sys.modules))'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split() == []


def test_a_warning_is_for_people() -> None:
    for category in (UserWarning, SingleValues):
        assert command_module._format_warning('cut off', category, 'run.py', 3) == 'cut off\n'
    assert command_module._format_warning('old', DeprecationWarning, 'x.py', 3) == 'x.py:3: DeprecationWarning: old\n'


def test_a_name_in_a_table_or_a_line_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    from flaxmobile.cli.common import print_table

    print_table(Table('[b]head[/b]', title='runs/[old] :smile: [/x]'))
    Display(Classification, 1, 1).say('runs/[old] :smile:')
    out = capsys.readouterr().out
    assert '[b]head[/b]' in out
    assert 'runs/[old] :smile: [/x]' in ' '.join(out.split())
    assert out.endswith('runs/[old] :smile:\n')
