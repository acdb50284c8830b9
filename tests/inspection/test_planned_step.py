"""The step of a configuration for devices that are not there: exported for CUDA, compiled for TPUs."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax import export

from flaxmobile.inspection.rehearsal import planned_step
from flaxmobile.training.config import TrainConfig

SMALL = TrainConfig(
    model='mobilenetv1_025', dataset='none', batch_size=16, dropout_rate=0.2, ema_decay=0.9
).with_options(image_size=32)
QUICKLY = {'xla_backend_optimization_level': 0}


@pytest.mark.slow
@pytest.mark.parametrize('devices', [pytest.param(1, marks=pytest.mark.thorough), 8])
def test_an_exported_step_for_cpu_and_cuda(devices: int) -> None:
    """A CPU runs its half of the same artefact, to the numbers of the step itself."""
    step, state, batch = planned_step(SMALL, 10, jax.devices()[:devices])
    exported = export.export(step, platforms=('cpu', 'cuda'))(state, batch)
    assert (exported.platforms, exported.nr_devices) == (('cpu', 'cuda'), devices)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        generator = np.random.default_rng(leaf.shape)
        values = generator.integers(0, 10, leaf.shape) if leaf.dtype.kind in 'iu' else generator.random(leaf.shape)
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    arguments = jax.tree.map(fill, (state, batch))
    results = [
        jax.device_get(jax.jit(function).lower(*arguments).compile(QUICKLY)(*arguments))
        for function in (exported.call, step)
    ]
    assert results[0][0].step == arguments[0].step + 1
    for got, want in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('devices', [1, pytest.param(8, marks=pytest.mark.slow)])
def test_the_step_exports_for_cuda(devices: int) -> None:
    """XLA's own convolutions there, and the state donated."""
    step, state, batch = planned_step(SMALL, 10, jax.devices()[:devices])
    exported = export.export(step, platforms=('cuda',))(state, batch)
    text, depthwise = exported.mlir_module(), 13
    assert (exported.platforms, exported.nr_devices) == (('cuda',), devices)
    assert len(re.findall(r'(?:feature|batch)_group_count = (?:8|16|32|64|128|256) ', text)) == 3 * depthwise
    assert len(re.findall(r'tf.aliasing_output|jax.buffer_donor', text)) == len(jax.tree.leaves(state))


def test_a_batch_that_devices_cannot_share() -> None:
    with pytest.raises(ValueError, match='batch_size 12 cannot be shared evenly by 8 devices: use a multiple of 8'):
        planned_step(replace(SMALL, batch_size=12), 10, jax.devices()[:8])


def test_a_teacher_is_not_left_out_unsaid() -> None:
    with pytest.raises(ValueError, match='teacher=None leaves it out'):
        planned_step(replace(SMALL, teacher='mobilenetv4_conv_small'), 10, jax.devices()[:1])
