"""Packages that an export needs and a plain installation does not bring."""

import importlib
import importlib.metadata
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
            f"{what} needs the package {missing}: pip install 'flaxmobile[{extra}]'", name=missing
        ) from error


def distribution_of(module: str, package: str) -> tuple[str, str]:
    """Name and version of the distribution that an installed module is of.

    Args:
        module: its full name, 'onnxruntime'.
        package: the usual distribution; the module may come with another, as 'onnxruntime-gpu'.
    """
    try:
        return package, importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        for name in importlib.metadata.packages_distributions().get(module.partition('.')[0], ()):
            return name, importlib.metadata.version(name)
    return package, getattr(importlib.import_module(module), '__version__', 'of an unknown version')
