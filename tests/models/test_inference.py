"""BatchNorm folded into the convolutions, and the compiled inference path, against the network as it stands."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks.random_variables import random_variables
from flaxmobile import compile_inference, create_model
from flaxmobile.layers import fold_batch_norm
from flaxmobile.models import MobileNetV2, MobileNetV3Small, MobileNetV4HybridMedium, inference
from flaxmobile.models.mobilenetv4 import attention, extra_dw, fused, inverted_bottleneck

SIZE, CLASSES = 33, 5


def relative(got, want):
    assert got.shape == want.shape
    return np.max(np.abs(np.asarray(got, np.float64) - np.asarray(want))) / np.max(np.abs(want))


def statistics_of(tree):
    """Where a mean or variance is left, without `batch_stats`."""
    return {jax.tree_util.keystr(path[:-1], simple=True, separator='/') for path, _ in jax.tree.leaves_with_path(tree)}


class UniversalBlocks(MobileNetV4HybridMedium):
    """Every kind of layer of the fourth generation."""

    table = (
        (fused(3, 4, 16, s=2),),
        (extra_dw(3, 5, 2, 24, s=2), attention(2, 8, 2), inverted_bottleneck(3, 2, 24)),
    )


class FirstBlocks(MobileNetV3Small):
    """Squeeze-excite, both activations, blocks with and without expansion."""

    table = MobileNetV3Small.table[:2]


class OneBlock(MobileNetV2):
    """As little as there can be to compile."""

    def stages(self):
        return super().stages()[:1]


NETWORKS = {
    'one block': OneBlock(num_classes=CLASSES, width_multiplier=0.35),
    'first blocks': FirstBlocks(num_classes=CLASSES, width_multiplier=0.35),
    'universal blocks': UniversalBlocks(num_classes=CLASSES, width_multiplier=0.5, convention='torch'),
}
WHOLE = (
    'mobilenetv1_025',
    'tf_mobilenetv2_035',
    'tv_mobilenetv3_large_100',
    'mobilenetv3_small_050',
    'mobilenetv4_conv_small_035',
    'mobilenetv4_hybrid_medium_075',
    'mobilenet_edgetpu_100',
    'mobilenet_edgetpu_v2_xs',
    'mnasnet_050',
    'semnasnet_050',
)


def marked(name):
    of_their_kind = ('tv_mobilenetv3_large_100', 'mobilenetv4_hybrid_medium_075', 'mobilenet_edgetpu_v2_xs')
    return [pytest.mark.slow] if name in of_their_kind else [pytest.mark.slow, pytest.mark.thorough]


@pytest.mark.parametrize('name', [*NETWORKS, *(pytest.param(name, marks=marked(name)) for name in WHOLE)])
def test_the_folded_network_equals_the_network(name):
    model = NETWORKS[name] if name in NETWORKS else create_model(name, num_classes=CLASSES)
    with jax.enable_x64(True):
        images = np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3))
        variables = random_variables(model, images.shape, dtype=np.float64)
        folded = jax.jit(lambda variables: model.apply(fold_batch_norm(model, variables, images), images))
        got, want = folded(variables), jax.jit(model.apply)(variables, images)
        assert np.ptp(want, axis=0).min() > 0
        assert relative(got, want) <= 1e-10


def of_its_kind(name):
    """The blocks have every kind of layer; beside them the first generation, attention and groups."""
    kept = ('mobilenetv1_025', 'mobilenetv4_hybrid_medium_075', 'mobilenet_edgetpu_v2_xs')
    return pytest.param(name, marks=() if name in kept else pytest.mark.thorough)


@pytest.mark.parametrize('name', [*NETWORKS, *map(of_its_kind, WHOLE)])
def test_statistics_are_left_only_where_no_convolution_is_before_them(name):
    model = NETWORKS[name] if name in NETWORKS else create_model(name, num_classes=CLASSES)
    images = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    folded, left = jax.eval_shape(lambda variables: fold_batch_norm(model, variables, images), variables), set()
    for path in statistics_of(variables['batch_stats']):
        parent, _, layer = path.rpartition('/')
        if not (layer == 'norm' and has(variables['params'], f'{parent}/conv')):
            left.add(path)
    assert statistics_of(folded.get('batch_stats', {})) == left
    assert bool(left) == (name == 'universal blocks' or 'hybrid' in name)


def has(tree, path):
    for name in path.split('/'):
        if name not in tree:
            return False
        tree = tree[name]
    return True


def small(name='one block', batch=1):
    model = NETWORKS[name]
    images = np.random.default_rng(0).normal(size=(batch, SIZE, SIZE, 3)).astype(np.float32)
    return model, random_variables(model, images.shape), images


def test_the_folded_variables_are_those_of_convolutions_with_a_bias():
    model, variables, images = small('universal blocks')
    folded = jax.eval_shape(lambda variables: fold_batch_norm(model, variables, images), variables)
    folded = flatten_dict(jax.tree.map(jnp.shape, folded['params']))
    want = flatten_dict(jax.tree.map(jnp.shape, variables['params']))
    for *layer, last, name in list(want):
        if last == 'conv':
            want[*layer, 'folded', name] = want.pop((*layer, 'conv', name))
            want[*layer, 'folded', 'bias'] = want.pop((*layer, 'norm', 'bias'))
            del want[*layer, 'norm', 'scale']
    assert folded == want


def test_folding_leaves_what_it_was_given_as_it_was():
    model, variables, images = small()
    before = jax.tree.map(np.array, variables)
    fold_batch_norm(model, variables, images)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_folding_twice_is_refused():
    model, variables, images = small()
    folded = fold_batch_norm(model, variables, images)
    with pytest.raises(
        ValueError, match='of this OneBlock is folded already: block_00/depthwise, block_00/project, head'
    ):
        fold_batch_norm(model, folded, images)


def test_folding_is_part_of_a_program():
    model, variables, images = small()

    @jax.jit
    def logits(variables, images):
        return model.apply(fold_batch_norm(model, variables, images), images)

    assert relative(logits(variables, images), jax.jit(model.apply)(variables, images)) <= 1e-5


@pytest.mark.parametrize('batch', [1, 3, 4, 9, *(pytest.param(batch, marks=pytest.mark.thorough) for batch in (2, 5))])
def test_compiled_inference_equals_apply(batch, monkeypatch):
    """Groups of four images and a rest: at 224 x 224 pixels by itself, here by the number of pixels in a group."""
    monkeypatch.setattr(inference, 'PIXELS', 2 * SIZE * SIZE)
    model, variables, images = small(batch=batch)
    infer = compile_inference(model, variables, batch_size=batch, image_size=SIZE)
    got, want = infer(images), jax.jit(model.apply)(variables, images)
    assert got.dtype == want.dtype
    assert relative(got, want) <= 1e-5


class Users(nn.Module):
    """A module that this library knows nothing about, on one channel."""

    @nn.compact
    def __call__(self, images):
        outputs = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3))(images))
        return nn.Dense(CLASSES)(nn.relu(outputs).mean(axis=(1, 2)))


def test_compiled_inference_of_a_module_of_the_user_s():
    model, images = Users(), np.random.default_rng(0).normal(size=(3, 7, 7, 1)).astype(np.float32)
    variables = random_variables(model, images.shape)
    infer = compile_inference(model, variables, batch_size=3, image_size=7, channels=1)
    assert relative(infer(images), jax.jit(model.apply)(variables, images)) <= 1e-5


@pytest.mark.parametrize('shape', [(2, SIZE, SIZE, 3), (1, SIZE + 1, SIZE, 3), (1, SIZE, SIZE, 1), (SIZE, SIZE, 3)])
def test_images_of_another_shape_are_refused(shape):
    infer = compile_inference(Users(), users_variables(), batch_size=1, image_size=SIZE)
    with pytest.raises(ValueError, match=rf'compiled for images float32\[1, {SIZE}, {SIZE}, 3\], was given float32'):
        infer(np.zeros(shape, np.float32))


def test_images_of_another_type_are_refused():
    infer = compile_inference(Users(), users_variables(), batch_size=1, image_size=SIZE)
    with pytest.raises(ValueError, match='was given bfloat16'):
        infer(jnp.zeros((1, SIZE, SIZE, 3), jnp.bfloat16))


def users_variables():
    return random_variables(Users(), (1, SIZE, SIZE, 3))


def test_a_compiled_program_does_not_follow_its_variables():
    variables, images = users_variables(), np.ones((1, SIZE, SIZE, 3), np.float32)
    infer = compile_inference(Users(), variables, batch_size=1, image_size=SIZE)
    before = infer(images)
    variables['params']['Dense_0']['bias'] = variables['params']['Dense_0']['bias'] + 1
    np.testing.assert_array_equal(infer(images), before)


def test_a_folded_network_cannot_be_trained():
    model, variables, images = small(batch=1)
    folded = fold_batch_norm(model, variables, images)
    with pytest.raises(ValueError, match='BatchNorm is folded'):
        model.apply(folded, images, train=True, mutable=['batch_stats'])


def test_options_that_this_xla_does_not_know_are_left_out(monkeypatch):
    monkeypatch.setattr(inference, 'CPU_OPTIONS', {**inference.CPU_OPTIONS, 'xla_cpu_of_the_future': '1'})
    inference.compiler_options.cache_clear()
    assert 'xla_cpu_of_the_future' not in inference.compiler_options('cpu')
    inference.compiler_options.cache_clear()


@pytest.mark.parametrize('transformation', [jax.jit, jax.vmap, lambda infer: jax.grad(lambda x: infer(x).sum())])
def test_a_compiled_program_under_a_transformation_says_what_to_use(transformation):
    infer = compile_inference(Users(), users_variables(), batch_size=1, image_size=SIZE)
    with pytest.raises(ValueError, match=r'compiled already: use model.apply'):
        transformation(infer)(np.zeros((1, SIZE, SIZE, 3), np.float32))
    with pytest.raises(ValueError, match='was given a list'):
        infer([])


@pytest.mark.parametrize('sizes', [{'batch_size': 0}, {'batch_size': 2.5}, {'batch_size': 1, 'image_size': -1}])
def test_sizes_that_cannot_be(sizes):
    with pytest.raises(ValueError, match='it has to be a whole number, 1 or more'):
        compile_inference(Users(), users_variables(), **sizes)


def test_variables_that_are_not_all_there():
    model, variables, images = small()
    with pytest.raises(ValueError, match=r"hold \['params'\]: batch_stats are missing"):
        fold_batch_norm(model, {'params': variables['params']}, images)
