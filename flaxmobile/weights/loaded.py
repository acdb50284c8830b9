"""A network with all that is needed to use it."""

from typing import Any, NamedTuple

from flax import linen as nn

from flaxmobile.data import Preprocessing


class LoadedModel(NamedTuple):
    """A trained model with all that is needed to use it: `model.apply(variables, preprocessing.normalize(images))`."""

    model: nn.Module
    variables: dict[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
