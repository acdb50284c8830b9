"""Run by test_data_parallel.py in float64; prints its findings.

One process with 8 virtual devices compares them with one of them; each of several processes compares the devices of all
with one of its own.
"""

import functools
import hashlib
import json
import sys
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tiny_run
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec
from networks import classification

from flaxmobile.data.preprocessing import Preprocessing
from flaxmobile.layers import Block, DepthwiseSeparable
from flaxmobile.models import create_model
from flaxmobile.parallel.mesh import make_mesh, replicate, shard_batch
from flaxmobile.parallel.processes import joined
from flaxmobile.tasks.classification import Classification
from flaxmobile.tasks.evaluation import evaluate
from flaxmobile.tasks.losses import cross_entropy, smooth_targets
from flaxmobile.tasks.mixing import Mixing
from flaxmobile.training.config import TrainConfig
from flaxmobile.training.optimizer import make_optimizer
from flaxmobile.training.state import TrainState, create_state
from flaxmobile.training.step import loss_and_gradients, make_evaluation_step, make_train_step
from flaxmobile.weights.class_names import label_positions

CLASSES, BATCH = 10, 16
PREPROCESSING = Preprocessing(image_size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
# At ten times this rate rounding errors grow threefold a step, and twenty steps agree in no more than five digits.
OPTIMIZER = TrainConfig(model='none', dataset='none', learning_rate=2e-4, weight_decay=1e-4).optimizer_plan


class Tiny(Block):
    """One convolution, one block and a classifier, for the sake of compile time."""

    num_classes: int = CLASSES
    dropout_rate: float = 0.2

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        values = self.conv_norm('stem', features=8, kernel_size=3, strides=2)(images, train=train)
        fields = {name: getattr(self, name) for name in ('dtype', 'param_dtype', 'batch_norm_axis_name')}
        values = DepthwiseSeparable(features=16, strides=2, **fields)(values, train=train)
        values = nn.Dropout(self.dropout_rate, deterministic=not train)(values.mean((1, 2)))
        return nn.Dense(self.num_classes, dtype=self.dtype, param_dtype=self.param_dtype)(values)


def make_model(dtype: Any, **overrides: Any) -> nn.Module:
    fields = {'num_classes': CLASSES, 'dtype': dtype, 'param_dtype': dtype, **overrides}
    return Tiny(**fields) if NAME == 'tiny' else create_model(NAME, **fields)


def make_batch(step: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(step)
    return {
        'image': generator.integers(0, 256, (BATCH, 4, 4, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2),
        'label': generator.integers(0, CLASSES, BATCH, dtype=np.int32),
        'mask': np.arange(BATCH) < BATCH - 3,
    }


def make_state(dtype: Any) -> TrainState:
    """In host memory, to be put on each mesh afresh; the statistics too in `dtype`, where Flax begins in float32."""
    state = create_state(make_model(dtype), make_optimizer(OPTIMIZER, 5), jax.random.key(0), (1, 32, 32, 3), 0.9)
    return jax.tree.map(lambda leaf: np.asarray(leaf, None if leaf.dtype == jnp.int32 else dtype), state)


def distance(ours: Any, reference: Any) -> float:
    """The greatest difference of any leaf, relative to its greatest value."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True)
    return max(float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()) for a, b in pairs if np.abs(b).max() > 0)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def placed(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch on the mesh, of which a process gives the part that is its own."""
    if mesh.is_multi_process:
        size = BATCH // jax.process_count()
        batch = {name: array[jax.process_index() * size :][:size] for name, array in batch.items()}
    return shard_batch(batch, mesh)


def train(
    state: TrainState, devices: list[jax.Device], steps: int, dtype: Any
) -> tuple[list[np.ndarray], Any, Any, str]:
    """Losses, the last state, an evaluation of it, and the step's compiled text."""
    mesh, model = make_mesh(devices), make_model(dtype)
    task = classification(CLASSES, PREPROCESSING, label_smoothing=0.1, mixing=Mixing(0.2, 1.0))
    step = make_train_step(model, make_optimizer(OPTIMIZER, 5), task, ema_decay=0.9, seed=0, mesh=mesh)
    state = replicate(state, mesh)
    compiled, losses = step.lower(state, placed(make_batch(0), mesh)).compile(), []
    for number in range(steps):
        state, metrics = compiled(state, placed(make_batch(number), mesh))
        losses.append(np.asarray(metrics['loss']))
    evaluation: Any = {}
    if steps > 1:
        evaluation_step = make_evaluation_step(model, task, mesh)
        evaluation = jax.device_get(evaluation_step(state.evaluation_variables, placed(make_batch(99), mesh)))
    return losses, jax.device_get(state), evaluation, compiled.as_text()


def compare_devices(start: TrainState) -> dict[str, float]:
    choices = (jax.local_devices()[:1], jax.devices())
    one, all_of_them = (train(start, devices, 20, jnp.float64) for devices in choices)
    state = jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, start)
    first_one, first_of_all = (train(state, devices, 1, jnp.float32) for devices in choices)
    return {
        'network': NAME,
        'devices': len(choices[1]),
        'losses': distance(all_of_them[0], one[0]),
        'state': distance(all_of_them[1], one[1]),
        'evaluation': distance(all_of_them[2], one[2]),
        'count': int(one[2].sums['count']),
        'moved': distance(one[1].params, start.params),
        'float32_loss': distance(first_of_all[0], first_one[0]),
        'float32_params': distance(flat(first_of_all[1].params), flat(first_one[1].params)),
        'grouped_convolutions': first_one[3].count('group_count=') + first_of_all[3].count('group_count='),
        'all_reduces_of_one': first_one[3].count('all-reduce'),
        'all_reduces_of_all': first_of_all[3].count('all-reduce'),
    }


def pictures(state: TrainState) -> dict[str, Any]:
    """What an evaluation of 37 images by all devices finds and shows."""
    mesh, classes = make_mesh(), (*'01234', *tiny_run.CLASSES, '9')  # Untrained, it takes almost all for number 7.
    images = tiny_run.blobs('blobs', 'test')
    positions = tuple(label_positions(images.classes, classes).tolist())
    task = Classification(classes, PREPROCESSING, positions=positions)
    step = make_evaluation_step(make_model(jnp.float64), task, mesh)
    variables = replicate(state.evaluation_variables, mesh)
    found = evaluate(task, step, variables, images, BATCH, mesh, pictures=6)
    shown = [(one.image.tobytes().hex(), one.label, one.prediction) for one in (*found.mistakes, *found.right)]
    return {
        'shown': [hashlib.sha256(repr(one).encode()).hexdigest() for one in shown],
        'rows': [column.tolist() for column in (found.indices, found.labels, found.predictions)],
        'confusion': found.confusion.tolist(),
        'evaluated': found.count,
    }


def compare_forms(state: TrainState) -> dict[str, float]:
    """`pmap` and `shard_map` with a named BatchNorm against the plain pass over the whole batch."""
    plain, named = (make_model(jnp.float64, dropout_rate=0.0, batch_norm_axis_name=axis) for axis in (None, 'data'))
    params, batch, key = state.params, make_batch(0), jax.random.key(1)
    images, targets = PREPROCESSING.normalize(batch['image']), smooth_targets(batch['label'], CLASSES, 0.1)

    def form(model: Any, average: Any, params: Any, images: jax.Array, targets: jax.Array) -> Any:
        variables = {'params': params, **state.model_state}
        (loss, (_, changed)), gradients = loss_and_gradients(model, variables, images, targets, key, cross_entropy)
        return average((loss, gradients)), changed

    mean = functools.partial(jax.lax.pmean, axis_name='data')
    expected = jax.jit(functools.partial(form, plain, lambda tree: tree))(params, images, targets)
    split = [array.reshape(8, BATCH // 8, *array.shape[1:]) for array in (images, targets)]
    mapped = jax.pmap(functools.partial(form, named, mean), axis_name='data', in_axes=(None, 0, 0))(params, *split)
    sharded = jax.jit(
        jax.shard_map(
            functools.partial(form, named, mean),
            mesh=make_mesh(),
            in_specs=(PartitionSpec(), PartitionSpec('data'), PartitionSpec('data')),
            out_specs=PartitionSpec(),
            check_vma=False,
        )
    )(params, images, targets)
    unnamed = jax.pmap(functools.partial(form, plain, mean), axis_name='data', in_axes=(None, 0, 0))(params, *split)
    return {
        'pmap': max(distance(jax.tree.map(lambda leaf, i=i: leaf[i], mapped), expected) for i in (0, 7)),
        'shard_map': distance(sharded, expected),
        'pmap_without_the_name': distance(jax.tree.map(lambda leaf: leaf[0], unnamed), expected),
    }


def uneven_batch() -> dict[str, str]:
    batch = {name: array[:12] for name, array in make_batch(0).items()}
    try:
        shard_batch(batch, make_mesh())
    except ValueError as error:
        return {'uneven_batch': str(error)}
    return {'uneven_batch': ''}


def main() -> dict[str, Any]:
    state = make_state(jnp.float64)
    if jax.process_count() > 1:
        return compare_devices(state) | pictures(state)
    return compare_devices(state) | pictures(state) | compare_forms(state) | uneven_batch()


if __name__ == '__main__':
    NAME = sys.argv[1]
    with joined(lambda error: (1, traceback.format_exc())):
        print(json.dumps(main()))
