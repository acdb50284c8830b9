"""A network to be trained starts from the variables of another one."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from flaxmobile.training.state import TrainState, model_state
from flaxmobile.weights import Model
from flaxmobile.weights.class_names import label_positions


def start_from(state: TrainState, start: Model, classes: Sequence[str]) -> TrainState:
    """A fresh `state` with the variables of `start`.

    The classifier's columns are those of `classes`, by name. Where `start` does not know them all, the classifier is
    zero: a random one would first have to be unlearnt, and would spoil the features meanwhile.

    Raises:
        ValueError: the two are different networks; says which variables differ.
    """
    ours, theirs = flatten_dict(state.variables), flatten_dict(dict(start.variables))
    columns = _columns(start.labels, classes)
    if columns is None:
        theirs = {path: value for path, value in theirs.items() if 'classifier' not in path}
    else:
        theirs = {path: value[..., columns] if 'classifier' in path else value for path, value in theirs.items()}
    fresh = {path: jnp.zeros_like(value) for path, value in ours.items() if 'classifier' in path and path not in theirs}
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


def _columns(known: Sequence[str] | None, classes: Sequence[str]) -> np.ndarray | None:
    try:
        return label_positions(classes, known)
    except ValueError:
        return None


def _shape(value: Any) -> str:
    return 'missing' if value is None else 'x'.join(map(str, value.shape)) or 'scalar'
