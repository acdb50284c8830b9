"""Messages for a name that is not known."""

import difflib
from collections.abc import Iterable


def unknown(kind: str, given: str, allowed: Iterable[str]) -> str:
    """Say that `given` is no known `kind` and which of `allowed` come nearest (all of them, when few)."""
    names = sorted(allowed)
    nearest = difflib.get_close_matches(given, names, n=5, cutoff=0.5) or names
    shown = ', '.join(nearest[:12]) + (f' and {len(nearest) - 12} more' if len(nearest) > 12 else '')
    question = 'Did you mean' if nearest is not names else 'There are'
    return f'unknown {kind} {given!r}. {question}: {shown}'
