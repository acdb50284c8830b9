import dataclasses
import html
import json
import re
import shlex
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import tyro
from markdown_it import MarkdownIt
from PIL import Image
from tyro.conf import OmitArgPrefixes

from flaxmobile.cli.training import train_command
from flaxmobile.drawing import png
from flaxmobile.files import write_whole
from flaxmobile.runs.folder import RunDescription
from flaxmobile.runs.parts import make_task
from flaxmobile.runs.report import RunFacts, write_report
from flaxmobile.tasks.classification import Evaluation, JudgedExample, pictures
from flaxmobile.training.config import TrainConfig, load_config

CLASSES = ('cat', 'dog', 'owl')
CONFUSION = np.array([[8, 2, 0], [1, 4, 0], [0, 5, 5]])
RECORDS = [
    {'split': 'train', 'step': 5, 'epoch': 0.5, 'seconds': 9.0, 'loss': 1.0, 'accuracy': 0.5, 'learning_rate': 0.1},
    {
        'split': 'validation',
        'step': 10,
        'epoch': 1.0,
        'seconds': 20.0,
        'loss': 0.9,
        'accuracy': 0.6,
        'accuracy_top5': 1.0,
    }
    | {'count': 20},
]


def evaluation(
    confusion: np.ndarray, mistakes: tuple[JudgedExample, ...] = (), right: tuple[JudgedExample, ...] = ()
) -> Evaluation:
    labels, predictions = (axis.repeat(confusion.ravel()) for axis in np.indices(confusion.shape).reshape(2, -1))
    return Evaluation(
        accuracy=float(np.mean(labels == predictions)),
        accuracy_top5=1.0,
        loss=0.75,
        count=len(labels),
        confusion=confusion,
        indices=np.arange(len(labels)),
        labels=labels,
        predictions=predictions,
        probabilities=np.full(len(labels), 0.9, np.float32),
        mistakes=mistakes,
        right=right,
    )


