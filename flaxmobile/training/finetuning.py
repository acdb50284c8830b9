"""A network to be trained starts from the variables of another one."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from flaxmobile.training.state import TrainState, model_state


def start_from(
    state: TrainState, variables: Mapping[str, Any], columns: np.ndarray | None, label_layers: Collection[str]
) -> TrainState:
    """A fresh `state` with other variables of the same network.

    Args:
        state: the one to start.
        variables: those to start from.
        columns: their number for each class, int `[classes]`, of which the layers of the labels get the columns; None
            where they do not know all classes. The layers are zero then: random ones would first have to be unlearnt,
            and would spoil the features meanwhile.
        label_layers: a task's, by their names at the top of the parameters: the classifier.

    Raises:
        ValueError: the two are different networks; says which variables differ.
    """
    ours, theirs = flatten_dict(state.variables), flatten_dict(dict(variables))

    def is_of_labels(path: tuple[str, ...]) -> bool:
        return path[1] in label_layers  # Before it is the name of the collection.

    if columns is None:
        theirs = {path: value for path, value in theirs.items() if not is_of_labels(path)}
    else:
        theirs = {path: value[..., columns] if is_of_labels(path) else value for path, value in theirs.items()}
    fresh = {path: jnp.zeros_like(value) for path, value in ours.items() if is_of_labels(path) and path not in theirs}
    differing = [
        f'{"/".join(path)} ({_shape(ours.get(path))}, and {_shape(theirs.get(path))} in the weights)'
        for path in sorted(ours.keys() | theirs.keys())
        if path not in fresh and _shape(ours.get(path)) != _shape(theirs.get(path))
    ]
    if differing:
        raise ValueError(
            f'the weights to start from are those of another network: {len(differing)} variables differ, first '
            f'{"; ".join(differing[:4])}'
        )
    # A copy: the state is donated to the step, and parameters and average may not share a buffer.
    new = unflatten_dict(
        {path: jnp.array(theirs[path], ours[path].dtype) for path in ours if path not in fresh} | fresh
    )
    ema = None if state.ema is None else jax.tree.map(jnp.copy, new)
    return state.replace(params=new['params'], model_state=model_state(new), ema=ema)


def _shape(value: Any) -> str:
    return 'missing' if value is None else 'x'.join(map(str, value.shape)) or 'scalar'
