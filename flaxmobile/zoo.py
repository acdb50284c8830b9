"""What there is: the names of the networks, and what is known of each."""

import dataclasses
import fnmatch
import sys

from flaxmobile.layers import Convention, get_convention
from flaxmobile.models.network import MobileNet
from flaxmobile.models.registry import REGISTRY, create_model, entry


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a registered network.

    Attributes:
        name: as `create_model` takes it.
        module: its class.
        image_size: side of the images that it is usually run at, in pixels.
        parameters: trainable ones, with a classifier of as many classes as the name has.
        multiply_adds: of convolutions and dense layers, for one image of that size.
        convention: how it pads and normalises.
        source: the paper, as the file of the class cites it.
        weights: the names of its published weights, as `load_pretrained` takes them; the first is what its own name
            stands for.
    """

    name: str
    module: type[MobileNet]
    image_size: int
    parameters: int
    multiply_adds: int
    convention: Convention
    source: str
    weights: tuple[str, ...]


def list_models(pattern: str = '*', pretrained: bool = False) -> list[str]:
    """The registered names that match a shell pattern, such as `'mobilenetv3_*'`, in order.

    Args:
        pattern: of the names.
        pretrained: those with published weights alone.
    """
    names = [name for name in REGISTRY if fnmatch.fnmatch(name, pattern)]
    if not pretrained:
        return names
    from flaxmobile.weights.catalogue import CATALOGUE

    published = {weight.model for weight in CATALOGUE.values()}
    return [name for name in names if name in published]


def model_info(name: str) -> ModelInfo:
    """What is known of the registered network of that name; it is traced once, in about a second.

    Raises:
        ValueError: there is none, with the nearest names.
    """
    from flaxmobile.analysis.counts import count
    from flaxmobile.weights.catalogue import CATALOGUE, find

    module, counts = entry(name).module, count(name)
    weights = [weight.name for weight in CATALOGUE.values() if weight.model == name]
    return ModelInfo(
        name=name,
        module=module,
        image_size=counts.image_size,
        parameters=counts.parameters,
        multiply_adds=counts.multiply_adds,
        convention=get_convention(create_model(name).convention),
        source=source_of(module),
        weights=tuple(sorted(weights, key=lambda weight: weight != find(name).name)),
    )


def source_of(module: type[MobileNet]) -> str:
    """The paper of a class: the first line of its file."""
    first, *_ = (sys.modules[module.__module__].__doc__ or '').splitlines() or ['']
    return first.removesuffix('.')
