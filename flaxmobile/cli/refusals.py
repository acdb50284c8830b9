"""Values that a config refuses, as errors of this command: tyro would draw a box with names of its own."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from flaxmobile.data.preprocessing import Augmentation, Preprocessing
from flaxmobile.quantization.training import QuantizationAware
from flaxmobile.training.config import TrainConfig

_PARTS = (TrainConfig, Preprocessing, Augmentation, QuantizationAware)


class _RefusedError(Exception):
    """Carries a ValueError through tyro, which keeps those for itself."""


@contextmanager
def refusals() -> Iterator[None]:
    """Within it tyro builds configs, and a value that they refuse is a ValueError that speaks of options."""
    with _registry():
        try:
            yield
        except _RefusedError as refused:
            raise ValueError(_of_options(str(refused))) from None


def _registry() -> ConstructorRegistry:
    registry = ConstructorRegistry()
    inside: list[Any] = []

    @registry.struct_rule
    def of_a_config(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type not in _PARTS or inside:
            return None
        inside.append(info.type)  # So that the usual rule is asked below, and not this one again.
        try:
            usual = ConstructorRegistry.get_struct_spec(info)
        finally:
            inside.pop()
        return (
            replace(usual, instantiate=_refusing(usual.instantiate))
            if isinstance(usual, StructConstructorSpec)
            else None
        )

    return registry


def _refusing(build: Callable[..., Any]) -> Callable[..., Any]:
    def built(**given: Any) -> Any:
        try:
            return build(**given)
        except ValueError as error:
            raise _RefusedError(str(error)) from error

    return built


def _of_options(text: str) -> str:
    """What a config says of its fields, of options: `--epochs must be` for `config: epochs must be`."""
    fields = sorted({name for part in _PARTS for name in part.__dataclass_fields__}, key=len, reverse=True)
    said = re.sub(
        rf'(?<![\w./\'"-])({"|".join(fields)})(?= must be | \()', lambda found: f'--{found[0].replace("_", "-")}', text
    )
    return re.sub(r'^\w+: (?=--)', '', said)
