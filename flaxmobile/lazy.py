"""Packages whose modules are imported when a name of theirs is first asked for."""

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Collection[str]], subpackages: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Args:
        package: its `__name__`.
        modules: the full name of a module, or its name in the package after a dot, to the names that it gives.
        subpackages: of the package, imported when they are first asked for.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name in homes:
            return getattr(importlib.import_module(homes[name], package), name)
        if name in subpackages:
            return importlib.import_module(f'{package}.{name}')
        raise AttributeError(f'module {package!r} has no attribute {name!r}')

    def names() -> list[str]:
        loaded = vars(importlib.import_module(package))
        return sorted({*homes, *subpackages, *loaded['__all__'], *({'__version__'} & loaded.keys())})

    return get, names
