"""The same network in torch or Keras, with random weights and calibrated statistics, and its weights in our tree."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import timm
import torch
import torchvision
from flax.traverse_util import flatten_dict, unflatten_dict
from timm.models import efficientnet, mobilenetv3
from torch import nn

import flaxmobile
from flaxmobile import weights

torch.set_num_threads(1)  # its threads spin where the cores are shared, ten times slower than one alone

GENERATORS = {
    'mobilenetv1': efficientnet._gen_mobilenet_v1,
    'mobilenetv2': efficientnet._gen_mobilenet_v2,
    'mobilenetv3': mobilenetv3._gen_mobilenet_v3,
}
TORCHVISION = {
    'tv_mobilenetv3_large_100': torchvision.models.mobilenet_v3_large,
    'tv_mobilenetv3_small_100': torchvision.models.mobilenet_v3_small,
}
NETWORKS = [name for name in flaxmobile.list_models() if not name.startswith('mobilenetv5')]
"""Those that are built whole; `test_torch_mobilenetv5.py` has the others, narrow: they have 294 million parameters."""
CONVOLUTIONS = ('conv_1', 'conv_2', 'reduce', 'depthwise_start', 'expand', 'depthwise', 'squeeze_excite')
# The order in which torch holds the parts of a block, of a convolution, of attention and of a layer.
ORDER = (
    (*CONVOLUTIONS, 'pointwise', 'project', 'shortcut', 'attention', 'layer_scale'),
    ('conv', 'norm'),
    ('query', 'key', 'value', 'output'),
    ('kernel', 'scale', 'bias', 'gamma', 'mean', 'var'),
)


def timm_twin(name, **fields):
    """timm's network of our name, by its own name or by its generator's arguments."""
    if timm.is_model(name):
        return timm.create_model(name, **fields)
    if name.startswith('tf_'):
        fields |= {'pad_type': 'same', 'bn_eps': 1e-3}
        name = name.removeprefix('tf_')
    return GENERATORS[name.split('_')[0]](name, int(name.split('_')[-1]) / 100, **fields)


def variables_of(network, name, model):
    """Our variables of the twin of that name; `timm_twin` pads as TensorFlow does where timm itself never would."""
    ours_alone = name.startswith('tf_') and not timm.is_model(name)
    return weights.from_torch(network.state_dict(), model, ignore_convention=ours_alone)


def twin(name):
    """The torch network of our name: torchvision's for `tv_`, otherwise timm's."""
    torch.manual_seed(zlib.crc32(name.encode()))
    return TORCHVISION[name]() if name in TORCHVISION else timm_twin(name)


def images(batch, size, seed=0, channels=3):
    """Float64 `[batch, *size, channels]`: a coarse pattern and a colour of each image's own, and noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(batch, -(-size[0] // 16), -(-size[1] // 16), channels))
    coarse += rng.normal(size=(batch, 1, 1, channels))
    pattern = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, : size[0], : size[1]]
    return pattern + 0.3 * rng.normal(size=pattern.shape)


def to_torch(values):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(values, -1, 1)))


def from_torch(values):
    values = values.detach().numpy()
    return np.moveaxis(values, 1, -1) if values.ndim == 4 else values


@torch.no_grad()
def calibrate(network, calibration):
    """To float64 and evaluation mode: random affine parts, statistics of each norm's own input, perturbed.

    Each norm is perturbed before the next one sees its result. Were all of them perturbed after the pass, the shifts
    of a hundred norms would add up: activations grow fiftyfold, softmax takes one key alone, and rounding passes 1e-9.
    """
    network.double().train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in network.modules():
        if getattr(module, 'bias', None) is not None:
            module.bias.normal_(0, 0.2)
        if hasattr(module, 'gamma'):
            module.gamma.uniform_(0.5, 1.5)
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.reset_running_stats()
        norm.momentum = None
    hooks = [norm.register_forward_hook(perturb) for norm in norms]
    network(to_torch(calibration))
    for hook in hooks:
        hook.remove()
    return network.eval()


def perturb(norm, inputs, _):
    """A hook after a norm's training-mode pass: what it returns with its statistics perturbed."""
    norm.running_mean += 0.1 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean)
    norm.running_var *= torch.exp(0.2 * torch.randn_like(norm.running_var))
    return norm.eval().forward(*inputs)


def weights_of(network):
    """Names and arrays of a torch network, kernels with the features last."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    return [
        (name, tensor.numpy().transpose(axes[tensor.ndim]))
        for name, tensor in network.state_dict().items()
        if not name.endswith('num_batches_tracked')
    ]


def place(path):
    """Where torch holds the variable of that path."""
    return [next(group.index(part) for group in ORDER if part in group) for part in path[1:]]


def variables_like(block, weights, channels):
    """The variables of a block, which has no names to map alone, filled in torch's order; every shape has to fit."""
    shapes = flatten_dict(
        jax.eval_shape(block.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32))
    )
    assert len(shapes) == len(weights)
    filled = {}
    for path, (name, array) in zip(sorted(shapes, key=place), weights, strict=True):
        shape = shapes[path].shape
        squeezed = [tuple(side for side in sides if side != 1) for sides in (array.shape, shape)]
        assert array.shape == shape or squeezed[0] == squeezed[1], (name, array.shape, path, shape)
        filled[path] = array.reshape(shape)
    return unflatten_dict(filled)


def logits_and_maps(model, variables, batch, *, optimized=True):
    """Our logits and the map at each stride, in one compiled pass; XLA is done sooner where LLVM may leave it slow."""

    def run(variables, batch):
        logits, captured = model.apply(
            variables,
            batch,
            capture_intermediates=lambda _, method: method == 'features',
            mutable=['intermediates'],
        )
        return logits, captured['intermediates']['features'][0]

    return jax.tree.map(np.asarray, jit(run, optimized=optimized)(variables, batch))


def apply(model, variables, batch, *, optimized=True):
    return np.asarray(jit(model.apply, optimized=optimized)(variables, batch))


def jit(function, *, optimized):
    return jax.jit(function, compiler_options=None if optimized else {'xla_backend_optimization_level': 0})


def kind(model):
    """Networks of one kind differ in width, depth or form."""
    return type(model), model.convention, getattr(model, 'anti_aliasing', None)


def generation(model):
    """Networks of one generation differ in their tables as well."""
    return type(model).__module__, model.convention, getattr(model, 'anti_aliasing', None)


def alike(names, by=kind):
    """The names of networks that are the same by that function, together."""
    found = {}
    for name in names:
        found.setdefault(by(create(name)), []).append(name)
    return list(found.values())


def first_of_each_kind(names):
    """The names, those that are not the first of their kind marked thorough."""
    for first, *siblings in alike(names):
        yield first
        yield from (pytest.param(name, marks=pytest.mark.thorough) for name in siblings)


def relative(got, want):
    """The largest difference over the largest reference."""
    got = np.asarray(got)
    assert got.shape == want.shape, (got.shape, want.shape)
    return np.max(np.abs(got - want)) / np.max(np.abs(want))


def see_the_images(logits):
    """Whether two images' logits are more than 1 % apart."""
    return np.max(np.abs(logits[0] - logits[1])) > 0.01 * np.max(np.abs(logits))


def create(name, **fields):
    return flaxmobile.create_model(name, **fields)
