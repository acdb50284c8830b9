"""Write the README's table of models from the registry and the traced programs.

python scripts/update_readme.py            rewrite README.md
python scripts/update_readme.py --check    say whether it is up to date (exit status 1 when not)
"""

import os
import sys
from itertools import groupby
from pathlib import Path

from flaxmobile import list_models
from flaxmobile.analysis.counts import Counts, count

README = Path(__file__).resolve().parent.parent / 'README.md'
BEGIN = '<!-- models: written by scripts/update_readme.py -->\n'
END = '<!-- models: end -->\n'
PREFIXES = ('tf_', 'tv_')


def without_prefix(name: str) -> str:
    """The name a network has without its convention: `tf_mobilenetv2_130` -> `mobilenetv2_130`."""
    return name[3:] if name.startswith(PREFIXES) else name


def models_table() -> str:
    """A Markdown table with a row for each network; names that share a row differ in padding and normalisation."""
    rows = ['| model | parameters | multiply-adds | at |', '|---|--:|--:|--:|']
    names = sorted(list_models(), key=lambda name: (without_prefix(name), name.startswith(PREFIXES), name))
    for _, twins in groupby(names, key=without_prefix):
        by_counts: dict[Counts, list[str]] = {}
        for name in twins:
            by_counts.setdefault(count(name), []).append(name)
        for counts, same in by_counts.items():
            shown = ', '.join(f'`{name}`' for name in same)
            rows.append(f'| {shown} | {counts.parameters:,} | {counts.multiply_adds:,} | {counts.image_size} |')
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
