"""Activations by name."""

from collections.abc import Callable
from functools import partial

import jax
from jax import Array

from flaxmobile.messages import unknown

relu = jax.nn.relu
relu6 = jax.nn.relu6
hard_sigmoid = jax.nn.hard_sigmoid
hard_swish = jax.nn.hard_swish

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    'linear': lambda values: values,
    'relu': relu,
    'relu6': relu6,
    'hard_swish': hard_swish,
    'hard_sigmoid': hard_sigmoid,
    'sigmoid': jax.nn.sigmoid,
    'gelu': partial(jax.nn.gelu, approximate=False),
    'gelu_tanh': partial(jax.nn.gelu, approximate=True),
}


def activation(name: str) -> Callable[[Array], Array]:
    """The function of that name; `hard_sigmoid` is `relu6(x + 3) / 6`, `gelu` the exact one and
    `gelu_tanh` its approximation `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x ** 3))) / 2`.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(unknown('activation', name, ACTIVATIONS))
    return ACTIVATIONS[name]
