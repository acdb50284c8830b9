"""A step on its own: its first loss by NumPy, a state that moves, variables that stay."""

import jax
import numpy as np
import pytest
from networks import PREPROCESSING, Linear

from flaxmobile.inspection.rehearsal import random_batch, rehearse, repeated
from flaxmobile.training.state import initial_variables
from flaxmobile.weights import Model


def loaded(num_classes: int) -> Model:
    variables = initial_variables(Linear(num_classes or 1), jax.random.key(0), (1, 4, 4, 1))
    task = 'classification' if num_classes else None
    return Model(Linear(num_classes), variables, PREPROCESSING, task=task)


def test_the_first_loss_and_the_next() -> None:
    model = loaded(3)
    batch = random_batch(model, 5)
    assert (batch['image'].shape, batch['label'].shape) == ((5, 4, 4, 1), (5,))
    before = jax.tree.map(np.array, model.variables)
    classifier = before['params']['classifier']
    logits = (batch['image'].reshape(5, -1) / 127.5 - 1) @ classifier['kernel'] + classifier['bias']
    own = logits[np.arange(5), batch['label']]
    call = repeated(*rehearse(model, batch))
    first, second = call()['loss'], call()['loss']
    np.testing.assert_allclose(first, np.mean(np.log(np.exp(logits).sum(1)) - own), rtol=1e-5)
    assert second < first
    jax.tree.map(np.testing.assert_array_equal, model.variables, before)


def test_a_model_without_classes_has_no_step() -> None:
    with pytest.raises(ValueError, match='has no classifier'):
        rehearse(loaded(0), random_batch(loaded(0), 2))
