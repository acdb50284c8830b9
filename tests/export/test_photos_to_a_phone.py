"""The guide docs/photos_to_a_phone.md, run as it stands, and what it says that the commands print."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from flaxmobile.export.litert.reading import read_description

GUIDE = Path(__file__).resolve().parents[2] / 'docs' / 'photos_to_a_phone.md'
BLOCK = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
NUMBER = r'\d[\d.,]*(?:e[+-]\d+)?'


def steps() -> list[tuple[str, str, str]]:
    """Language and text of each block that is run, and what is said that it prints, '' where nothing is."""
    blocks = BLOCK.findall(GUIDE.read_text())
    following = [*blocks[1:], ('', '')]
    return [
        (language, text, printed if other == '' else '')
        for (language, text), (other, printed) in zip(blocks, following, strict=True)
        if language
    ]


def run(language: str, text: str, folder: Path) -> str:
    shell = ['bash', '-euo', 'pipefail', '-c'] if language == 'sh' else [sys.executable, '-c']
    root, programs = str(GUIDE.parents[1]), str(Path(sys.executable).parent)
    own = {'PATH': f'{programs}:{os.environ["PATH"]}', 'PYTHONPATH': root, 'XDG_CACHE_HOME': str(folder / 'cache')}
    own['XLA_FLAGS'] = ''  # Not the eight devices of the other tests.
    done = subprocess.run([*shell, text], cwd=folder, env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f'{text}\n{done.stdout}\n{done.stderr}'
    return done.stdout


def pattern(printed: str) -> str:
    """Of the lines in order, with any numbers in place of the numbers, any spaces, and anything in place of `...`."""
    lines = [r'\s+'.join(map(_pattern_of_word, line.split())) for line in printed.splitlines()]
    return r'\s*\n'.join(lines)


def _pattern_of_word(word: str) -> str:
    return '(?:.|\n)*' if word == '...' else NUMBER.join(map(re.escape, re.split(NUMBER, word)))


@pytest.mark.export
def test_the_guide_does_what_it_says(tmp_path: Path) -> None:
    for language, text, printed in steps():
        found = run(language, text, tmp_path)
        assert re.search(pattern(printed), found), f'{text}\n{found}'
    results = json.loads((tmp_path / 'runs' / 'clothes' / 'results.json').read_text())
    assert results['test']['accuracy'] > 0.4
    content = (tmp_path / 'clothes.tflite').read_bytes()
    assert read_description(content)['made']['weights'] == 'int8'
    assert (tmp_path / 'page' / 'model.tflite').stat().st_size == len(content)
    assert json.loads((tmp_path / 'page' / 'model.json').read_text()) == read_description(content)
    report = (tmp_path / 'report' / 'report.md').read_text()
    accuracies = dict(re.findall(r'^\| `(\S+)` \| [^|]+ \| ([\d.]+)% ', report, re.MULTILINE))
    assert float(accuracies['float32.tflite']) == pytest.approx(100 * results['test']['accuracy'], abs=0.6)
    assert ', none of them among these.' in report


def test_the_guide_has_each_command() -> None:
    commands = [text.split()[1] for language, text, printed in steps() if language == 'sh' and printed]
    assert commands == ['train', 'export', 'web', 'quantize-report']
