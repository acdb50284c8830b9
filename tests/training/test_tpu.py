"""The steps of ImageNet configs, compiled for a TPU that is not there. Needs libtpu."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks.jax_contenders import make_plain_step
from benchmarks.plain_flax import PlainNetwork
from flaxmobile.analysis import counts, tpu
from flaxmobile.analysis.footprint import Footprint, Report, footprint
from flaxmobile.analysis.latency import training_multiply_adds
from flaxmobile.models.network import variable_shapes
from flaxmobile.training.config import TrainConfig, load_config
from flaxmobile.training.rehearsal import OPTIMIZER, placed, planned_step
from flaxmobile.training.state import start_state
from flaxmobile.training.step import make_mesh

TARGET = 'tpu:v5e:2x2'


def plain(config: TrainConfig, piece: tpu.Slice) -> Footprint:
    """Of the step that a Flax user writes for the same network: `nn.Conv`, `nn.BatchNorm`, SGD, nothing else."""
    network, mesh = config.build_model(1000), make_mesh(piece.devices)
    state = jax.eval_shape(lambda variables: start_state(variables, OPTIMIZER, None), variable_shapes(network))
    shape = (config.batch_size, config.image_size, config.image_size, config.channels)
    batch = {
        'image': jax.ShapeDtypeStruct(shape, config.dtype),
        'label': jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }
    step = make_plain_step(PlainNetwork(network, jnp.dtype(config.dtype)))
    lowered = step.lower(placed(state, mesh, jax.P()), placed(batch, mesh, jax.P('data')))
    return footprint(tpu.compile_for(piece, lowered))


def ours(name: str, piece: tpu.Slice) -> tuple[TrainConfig, int, Report]:
    """The config, how many BatchNorms its network has, and what its step needs."""
    config = replace(load_config(name), batch_size=512)
    step, state, batch = planned_step(config, 1000, piece.devices)
    needed = footprint(tpu.compile_for(piece, step.lower(state, batch)))
    norms = len(jax.tree.leaves(state.batch_stats)) // 2
    return config, norms, Report(name, piece, config.batch_size, optax.tree.size(state.params), needed)


@pytest.mark.tpu
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ('name', 'parameters', 'beside_plain_flax'),
    # torchvision's own counts of both networks.
    [('imagenet_mobilenetv2', 3_504_872, True), ('imagenet_mobilenetv3_large', 5_483_032, False)],
)
def test_a_step_on_four_chips(name: str, parameters: int, beside_plain_flax: bool) -> None:
    """It fits; two exchanges a BatchNorm and one for the gradients; no more bytes and FLOPs than plain Flax's."""
    piece = tpu.open_slice(TARGET)
    config, norms, report = ours(name, piece)
    assert report.parameters == parameters
    figures = report.as_dict()
    assert figures['memory_needed_of_a_chip'] < figures['memory_of_a_chip']
    multiply_adds = training_multiply_adds(counts.layers(config.build_model(1000), config.image_size))
    assert figures['flops_per_image'] > 2 * multiply_adds
    exchanges = {each.kind: each.number for each in report.needed.collectives}
    assert exchanges.keys() == {'all-reduce'}
    assert exchanges['all-reduce'] <= 2 * norms + 1
    if beside_plain_flax:  # A third compilation of minutes: for one network.
        others = plain(config, piece)
        assert report.needed.bytes_moved <= others.bytes_moved
        assert report.needed.flops <= others.flops


def test_libtpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpu.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"tpu:v5e:2x2 needs libtpu: pip install 'flaxmobile\[tpu\]'"):
        tpu.open_slice(TARGET)


@pytest.mark.parametrize('target', ['v5e:2x2', 'tpu:v5e', 'tpu:v3:2x2', 'tpu:v5e:2', 'gpu:h100:8'])
def test_a_target_that_is_none(target: str) -> None:
    with pytest.raises(ValueError, match=f"unknown target '{target}': there are tpu:v4:2x2x1, tpu:v5e:2x2, tpu:v5p:"):
        tpu.open_slice(target)
