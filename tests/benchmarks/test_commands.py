"""The commands as they are called."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(name, *words):
    command = [sys.executable, '-m', f'benchmarks.{name}', *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_inference(tmp_path):
    words = ('--networks', 'mobilenetv3_small_100', '--batch', 1, '--rounds', 2, '--threads', 1, '--output', tmp_path)
    done = bench('inference', *words, '--contenders', 'ours,plain_flax')
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / 'inference.json').read_text())
    ours, plain = written['rows']
    assert (ours['contender'], plain['contender']) == ('ours', 'plain_flax')
    assert plain['ratio'] == ours['median'] / plain['median']
    assert plain['rounds'] == 2
    assert written['machine']['cores'] == 1
    assert (tmp_path / 'inference.png').read_bytes().startswith(b'\x89PNG')
    assert f'{plain["ratio"]:.2f}' in done.stdout


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--networks', 'mobilenetv9'), 'there is no mobilenetv9, allowed is mobilenetv1_100'),
        pytest.param(('--contenders', 'ours,theirs'), 'there is no theirs, allowed is ours', marks=pytest.mark.slow),
        (('--rounds', '0'), '--rounds 0: 1 or more'),
        pytest.param(('--batch', '1,many'), "'many'", marks=pytest.mark.slow),
        pytest.param(('--threads', '100000'), '100000 threads asked for', marks=pytest.mark.slow),
    ],
)
def test_what_is_not_understood(words, message):
    done = bench('inference', *words)
    assert done.returncode == 2
    assert message in done.stderr
