"""Only `pytest -m parity` imports the peers: torch, torchvision, timm and Keras (on JAX)."""

import os

os.environ.setdefault('KERAS_BACKEND', 'jax')


def pytest_ignore_collect(config):
    selected = config.option.markexpr
    return None if 'parity' in selected and 'not parity' not in selected else True
