"""Checkpoints as torch's training scripts write them: timm's saver, torchvision's references, Lightning, wrappers."""

import argparse
import collections
import datetime
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.utils import CheckpointSaver, ModelEmaV2, ModelEmaV3, NativeScaler

import flaxmobile
from flaxmobile import weights
from flaxmobile.weights import formats

pytestmark = pytest.mark.parity

NAME = 'mobilenetv3_small_050'


@pytest.fixture(scope='module')
def networks():
    """A network in training, and another for its moving average, whose numbers differ."""
    torch.manual_seed(0)
    first, second = (timm.create_model(NAME, num_classes=3) for _ in range(2))
    return first, second


def same(found, network):
    expected = network.state_dict()
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].tobytes() == tensor.numpy().tobytes(), name


def read(path, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        file = formats.read(path, **options)
    return file, ' | '.join(str(warning.message) for warning in caught)


@pytest.mark.parametrize('ema', [ModelEmaV2, ModelEmaV3])
def test_what_timms_saver_writes(tmp_path, networks, ema):
    network, average = networks
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    args = argparse.Namespace(model=NAME, lr=0.1, data_dir=Path('/data'), sizes=[1, 2], dtype=torch.bfloat16)
    wrapped = ema(network, decay=0.9)
    wrapped.module = average
    saver = CheckpointSaver(
        network, optimizer, args, wrapped, NativeScaler(), checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path)
    )
    saver.save_checkpoint(3, metric=np.float64(71.5))
    path = tmp_path / 'checkpoint-3.pth.tar'
    file, said = read(path)
    same(file.tensors, network)
    assert file.metadata['arch'] == NAME
    assert file.metadata['epoch'] == 3
    assert said.startswith(
        f'{path}: took state_dict, not the moving average state_dict_ema (ema=True, or init_ema=True of a run); passed '
    )
    assert 'args (argparse.Namespace)' in said
    file, said = read(path, ema=True)
    same(file.tensors, average)
    assert 'took state_dict_ema, the moving average, not state_dict' in said


def test_what_torchvisions_references_write(tmp_path, networks):
    """`utils.ExponentialMovingAverage` there is an `AveragedModel`; its names begin with `module.`"""
    network, average = networks
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [torch.optim.lr_scheduler.LinearLR(optimizer), torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)],
        milestones=[1],
    )
    checkpoint = {
        'model': torch.nn.DataParallel(network).module.state_dict(),
        'optimizer': optimizer.state_dict(),
        'lr_scheduler': scheduler.state_dict(),
        'epoch': 3,
        'args': argparse.Namespace(device='cuda', output_dir='.', model_ema=True),
        'model_ema': torch.optim.swa_utils.AveragedModel(average).state_dict(),
        'scaler': torch.amp.GradScaler('cpu').state_dict(),
    }
    path = tmp_path / 'model_3.pth'
    torch.save(checkpoint, path)
    same(read(path)[0].tensors, network)
    model = flaxmobile.create_model(NAME, num_classes=3)
    for ema, expected in ((False, network), (True, average)):
        file, _ = read(path, ema=ema)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            variables = weights.from_torch(file.tensors, model)
            direct = weights.from_torch(checkpoint, model, ema=ema)
        prefix = "took the prefix 'module.' off all names"
        taken = f'took model_ema, the moving average, not model; {prefix}'
        left = 'took model, not the moving average model_ema (ema=True, or init_ema=True of a run)'
        assert [str(warning.message) for warning in caught] == ([prefix, taken] if ema else [left])
        for found in (variables, direct):
            arrays = weights.to_torch(found, model)
            for name, tensor in expected.state_dict().items():
                if tensor.ndim:
                    np.testing.assert_array_equal(arrays[name], tensor.numpy())


class Lit(torch.nn.Module):
    """As a LightningModule keeps the network that it trains."""

    def __init__(self, network):
        super().__init__()
        self.model = network


@pytest.mark.parametrize(
    ('wrap', 'prefix'),
    [
        (Lit, 'model.'),
        (torch.nn.DataParallel, 'module.'),
        (torch.optim.swa_utils.AveragedModel, 'module.'),
        (lambda network: torch.nn.DataParallel(Lit(network)), 'module.model.'),
        (lambda network: torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(network)), 'module.module.'),
        (lambda network: torch.nn.DataParallel(torch.optim.swa_utils.AveragedModel(network)), 'module.module.'),
    ],
)
@pytest.mark.parametrize('wrapped', [True, False])
def test_wrappers_are_named_and_taken_off(tmp_path, networks, wrap, prefix, wrapped):
    network = networks[0]
    model = flaxmobile.create_model(NAME, num_classes=3)
    state = wrap(network).state_dict()
    path = tmp_path / 'last.ckpt'
    torch.save({'epoch': 1, 'global_step': 9, 'state_dict': state} if wrapped else state, path)
    with pytest.warns(UserWarning, match=f"took the prefix '{prefix}' off all names"):
        variables = weights.load_variables(path, model)
    arrays = weights.to_torch(variables, model)
    for name, tensor in network.state_dict().items():
        if tensor.ndim:
            np.testing.assert_array_equal(arrays[name], tensor.numpy())


class Subclass(collections.OrderedDict):
    """A class of the script's own, which is not here when the file is read."""


@pytest.mark.parametrize('new', [True, False])
@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_whatever_scripts_keep_beside_them(tmp_path, networks, new, protocol):
    network = networks[0]
    generator = torch.Generator()
    beside = {
        'loss': torch.tensor(0.5),
        'best': np.float32(3),
        'half': np.array(3, np.float16)[()],
        'args': argparse.Namespace(a={1, 2}, b=Path('x'), c=collections.defaultdict(int, a=1), d=torch.Size([1, 2])),
        'when': datetime.datetime.now(datetime.UTC),
        'kept': Subclass(a=1),
        'dtype': torch.float16,
        'np_dtype': np.dtype('float32'),
        'device': torch.device('cpu'),
        'layout': torch.strided,
        'rng': generator.get_state(),
        'rngs': {'torch': torch.get_rng_state(), 'numpy': np.random.get_state(), 'python': random.getstate()},
        'confusion': np.eye(3),
        'dataset': collections.Counter('abc'),
        'parameter': torch.nn.Parameter(torch.ones(2)),
        'sizes': {name: tensor.shape for name, tensor in network.state_dict().items()},
        'complex': torch.ones(2, dtype=torch.complex64) if new else None,
        'sparse': torch.eye(3).to_sparse(),
        'short': torch.ones(2, dtype=torch.uint16) if new else None,
        'criterion': torch.nn.CrossEntropyLoss(weight=torch.ones(3)),
    }
    path = tmp_path / 'checkpoint.pth'
    for root in ({**beside, 'model': network.state_dict()}, {'net': network.state_dict(), **beside}):
        torch.save(root, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
        same(read(path)[0].tensors, network)
