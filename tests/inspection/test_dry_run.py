"""What a dry run says of a config, against numbers worked by hand and against what training then does."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flaxmobile.cli import main
from flaxmobile.inspection.dry_run import Plan, chances, count_images, make_plan, parameter_groups, values_at
from flaxmobile.runs.plots import schedules
from flaxmobile.tasks.classification import Classification
from flaxmobile.training.config import TrainConfig, load_config
from flaxmobile.training.metrics import read_metrics


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(['train', *words])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'none'))
    monkeypatch.chdir(tmp_path)


def numbers(text: str) -> list[int]:
    return [int(number.replace(',', '')) for number in re.findall(r'\d[\d,]*\d', text)]


def test_imagenet_that_is_not_here(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of rmsprop squares and momentum are kept, twice 4 bytes a parameter; 1,268,355 / 4,096 are 310 steps an epoch."""
    assert command('imagenet_mobilenetv3_large', '--dry-run') == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert numbers(lines['network'])[-2:] == [5_483_032, 216_589_760]
    assert numbers(lines['data'])[-2:] == [1_268_355, 1000]
    assert numbers(lines['length']) == [1000, 310, 310_000, 310_000, 310_000 * 4096]
    assert lines['batch'].endswith('4,096 images a step: 512 each on the 8 cpu devices here, 128 each on 32')
    parameters = 4 * 5_483_032 / 2**20
    assert f'parameters {parameters:.1f}' in said
    assert f'optimizer {2 * parameters:.1f}' in said
    assert [path.name for path in tmp_path.rglob('*') if path.is_file()] == ['imagenet_mobilenetv3_large-dry-run.png']
    with Image.open(tmp_path / 'runs' / 'imagenet_mobilenetv3_large-dry-run.png') as picture:
        assert picture.size > (1500, 500)
        assert len(picture.convert('RGB').getcolors(2**24) or ()) > 20


def test_options_and_what_they_go_with(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command('imagenet_mobilenetv1', '--images', '10') == 2
    assert '--images and --output go with --dry-run' in capsys.readouterr().err
    given = ('--dry-run', '--images', '5000', '--output', 'here.png')
    assert command('cifar10', *given, '--epochs', '6', '--freeze', 'stem') == 0
    said = capsys.readouterr().out
    assert '5,000 images, 10 classes (images as given)' in said
    assert '6 epochs of 39 steps: 234 steps' in said
    assert re.search(r'stem/conv/kernel +1 +864 +spared, frozen', said)
    assert (tmp_path / 'here.png').is_file()
    assert command('cifar10', '--dry-run') == 2
    assert 'Or say how many training images there are: --images N' in capsys.readouterr().err
    assert command('image_folder', '--dry-run', '--images', '0') == 2
    assert 'images is 0: it has to be 1 or more' in capsys.readouterr().err
    assert command('imagenet_mobilenetv1', '--dry-run', '--teacher', 'mobilnet') == 2
    assert 'mobilnet is no run, no file and no published weights' in capsys.readouterr().err


def test_other_parts_of_imagenet() -> None:
    config = load_config('imagenet_mobilenetv2')
    assert count_images(dataclasses.replace(config, train_split='train'))[0] == 1_281_167
    assert count_images(dataclasses.replace(config, train_split='train[:100]+validation'))[0] == 50_100
    with pytest.raises(ValueError, match="unknown split 'training'"):
        count_images(dataclasses.replace(config, train_split='training'))


def test_it_is_what_training_does(finished_run: Path, tiny: TrainConfig) -> None:
    """The set's own number of images, and the rates that the run's log then has."""
    plan = make_plan(tiny, None)
    assert (plan.images.number, plan.images.classes, plan.total_steps) == (96, 4, 24)
    logged = [
        record for record in read_metrics(finished_run / 'metrics.jsonl', Classification) if record['split'] == 'train'
    ]
    rates, decays = values_at(plan, np.array([record['step'] - 1 for record in logged]))
    np.testing.assert_allclose(rates, [record['learning_rate'] for record in logged], rtol=1e-6)
    assert decays is not None
    np.testing.assert_allclose(values_at(plan, np.array([0, 2, 23]))[1], [0.1, 0.25, 24 / 33], rtol=1e-6)


def plan_of(**changes: Any) -> Plan:
    return make_plan(load_config('imagenet_mobilenetv2').with_options(**changes), 1000)


def reached(plan: Plan) -> int:
    return sum(sum(sizes) for (_, decays, _), sizes in parameter_groups(plan).items() if decays)


def test_what_weight_decay_reaches() -> None:
    """MobileNetV2 1.0 by its table: 9 numbers a channel of each depthwise kernel, 2 of each BatchNorm, 1,000 biases."""
    whole = 3_504_872
    widths = [32, 96, *[144] * 2, *[192] * 3, *[384] * 4, *[576] * 3, *[960] * 3]
    depthwise = 9 * sum(widths)
    ends = [16, 24, 24, 32, 32, 32, *[64] * 4, *[96] * 3, *[160] * 3, 320]
    norms = 2 * (32 + sum(widths) + sum(widths[1:]) + sum(ends) + 1280)
    assert reached(plan_of()) == whole - depthwise - norms - 1000
    assert reached(plan_of(decay_depthwise=True)) == whole - norms - 1000
    assert reached(plan_of(decay_depthwise=True, decay_norms=True)) == whole
    assert reached(plan_of(weight_decay=0.0)) == 0
    assert reached(plan_of(freeze=('backbone',))) == 1280 * 1000
    groups = parameter_groups(plan_of())
    assert sum(map(sum, groups.values())) == whole
    assert groups['block_*/depthwise/conv/kernel', False, True] == [9 * width for width in widths]


def test_chances() -> None:
    config = load_config('imagenet_mobilenetv2_torchvision_v2')
    assert chances(config) == {
        'flip': 0.5,
        'TrivialAugment': 1.0,
        'erasing': 0.1,
        'Mixup': 0.5,
        'CutMix': 0.5,
        'dropout': 0.2,
    }
    assert chances(dataclasses.replace(config, cutmix_alpha=0.0))['Mixup'] == 1
    assert chances(load_config('fashion_mnist').with_options(flip=False, dropout_rate=None)) == {}


def test_the_picture_has_what_there_is_to_show() -> None:
    epochs = np.linspace(0, 3, 7)
    figure = schedules(epochs, epochs / 10, None, {})
    assert [axes.get_title(loc='left') for axes in figure.axes] == ['Learning rate']
    figure = schedules(epochs, epochs / 10, 1 + epochs, {'flip': 0.5, 'Mixup': 0.5, 'erasing': 0.1})
    assert [axes.get_title(loc='left') for axes in figure.axes] == [
        'Learning rate',
        'Moving average, updates',
        'Chance, %',
    ]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), epochs / 10)
    assert [text.get_text() for text in figure.axes[2].texts] == ['erasing', 'flip, Mixup']
