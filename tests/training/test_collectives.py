"""What eight devices say to each other in a step: read off the compiled program."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from networks import classification

from flaxmobile import layers
from flaxmobile.analysis.footprint import Collective, collectives
from flaxmobile.data import Preprocessing
from flaxmobile.inspection.rehearsal import placed
from flaxmobile.models import create_model
from flaxmobile.models.network import variable_shapes
from flaxmobile.parallel.mesh import make_mesh
from flaxmobile.training.state import start_state
from flaxmobile.training.step import make_train_step


class EveryBlock(layers.Block):
    """Each kind of block once, with all that it can do."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        fields, drop = layers.common_fields(self), {'stochastic_depth_rate': 0.2}
        uib = {'start_kernel_size': 3, 'kernel_size': 3, 'expansion_ratio': 2}
        values = self.conv_norm('stem', features=8, kernel_size=3, strides=2)(images, train=train)
        for block in (
            layers.DepthwiseSeparable(features=8, **fields),
            layers.InvertedResidual(features=8, expansion_ratio=2, squeeze_excite=True, **drop, **fields),
            layers.ResidualBlock(features=16, strides=2, **fields),
            layers.FusedInvertedBottleneck(features=16, expansion_ratio=2, **drop, **fields),
            layers.UniversalInvertedBottleneck(features=16, **uib, **drop, **fields),
            layers.MultiQueryAttention(heads=2, key_features=4, key_strides=2, **drop, **fields),
        ):
            values = block(values, train=train)
        values = layers.Dropout(0.2, deterministic=not train)(values.mean((1, 2)))
        return layers.Dense(self.num_classes, dtype=self.dtype)(values)


def exchanges(model: Any, image_size: int, devices: int = 8) -> tuple[int, tuple[Collective, ...]]:
    """How many BatchNorms `model` has, and the collectives of its step on so many devices."""
    mesh, optimizer = make_mesh(jax.devices()[:devices]), optax.sgd(0.1, momentum=0.9)
    task = classification(model.num_classes, Preprocessing(image_size=image_size), label_smoothing=0.1)
    step = make_train_step(model, optimizer, task, ema_decay=0.9, seed=0, mesh=mesh)
    shape = (image_size, image_size, 3)
    state = jax.eval_shape(lambda variables: start_state(variables, optimizer, 0.9), variable_shapes(model))
    images = {'image': jax.ShapeDtypeStruct((16, *shape), jnp.uint8), 'label': jax.ShapeDtypeStruct((16,), jnp.int32)}
    lowered = step.lower(placed(state, mesh, jax.P()), placed(images, mesh, jax.P('data')))
    text = lowered.compile({'xla_backend_optimization_level': 0}).as_text()
    return len(jax.tree.leaves(state.model_state)) // 2, collectives(text)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_two_exchanges_a_batch_norm_and_one_for_the_gradients(dtype: Any) -> None:
    """Flax's BatchNorm, whose backward pass has three sums that wait for each other, costs more."""
    norms, found = exchanges(EveryBlock(dtype=dtype), 32)
    assert norms == 1 + 2 + 3 + 3 + 2 + 4 + 3
    assert [each.kind for each in found] == ['all-reduce']
    assert found[0].number <= 2 * norms + 1


@pytest.mark.slow
@pytest.mark.parametrize(
    'name',
    [
        pytest.param('mobilenetv2_100', marks=pytest.mark.thorough),
        pytest.param('mobilenetv3_large_100', marks=pytest.mark.thorough),
        pytest.param('mobilenetv4_hybrid_medium', marks=pytest.mark.thorough),
    ],
)
def test_whole_networks(name: str) -> None:
    norms, found = exchanges(create_model(name), 64)
    assert [each.kind for each in found] == ['all-reduce']
    assert found[0].number <= 2 * norms + 1
