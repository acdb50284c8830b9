"""Text as Markdown: names to the letter, code, tables."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from flaxmobile.messages import printable


def literal(text: object) -> str:
    """`text` as Markdown shows it to the letter, on one line."""
    # Within a word `_` stands for itself.
    marks = r'[\\`*\[\]<>|$~&#]|(?<![^\W_])_|_(?![^\W_])|^[+-]|(?<=^\d)[.)]|(?<=^\d\d)[.)]'
    return re.sub(marks, r'\\\g<0>', printable(text, None))


def code(text: object) -> str:
    """`text` as code, on one line, in a table or elsewhere."""
    shown = printable(text, None).replace('|', r'\|')
    fence = '`' * (1 + max(map(len, re.findall('`+', shown)), default=0))
    space = ' ' if '`' in shown else ''
    return f'{fence}{space}{shown}{space}{fence}'


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table, its first column to the left and the others to the right; cells are Markdown already."""
    lines = [' | '.join(map(str, row)) for row in (header, ['---', *['---:'] * (len(header) - 1)], *rows)]
    return '\n'.join(f'| {line} |' for line in lines)
