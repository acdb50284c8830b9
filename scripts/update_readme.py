"""Write the README's table of models from the registry and the traced programs.

python scripts/update_readme.py            rewrite README.md
python scripts/update_readme.py --check    say whether it is up to date (exit status 1 when not)
"""

import os
import sys
from pathlib import Path

from flaxmobile import list_models
from flaxmobile.analysis.counts import Counts, count

README = Path(__file__).resolve().parent.parent / 'README.md'
BEGIN = '<!-- models: written by scripts/update_readme.py -->\n'
END = '<!-- models: end -->\n'
PREFIXES = ('tf_', 'tv_')


def split_prefix(name: str) -> tuple[str, str]:
    """`tf_mobilenetv2_130` -> `mobilenetv2_130`, `tf_`."""
    prefix = name[:3] if name.startswith(PREFIXES) else ''
    return name.removeprefix(prefix), prefix


def models_table() -> str:
    """A Markdown table with a row for each network; those that differ only in their convention share one."""
    prefixes: dict[tuple[str, Counts], list[str]] = {}
    for network, prefix in sorted(map(split_prefix, list_models())):
        prefixes.setdefault((network, count(prefix + network)), []).append(prefix)
    rows = ['| model | also as | parameters | multiply-adds | image |', '|---|---|--:|--:|--:|']
    for (network, counts), (first, *others) in prefixes.items():
        also = ' '.join(f'`{prefix}`' for prefix in others)
        parameters, multiply_adds, size = f'{counts.parameters:,}', f'{counts.multiply_adds:,}', counts.image_size
        rows.append(f'| `{first}{network}` | {also} | {parameters} | {multiply_adds} | {size} |')
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
