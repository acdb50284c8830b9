"""Only `pytest -m parity` and `-m thorough` import the peers: torch, torchvision, timm and Keras (on JAX)."""

import os

os.environ.setdefault('KERAS_BACKEND', 'jax')


def pytest_ignore_collect(config):
    selected = config.option.markexpr
    asked = any(marker in selected and f'not {marker}' not in selected for marker in ('parity', 'thorough'))
    return None if asked else True
