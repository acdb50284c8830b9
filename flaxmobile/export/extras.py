"""Packages that an export needs and a plain installation does not bring."""

import importlib
from typing import Any


def needed(module: str, what: str, extra: str) -> Any:
    """Import a module of an extra.

    Args:
        module: its full name.
        what: what needs it, as the message begins: 'LiteRT'.
        extra: of this package, which installs it.

    Raises:
        ModuleNotFoundError: it, or a package that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise ModuleNotFoundError(
            f"{what} needs the package {missing.split('.')[0]}: pip install 'flaxmobile[{extra}]'", name=missing
        ) from error
