"""Write the README's table of models from the registry and the traced programs.

python scripts/update_readme.py            rewrite README.md
python scripts/update_readme.py --check    say whether it is up to date (exit status 1 when not)
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from flaxmobile import list_models
from flaxmobile.analysis.counts import Counts, count
from flaxmobile.weights.catalogue import CATALOGUE, find

README = Path(__file__).resolve().parent.parent / 'README.md'
BEGIN = '<!-- models: written by scripts/update_readme.py -->\n'
END = '<!-- models: end -->\n'
PREFIXES = ('tf_', 'tv_')
# Whose networks the parity tests hold those of each prefix to, on the same weights.
PEERS = {'': 'timm', 'tf_': 'Keras', 'tv_': 'torchvision'}


def split_prefix(name: str) -> tuple[str, str]:
    """`tf_mobilenetv2_130` -> `mobilenetv2_130`, `tf_`."""
    prefix = name[:3] if name.startswith(PREFIXES) else ''
    return name.removeprefix(prefix), prefix


def generation(named: tuple[str, str]) -> tuple[bool, tuple[str, str]]:
    """Sorts the numbered generations before their relatives."""
    return not named[0].startswith('mobilenetv'), named


def multiply_adds(counts: Counts) -> str:
    """Those of the layers, then those of attention's own products."""
    attention = f' + {counts.attention_multiply_adds:,}' if counts.attention_multiply_adds else ''
    return f'{counts.multiply_adds:,}{attention}'


def peers(network: str, prefix: str) -> str:
    """Whose network it is held to; torchvision has MobileNetV2 at any width, as timm has."""
    return 'timm, torchvision' if re.fullmatch(r'mobilenetv2_\d+', network) and not prefix else PEERS[prefix]


def published(network: str, prefixes: Sequence[str]) -> str:
    """`75.784`, then `tf_ 75.51`: what the tag-less name's weights reached at the size they were trained at."""
    found = []
    for prefix in prefixes:
        if prefix + network in {weight.model for weight in CATALOGUE.values()}:
            weight = find(prefix + network)
            if top1 := weight.top1.get(weight.image_size):
                found.append(f'`{prefix}` {top1:.1f}' if prefix else f'{top1:.1f}')
    return ', '.join(found)


def models_table() -> str:
    """A Markdown table with a row for each network; those that differ only in their convention share one."""
    prefixes: dict[tuple[str, Counts], list[str]] = {}
    for network, prefix in sorted(map(split_prefix, list_models()), key=generation):
        prefixes.setdefault((network, count(prefix + network)), []).append(prefix)
    rows = [
        '| model | also as | parameters | multiply-adds | image | top-1 | equal to |',
        '|---|---|--:|--:|--:|--:|---|',
    ]
    for (network, counts), (first, *others) in prefixes.items():
        also = ' '.join(f'`{prefix}`' for prefix in others)
        equal = ', '.join(peers(network, prefix) for prefix in (first, *others))
        rows.append(
            f'| `{first}{network}` | {also} | {counts.parameters:,} | {multiply_adds(counts)} | '
            f'{counts.image_size} | {published(network, (first, *others))} | {equal} |'
        )
    return '\n'.join(rows) + '\n'


def with_table(readme: str, table: str) -> str:
    """`readme` with `table` between the two marks."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + '\n' + table + '\n' + END + after


def main() -> int:
    """Rewrite or check the README."""
    current = README.read_text()
    wanted = with_table(current, models_table())
    if current == wanted:
        return 0
    if '--check' in sys.argv[1:]:
        print('The table of models in README.md is out of date: run python scripts/update_readme.py', file=sys.stderr)
        return 1
    beside = README.with_suffix('.tmp')
    beside.write_text(wanted)
    os.replace(beside, README)
    return 0


if __name__ == '__main__':
    sys.exit(main())