def example(label: int, prediction: int, channels: int = 3) -> JudgedExample:
    return JudgedExample(np.full((28, 28, channels), 99, np.uint8), label, prediction, 0.9, 0.05)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp('run')
    (run_dir / 'metrics.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in RECORDS))
    config = load_config('image_folder').with_options(dataset='my pets', epochs=3.0, flip=False)
    test = evaluation(CONFUSION, (example(2, 1),) * 7, (example(0, 0),))
    facts = RunFacts('1,234 parameters', train_command('image_folder', config), 125, ('train/cat/broken.jpg',))
    write_report(run_dir, RunDescription(config, CLASSES), make_task(config, CLASSES), 10, test, facts)
    return run_dir


def rows(report: str, heading: str) -> list[list[str]]:
    part = report.split(f'## {heading}')[1].split('\n## ')[0]
    return [
        [cell.strip() for cell in line.strip('|').split('|')] for line in part.splitlines() if line.startswith('|')
    ][2:]


def test_the_figures_are_right(folder: Path) -> None:
    report = (folder / 'report.md').read_text()
    assert report.startswith('# ')
    # 17 of 25.
    assert '68.00%' in report.splitlines()[0]
    assert '1,234 parameters, 3 classes. Trained in 2 min 05 s.' in report
    assert rows(report, 'By class') == [
        ['owl', '50.0%', '100.0%', '10'],
        ['cat', '80.0%', '88.9%', '10'],
        ['dog', '80.0%', '36.4%', '5'],
    ]
    assert rows(report, 'Confused most often') == [['owl', 'dog', '5'], ['cat', 'dog', '2'], ['dog', 'cat', '1']]
    assert '- train/cat/broken.jpg' in report
    results = json.loads((folder / 'results.json').read_text())
    assert results['test'] == {'accuracy': 0.68, 'accuracy_top5': 1.0, 'loss': 0.75, 'count': 25}
    assert results['validation']['accuracy'] == 0.6


def test_the_command_gives_the_configuration_again(folder: Path) -> None:
    report = (folder / 'report.md').read_text()
    command = re.search(r'^flaxmobile train .*$', report, re.MULTILINE)
    assert command is not None
    words = shlex.split(command[0])
    assert words[:3] == ['flaxmobile', 'train', 'image_folder']
    expected = load_config('image_folder').with_options(dataset='my pets', epochs=3.0, flip=False)
    assert tyro.cli(OmitArgPrefixes[TrainConfig], default=load_config('image_folder'), args=words[3:]) == expected


def test_every_picture_is_there(folder: Path) -> None:
    report = (folder / 'report.md').read_text()
    drawn = re.findall(r'!\[[^]]+\]\(([^)]+)\)', report)
    assert sorted(drawn) == ['confusion.png', 'curves.png', 'predictions.png']
    for name in drawn:
        with Image.open(folder / name) as picture:
            picture.load()
            assert min(picture.size) > 400
            assert len(picture.convert('RGB').getcolors(2**20) or [0] * 100) > 20
    assert not [path for path in folder.iterdir() if path.name.startswith('.')]


ODD = (
    '$0_to_$5',
    '$0-$5',
    'a|b',
    '`x`',
    '<b>c</b>',
    '# d',
    '_e_',
    'a_b',
    'f\ng',
    '[h](i)',
    '*j*',
    '\u202ek',
    r'\l',
    '&amp;',
)


def written(run_dir: Path, classes: tuple[str, ...]) -> str:
    """The report of a run with these classes, each but the last wrong once, of images in a folder of an odd name."""
    count = len(classes)
    (run_dir / 'metrics.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in RECORDS))
    config = dataclasses.replace(load_config('image_folder'), dataset='/a|`b`\n', init='/a|`b`\n')
    test = evaluation(3 * np.eye(count, dtype=int) + np.eye(count, k=1, dtype=int), (example(0, 1),))
    facts = RunFacts('few', seconds=1, unreadable=('1. a/_b_.jpg', '\udce9'))
    write_report(run_dir, RunDescription(config, classes), make_task(config, classes), 10, test, facts)
    return (run_dir / 'report.md').read_text()


def test_odd_names_are_written_literally(tmp_path: Path) -> None:
    """As a reader of Markdown shows them; `$`, which begins a formula in some, is escaped as well."""
    report = written(tmp_path, ODD)
    page = MarkdownIt('commonmark').enable('table').render(report)
    shown = [repr(name)[1:-1].replace(r'\\', '\\') for name in ODD]
    cells = [html.unescape(row) for row in re.findall(r'<tr>\n<td>(.*)</td>\n<td[^>]*>.*%</td>', page)]
    assert [name for name in cells if name in shown] == shown
    assert html.unescape(page).startswith('<h1>mobilenetv3_small_100 on /a|`b`\\n: 7')
    assert '<li>1. a/_b_.jpg</li>\n<li>\\udce9</li>' in page
    assert (
        html.unescape(re.findall('<td><code>init</code></td>\n<td[^>]*>(.*)</td>', page)[0]) == '<code>/a|`b`\\n</code>'
    )
    assert not re.search(r'(?<!\\)\$', report)
    assert json.loads((tmp_path / 'results.json').read_text())['classes'] == list(ODD)


@pytest.mark.filterwarnings('error')
def test_odd_names_are_drawn_literally() -> None:
    """As matplotlib draws all text where formulas are off."""
    names, mistakes = ('$0_to_$5', '$0-$5', 'a\nb'), [example(0, 1), example(1, 2)]
    for draw in (lambda: pictures.confusion(np.eye(3), names), lambda: pictures.predictions(mistakes, (), names)):
        with matplotlib.rc_context({'text.parse_math': False}):
            expected = png(draw())
        assert png(draw()) == expected


def test_characters_that_the_font_lacks_are_one_warning() -> None:
    with pytest.warns(UserWarning, match="boxes for what matplotlib's font does not have: 漢, 字$") as warned:
        png(pictures.confusion(np.eye(3), ['漢字', '漢', '字']))
    assert len(warned) == 1


def test_a_picture_that_fails_costs_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        assert json.loads((tmp_path / 'results.json').read_text())['best_step'] == 10
        raise RuntimeError('no <font>')

    monkeypatch.setattr(pictures, 'confusion', fail)
    with pytest.warns(UserWarning, match=r'^confusion\.png was not written: RuntimeError: no <font>\. The rest'):
        report = written(tmp_path, CLASSES)
    assert r'Confusion of the classes: confusion.png was not written: RuntimeError: no \<font\>.' in report
    assert '](confusion.png)' not in report
    assert '](curves.png)' in report
    assert not (tmp_path / 'confusion.png').exists()
    assert rows(report, 'By class')


def test_a_folder_in_a_picture_s_place_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / 'curves.png' / 'mine').mkdir(parents=True)
    with pytest.warns(UserWarning, match=r'^curves\.png was not written: '):
        report = written(tmp_path, CLASSES)
    assert rows(report, 'By class')
    assert (tmp_path / 'curves.png' / 'mine').is_dir()


@pytest.mark.parametrize('count', [2, 21, 130])
def test_confusion_is_readable_for_any_number_of_classes(count: int) -> None:
    figure = pictures.confusion(np.eye(count, dtype=int) * 3, [f'class {number}' for number in range(count)])
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert (names == [f'class {number}' for number in range(count)]) == (count <= 120)
    assert [text.get_text() for text in axes.texts] == (['100'] * count if count <= 20 else [])
    assert max(figure.get_size_inches()) < 15
    share = axes.images[0].get_array()
    assert share is not None
    assert np.diag(share).tolist() == [100] * count


def test_a_class_without_images_is_no_division_by_zero() -> None:
    figure = pictures.confusion(np.array([[0, 0], [1, 3]]), ['none', 'some'])
    assert np.asarray(figure.axes[0].images[0].get_array()).tolist() == [[0, 0], [25, 75]]


@pytest.mark.parametrize(('wrong', 'right', 'axes'), [(0, 3, 3), (30, 30, 24), (1, 0, 1)])
def test_predictions_show_what_there_is(wrong: int, right: int, axes: int) -> None:
    figure = pictures.predictions([example(0, 1, 1)] * wrong, [example(2, 2)] * right, CLASSES)
    assert len(figure.axes) == axes
    said = [text.get_text() for part in figure.axes for text in part.texts]
    assert said.count('dog  90 %') == said.count('is cat') == min(wrong, 18)
    assert said.count('owl  90 %') == min(right, 6)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'report.md'
    write_whole(path, 'first')

    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patched:
        patched.setattr('os.fsync', full)
        with pytest.raises(OSError, match='No space left'):
            write_whole(path, 'second')
    assert path.read_text() == 'first'
    assert list(tmp_path.iterdir()) == [path]
