"""A run in float64 that goes on with other devices; test_other_devices.py runs it with eight virtual ones."""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_run import tiny_config, use_tiny

from flaxmobile.parallel.mesh import make_mesh
from flaxmobile.runs import training as runs
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.interruption import TrainingStopped
from flaxmobile.training.metrics import Window


class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        step = images.shape[1] // 8  # Eight pixels a side, whatever the images have, as in TinyNet.
        values = images[:, ::step, ::step].astype(jnp.float64).reshape(len(images), -1)
        values = nn.Dense(8, use_bias=False, param_dtype=jnp.float64)(values)  # A bias would be rounding errors.
        values = nn.BatchNorm(not train, momentum=0.9, param_dtype=jnp.float64)(values)
        values = nn.Dropout(0.2, deterministic=not train)(nn.tanh(values))
        return nn.Dense(self.num_classes, param_dtype=jnp.float64, name='classifier')(values)


def create_state(*arguments: Any) -> Any:
    """In float64 all over: Flax begins the statistics in float32."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, CREATE(*arguments)
    )


def stopping(step: int | None) -> Any:
    taken = []

    def add(self: Window, metrics: Any) -> None:
        ADD(self, metrics)
        taken.append(None)
        if len(taken) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return add


def train(run_dir: Path, devices: int, *, stop: int | None = None, resume: bool = False) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny(patch)
        patch.setattr(TrainConfig, 'build_model', lambda self, num_classes: Net(num_classes))
        patch.setattr(runs, 'make_mesh', lambda: make_mesh(jax.devices()[:devices]))
        patch.setattr(runs, 'create_state', create_state)
        patch.setattr(Window, 'add', stopping(stop))
        try:
            runs.train(tiny_config(), run_dir, resume=resume)
        except TrainingStopped:
            assert stop is not None


def arrays(run_dir: Path, step: int = 24) -> dict[str, np.ndarray]:
    found = {}
    for item in ('variables', 'ema', 'optimizer'):
        tree = ocp.StandardCheckpointer().restore(run_dir / 'checkpoints' / str(step) / item)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            found[item + jax.tree_util.keystr(path)] = np.asarray(leaf, np.float64)
    return found


def distance(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> float:
    """The greatest difference of any array, relative to its greatest value."""
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[name] - theirs[name]).max() / max(np.abs(theirs[name]).max(), 1e-30)) for name in ours)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, found = Path(folder), {}
        for before, after in ((8, 1), (1, 8)):
            whole, split = root / f'whole_{before}', root / f'split_{before}'
            train(whole, before)
            train(split, before, stop=8)
            found[f'left_from_{before}'] = distance(arrays(split, 8), arrays(whole))
            train(split, after, resume=True)
            found[f'from_{before}_to_{after}'] = distance(arrays(split), arrays(whole))
        print(json.dumps(found))


if __name__ == '__main__':
    CREATE, ADD = runs.create_state, Window.add
    main()
