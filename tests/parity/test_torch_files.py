"""torch's own reading of the files that we read and write without it."""

import os
import warnings
from collections import OrderedDict
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from damage import mutants

from flaxmobile.weights import formats
from flaxmobile.weights.formats import torch_pickle

pytestmark = pytest.mark.parity

TYPES = ('float32', 'float64', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')
FORMATS = [(new, protocol) for new in (True, False) for protocol in (2, 3, 4, 5)]


def tensors():
    """Every type; shared, transposed, strided, expanded, empty and 0-d tensors; parameters and buffers."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 5, 4, generator=generator)
    numbers = torch.randint(0, 2, (3, 4), generator=generator)
    return OrderedDict(
        {f'type.{name}': numbers.to(getattr(torch, name)) for name in TYPES},
        base=base,
        same=base,
        alias=base.detach(),
        transposed=base.permute(2, 0, 1),
        strided=base[1::2, :, ::3],
        inner=base[4, 3],
        last=base[5, 4, 3],
        channels_last=torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
        parameter=torch.nn.Parameter(torch.randn(7, generator=generator)),
        frozen=torch.nn.Parameter(torch.tensor([float('nan'), float('inf'), -0.0]), requires_grad=False),
        scalar=torch.tensor(2.5),
        empty=torch.empty(3, 0, 2),
        nothing=torch.empty(0),
    )


def same(found, expected):
    """Bit for bit; torch has no bytes of a bfloat16 but as integers."""
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        tensor = tensor.detach()
        bits = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
        assert str(tensor.dtype) == f'torch.{found[name].dtype.name}', name
        assert found[name].shape == tuple(tensor.shape), name
        assert found[name].tobytes() == bits.contiguous().numpy().tobytes(), name


@pytest.mark.parametrize(('new', 'protocol'), FORMATS)
def test_what_torch_saves(tmp_path, new, protocol):
    path = tmp_path / 'weights.pth'
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).half()
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 3, 8, 8).half()).float().sum().backward()
    optimizer.step()
    state = network.state_dict()
    checkpoint = {'epoch': 3, 'best': 0.5, 'arch': 'x', 'optimizer': optimizer.state_dict()}
    for saved, expected, metadata in (
        (tensors(), tensors(), {}),
        (dict(tensors()), tensors(), {}),
        (state, state, {}),
        (checkpoint | {'state_dict': state}, state, {'epoch': 3, 'best': 0.5, 'arch': 'x'}),
        ({'model': state, 'lr': None}, state, {}),
        ({'net': state, 'acc': 91.5}, state, {'acc': 91.5}),
    ):
        torch.save(saved, path, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
        with warnings.catch_warnings(action='ignore'):  # It says that the optimizer is passed over.
            file = formats.read(path)
        assert (file.kind, file.metadata) == ('torch', metadata)
        same(file.tensors, expected)


@pytest.mark.parametrize('new', [True, False])
def test_what_torch_saves_and_we_refuse(tmp_path, new):
    path = tmp_path / 'weights.pth'
    network = torch.nn.Linear(2, 2)
    for saved, name in (
        (network, 'torch.nn.modules.linear.Linear'),
        ({'a': torch.ones(2, dtype=torch.complex64)}, 'torch.ComplexFloatStorage'),
        ({'a': torch.ones(2, dtype=torch.uint16)}, 'torch._utils._rebuild_tensor_v3'),
        (
            {'a': torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)},
            'torch.(_utils._rebuild_qt|QInt8S)',
        ),
        ({'a': torch.ones(2).to_sparse()}, 'torch._utils._rebuild_sparse_tensor'),
        ({'a': torch.ones(2), 'b': torch.ones(2, device='meta')}, 'torch._utils._rebuild_meta_tensor_no_storage'),
        ({'model': network, 'statistics': {'mean': torch.ones(2)}}, 'torch.nn.modules.linear.Linear'),
    ):
        torch.save(saved, path, _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match=rf'weights\.pth: refused: it asks for {name}'):
            formats.read(path)
    torch.save({'a': torch.ones(1).expand(1000)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match=r'claims more than is there: shape \(1000,\), strides \(0,\)'):
        formats.read(path)


def test_torch_reads_what_we_write(tmp_path):
    path = tmp_path / 'weights.pth'
    rng = np.random.default_rng(0)
    arrays = {f'type.{name}': rng.integers(0, 2, (3, 4)).astype(name) for name in TYPES if name != 'bfloat16'}
    arrays |= {
        'bfloat': rng.normal(size=5).astype(ml_dtypes.bfloat16),
        'kernel': rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        'transposed': rng.normal(size=(4, 3)).astype(np.float32).T,
        'scalar': np.array(0, np.int64),
        'empty': np.zeros((3, 0), np.float32),
        'not ascii é': np.ones(1, np.float32),
        'large': np.zeros(70_000, np.uint8),
    }
    path.write_bytes(torch_pickle.encode(arrays))
    for options in ({}, {'mmap': True}, {'weights_only': False}):
        loaded = torch.load(path, **{'weights_only': True, **options})
        assert type(loaded) is OrderedDict
        same({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}, loaded)
    for name, array in formats.read(path).tensors.items():
        assert array.tobytes() == arrays[name].tobytes()
    network = torch.nn.Linear(3, 3)
    path.write_bytes(torch_pickle.encode({'weight': arrays['transposed'][:, :3], 'bias': np.ones(3, 'f4')}))
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)
    np.testing.assert_array_equal(network.weight.detach().numpy(), arrays['transposed'][:, :3])


@pytest.mark.parametrize('new', [True, False])
def test_what_we_accept_of_a_damaged_file_torch_reads_alike(tmp_path, new):
    path = tmp_path / 'weights.pth'
    small = {'a': torch.arange(6.0).view(2, 3), 'b': torch.arange(6.0).view(2, 3).t(), 'c': torch.tensor([1, 2])}
    torch.save(small, path, _use_new_zipfile_serialization=new)
    data, accepted = path.read_bytes(), 0
    for how, mutant in mutants(data, 1000, seed=1):
        path.write_bytes(mutant)
        try:
            found = formats.read(path)
        except ValueError:
            continue
        accepted += 1
        loaded = torch.load(path, map_location=lambda storage, _: storage, weights_only=True)
        assert found.tensors.keys() == loaded.keys(), how
        same(found.tensors, loaded)
    assert accepted < (250 if new else 400)  # Of a zip, what says nothing of its members: permissions, padding.


def test_the_checked_in_files_are_torchs(tmp_path):
    folder = Path(__file__).parent.parent / 'weights' / 'torch_files'
    for path in sorted(folder.iterdir()):
        loaded = torch.load(path, weights_only=False)  # It knows no protocol 4 otherwise.
        with warnings.catch_warnings(action='ignore'):
            same(formats.read(path).tensors, loaded.get('state_dict', loaded))
    assert sum(os.path.getsize(path) for path in folder.iterdir()) < 20_000
