"""The steps of ImageNet configs, compiled for a TPU that is not there. Needs libtpu."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn

from benchmarks.jax_contenders import make_plain_step
from benchmarks.plain_flax import PlainNetwork
from flaxmobile.analysis import counts, tpu
from flaxmobile.analysis.footprint import Footprint, Report, footprint
from flaxmobile.analysis.latency import in_training
from flaxmobile.inspection.rehearsal import OPTIMIZER, placed, planned_step
from flaxmobile.models import create_model
from flaxmobile.models.network import variable_shapes
from flaxmobile.parallel.mesh import make_mesh
from flaxmobile.training.config import load_config
from flaxmobile.training.state import start_state

TARGET = 'tpu:v5e:2x2'


def plain_step(network: nn.Module, model: nn.Module, piece: tpu.Slice, batch_size: int) -> Footprint:
    """Of the step that a Flax user writes, SGD and nothing else, for `model`, which has the variables of `network`."""
    mesh = make_mesh(piece.devices)
    state = jax.eval_shape(lambda variables: start_state(variables, OPTIMIZER, None), variable_shapes(network))
    batch = {
        'image': jax.ShapeDtypeStruct((batch_size, 224, 224, 3), jnp.bfloat16),
        'label': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    lowered = make_plain_step(model).lower(placed(state, mesh, jax.P()), placed(batch, mesh, jax.P('data')))
    return footprint(tpu.compile_for(piece, lowered))


@pytest.mark.tpu
@pytest.mark.timeout(3600)
def test_no_more_bytes_and_flops_than_plain_flax() -> None:
    """XLA's own convolutions, laid out as those of `nn.Conv` are: to a thousandth, the bytes of small sums."""
    piece, dtype = tpu.open_slice(TARGET), jnp.bfloat16
    network = create_model('mobilenetv2_100', dtype=dtype, dropout_rate=0.0)
    ours, plain = (plain_step(network, model, piece, 512) for model in (network, PlainNetwork(network, dtype)))
    assert ours.bytes_moved <= 1.001 * plain.bytes_moved
    assert ours.flops <= plain.flops
    assert ours.memory.temporaries <= plain.memory.temporaries


@pytest.mark.tpu
@pytest.mark.thorough
@pytest.mark.timeout(3600)
def test_recomputed_blocks_need_less_memory() -> None:
    """`remat`: less memory, for at most half as many FLOPs more; `pytest -s` shows the figures."""
    piece = tpu.open_slice(TARGET)
    network = create_model('mobilenetv2_100', dtype=jnp.bfloat16, dropout_rate=0.0)
    plain, again = (plain_step(network, model, piece, 512) for model in (network, network.clone(remat=True)))
    for name, needed in (('plain', plain), ('remat', again)):
        print(name, f'{needed.memory.temporaries / 1e9:.3f} GB', f'{needed.flops:.4g} FLOPs', needed.bytes_moved)
    assert again.memory.temporaries < plain.memory.temporaries
    assert plain.flops < again.flops < 1.5 * plain.flops


@pytest.mark.tpu
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ('name', 'parameters'),
    [  # torchvision's own counts of both networks.
        pytest.param('imagenet_mobilenetv2', 3_504_872, marks=pytest.mark.thorough),
        ('imagenet_mobilenetv3_large', 5_483_032),
    ],
)
def test_a_step_on_four_chips(name: str, parameters: int) -> None:
    """It fits; two exchanges a BatchNorm and one for the gradients; no product is lost."""
    config, piece = replace(load_config(name), batch_size=512), tpu.open_slice(TARGET)
    step, state, batch = planned_step(config, 1000, piece.devices)
    assert optax.tree.size(state.params) == parameters
    needed = footprint(tpu.compile_for(piece, step.lower(state, batch)))
    figures = Report(name, piece, config.batch_size, parameters, needed).as_dict()
    assert figures['memory_needed_of_a_chip'] < figures['memory_of_a_chip']
    rows = in_training(counts.count_layers(config.build_model(1000), config.preprocessing.image_size))
    multiply_adds = sum(row.multiply_adds for row in rows)
    assert 2 * multiply_adds < figures['flops_per_image'] < 4 * multiply_adds
    norms = len(jax.tree.leaves(state.model_state)) // 2
    exchanges = {each.kind: each.number for each in needed.collectives}
    assert exchanges.keys() == {'all-reduce'}
    assert exchanges['all-reduce'] <= 2 * norms + 1


def test_libtpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpu.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"tpu:v5e:2x2 needs libtpu: pip install 'flaxmobile\[tpu\]'"):
        tpu.open_slice(TARGET)


@pytest.mark.parametrize('target', ['v5e:2x2', 'tpu:v5e', 'tpu:v3:2x2', 'tpu:v5e:2', 'gpu:h100:8'])
def test_a_target_that_is_none(target: str) -> None:
    with pytest.raises(ValueError, match=f"unknown target '{target}': there are tpu:v4:2x2x1, tpu:v5e:2x2, tpu:v5p:"):
        tpu.open_slice(target)
