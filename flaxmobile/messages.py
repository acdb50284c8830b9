"""What messages to people share: text from files made printable, short lists, the nearest names to a mistyped one."""

import difflib
from collections.abc import Collection, Iterable

LONGEST = 200
"""Characters of a text from a file that a message shows at most."""
LISTED = 10
"""Names that a message lists at most."""


def printable(text: object, longest: int | None = LONGEST) -> str:
    r"""`str(text)` for a terminal: what is no printable character is escaped (`\x1b`, `\n`, `\u202e`), as `repr` does.

    Whatever comes from a file, an archive, a server or a path goes through here before it stands in a message.

    Args:
        text: what to show.
        longest: characters that are shown at most, the middle of longer ones left out; None: all of them.
    """
    escaped = ''.join(
        character if character.isprintable() else character.encode('unicode_escape').decode('ascii')
        for character in str(text)
    )
    if longest is None or len(escaped) <= longest:
        return escaped
    half = (longest - 3) // 2
    return f'{escaped[:half]}...{escaped[-half:]}'


def listing(names: Collection[object], most: int = LISTED) -> str:
    """The first names, printable and divided by commas, and how many more there are."""
    shown = [printable(name) for _, name in zip(range(most), names, strict=False)]
    more = f' and {len(names) - most:,} more' if len(names) > most else ''
    return ', '.join(shown) + more


def nearest(given: str, allowed: Iterable[str]) -> list[str]:
    """Those of `allowed` that are spelt most like `given`, the nearest first; none where none is alike."""
    return difflib.get_close_matches(given[:LONGEST], sorted(allowed), n=5, cutoff=0.5)


def unknown(kind: str, given: str, allowed: Iterable[str]) -> str:
    """Say that `given` is no known `kind` and which of `allowed` come nearest (all of them, when few)."""
    names = sorted(allowed)
    alike = nearest(given, names)
    question = 'Did you mean' if alike else 'There are'
    return f"unknown {kind} '{printable(given)}'. {question}: {listing(alike or names, 12)}"
