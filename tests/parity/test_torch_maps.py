"""Names of every registered network against its torch twin's, both ways and to the bit."""

import io
import re
from pathlib import Path

import jax
import numpy as np
import peers
import pytest
import timm
import torch
import torchvision
from flax.traverse_util import flatten_dict
from test_torch import NO_TWIN

import flaxmobile
from flaxmobile.weights import from_torch, load_file, origins, to_torch

pytestmark = pytest.mark.parity


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def assert_same(got, want):
    """Names, order, types and bits."""
    assert list(got) == list(want)
    for name, values in want.items():
        assert got[name].dtype == values.dtype, name
        assert np.asarray(got[name]).tobytes() == np.asarray(values).tobytes(), name


@torch.no_grad()
def assert_maps_fit(network, model, layout=None, ignore_convention=False):
    """Random weights from the twin and back, which takes them strictly, and once more."""
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_()
    theirs = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    variables = from_torch(theirs, model, ignore_convention=ignore_convention)
    arrays = to_torch(variables, model, layout)
    assert_same(tensors(arrays), theirs)
    network.load_state_dict(tensors(arrays), strict=True)
    assert_same(flat(from_torch(arrays, model, ignore_convention=ignore_convention)), flat(variables))


def flat(variables):
    return dict(sorted(flatten_dict(variables, sep='/').items()))


@pytest.mark.filterwarnings('ignore:.* the network of timm')
@pytest.mark.parametrize('name', list(peers.first_of_each_kind(peers.NETWORKS)))
def test_state_dict_of_every_network(name):
    if name in NO_TWIN:
        pytest.skip(NO_TWIN[name])
    # timm's generators make these on request; timm has no such network, and never pads so under these names.
    ours_alone = name.startswith('tf_') and not timm.is_model(name)
    assert_maps_fit(peers.twin(name), flaxmobile.create_model(name), ignore_convention=ours_alone)


@pytest.mark.parametrize('name', [name for name in peers.NETWORKS if timm.is_model(name)])
def test_what_is_known_of_timm_s_padding_and_epsilon(name):
    """Read off timm's network; and both forms of a network are those that timm has under two names."""
    with torch.device('meta'):
        network = timm.create_model(name)
    same = any('Same' in type(module).__name__ for module in network.modules())
    (epsilon,) = {module.eps for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    known = {(rule.padding, rule.epsilon) for rule in origins.of_timm(flaxmobile.create_model(name))}
    assert ('same' if same else 'symmetric', epsilon) in known
    assert len(known) == 1 + timm.is_model(f'tf_{name.removeprefix("tf_")}')


@pytest.mark.parametrize('name', [name for name in flaxmobile.list_models('t[fv]_*') if not timm.is_model(name)])
def test_timm_has_no_network_in_tensorflow_s_form_where_we_say_so(name):
    assert not origins.in_timm(name)


@pytest.mark.parametrize('width', [35, 50, 75, 100, 130, 140])
def test_state_dict_of_torchvision_mobilenetv2(width):
    network = torchvision.models.mobilenet_v2(width_mult=width / 100)
    assert_maps_fit(network, flaxmobile.create_model(f'mobilenetv2_{width:03d}'), 'torchvision')


@pytest.mark.parametrize('num_classes', [0, 37])
@pytest.mark.parametrize(
    'name', ['mobilenetv1_100h', 'mobilenetv2_050', 'mobilenetv3_rw', 'mobilenetv4_conv_small_035']
)
def test_other_numbers_of_classes(name, num_classes):
    fields = {'num_classes': num_classes}
    assert_maps_fit(peers.timm_twin(name, **fields), flaxmobile.create_model(name, **fields))


@pytest.mark.parametrize('channels', [1, 4])
def test_other_numbers_of_channels(channels):
    network = peers.timm_twin('mobilenetv3_small_050', in_chans=channels)
    variables = from_torch(network.state_dict(), flaxmobile.create_model('mobilenetv3_small_050'))
    kernel = np.asarray(variables['params']['stem']['conv']['kernel'])
    assert kernel.tobytes() == network.conv_stem.weight.detach().numpy().transpose(2, 3, 1, 0).tobytes()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_types_of_torch(dtype):
    network = torchvision.models.mobilenet_v3_small(num_classes=10).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    model = flaxmobile.create_model('tv_mobilenetv3_small_100', num_classes=10)
    with jax.enable_x64(True):
        arrays = to_torch(from_torch(network.state_dict(), model), model)
    expected = {
        name: tensor if tensor.dtype == torch.int64 else tensor.to(wide)
        for name, tensor in network.state_dict().items()
    }
    assert_same(tensors(arrays), expected)


def test_checkpoints_of_training_scripts():
    network = torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=10)
    model = flaxmobile.create_model('mobilenetv2_035', num_classes=10)
    expected = flat(from_torch(network.state_dict(), model))
    file = io.BytesIO()
    parallel = torch.nn.DataParallel(torch.compile(network))
    torch.save({'epoch': 3, 'state_dict': parallel.state_dict()}, file)
    file.seek(0)
    assert_same(flat(from_torch(torch.load(file), model)), expected)
    parameters_on_a_tape = dict(network.named_parameters()) | dict(network.named_buffers())
    assert_same(flat(from_torch(parameters_on_a_tape, model)), expected)


def test_a_checkpoint_of_timm_s_script_says_its_network(tmp_path):
    """`arch` is what timm's `CheckpointSaver` writes; without it two networks fit alike."""
    path, name = tmp_path / 'checkpoint.pth.tar', 'tf_mobilenetv3_small_minimal_100'
    state = timm.create_model(name, num_classes=3).state_dict()
    torch.save({'epoch': 1, 'arch': name, 'state_dict': state}, path)
    opened = load_file(path)
    assert (opened.name, opened.num_classes) == (name, 3)
    assert f'its `arch` says {name}' in opened.assumed
    torch.save({'epoch': 1, 'state_dict': state}, path)
    with pytest.raises(ValueError, match=r'fit mobilenetv3_small_minimal_100, tf_mobilenetv3_small_minimal_100 alike'):
        load_file(path)


def test_loaded_variables_share_no_memory_with_torch():
    network = torchvision.models.mobilenet_v2(width_mult=0.35, num_classes=10)
    variables = from_torch(network.state_dict(), flaxmobile.create_model('mobilenetv2_035', num_classes=10))
    with torch.no_grad():
        network.classifier[1].bias.fill_(7)
        network.features[0][1].running_var.fill_(7)
    assert not np.any(np.asarray(variables['params']['classifier']['bias']) == 7)
    assert not np.any(np.asarray(variables['batch_stats']['stem']['norm']['var']) == 7)


def test_the_document_s_code_runs():
    document = Path(__file__).parents[2] / 'docs' / 'porting.md'
    found: dict = {}
    for program in re.findall(r'```python\n(.*?)```', document.read_text(), re.DOTALL):
        exec(program, found)
    assert found['initial']['params'].keys() - found['variables']['params'].keys() == {'classifier'}
