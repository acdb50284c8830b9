"""Where what a run is named by lies, and which published weight a run started from."""

import os
from pathlib import Path

from flaxmobile.runs.description import read_description
from flaxmobile.weights import Weight, find, formats


def locate(given: str | Path) -> Path | Weight:
    """A run's folder or a file as its path, which go before a published name.

    Raises:
        FileNotFoundError: it can only be meant as a path, and nothing is there.
        ValueError: there are no such weights, with the nearest names.
    """
    path = Path(given).expanduser()
    if path.exists():
        return path
    if os.sep in str(given) or path.name.lower().endswith(formats.SUFFIXES):
        raise FileNotFoundError(f'there is no run and no file {given}')
    try:
        return find(str(given))
    except ValueError as error:
        raise ValueError(f'{given} is no run, no file and no published weights: {error}') from None


def started_from(init: str | None) -> Weight | None:
    """The published weight that training from `init` started from, by way of other runs too.

    None where there is none, and where it is not known: a file does not say it, and a run may be gone.
    """
    seen: set[Path] = set()
    while init is not None:
        try:
            where = locate(init)
            if isinstance(where, Weight):
                return where
            if where.resolve() in seen:  # Runs that were written over since.
                return None
            seen.add(where.resolve())
            init = read_description(where).config.init
        except (OSError, ValueError):
            return None
    return None
