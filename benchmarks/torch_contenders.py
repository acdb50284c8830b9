"""timm's networks in torch with our variables, and ONNX Runtime on what torch exports."""

import os
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from torch.nn.functional import cross_entropy

from benchmarks.networks import images, labels, network, variables_of
from benchmarks.worker import Case, Unavailable
from flaxmobile.weights import to_torch

Build = tuple[Callable[[], Any], np.ndarray]


def twin(case: Case, layout: str = 'contiguous_format') -> torch.nn.Module:
    """timm's network of the case with our variables, in evaluation."""
    torch.set_num_threads(case.threads)
    model = network(case)
    arrays = to_torch(variables_of(model), model)
    twin = timm.create_model(case.network)
    twin.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    return twin.eval().to(memory_format=getattr(torch, layout))


def batch_of(case: Case, layout: str = 'contiguous_format') -> torch.Tensor:
    """The images as torch has them, `[batch, channels, height, width]`."""
    return torch.from_numpy(images(case.batch).transpose(0, 3, 1, 2).copy()).to(memory_format=getattr(torch, layout))


def inference(case: Case, layout: str = 'contiguous_format', compiled: bool = False) -> Build:
    """Eager or by `torch.compile`, in a layout that torch names."""
    infer, batch = torch.inference_mode()(_forward(twin(case, layout), compiled)), batch_of(case, layout)
    return partial(infer, batch), infer(batch).numpy()


def _forward(twin: torch.nn.Module, compiled: bool) -> Any:
    if compiled and not shutil.which(os.environ.get('CXX', 'g++')):
        raise Unavailable('torch.compile needs a C++ compiler: there is no g++')
    return torch.compile(twin) if compiled else twin


def training(case: Case, layout: str = 'contiguous_format', compiled: bool = False) -> Build:
    """A step of SGD with momentum, eager or by `torch.compile`, in a layout that torch names."""
    network = twin(case, layout).train()
    forward, batch, targets = _forward(network, compiled), batch_of(case, layout), torch.from_numpy(labels(case.batch))
    targets = targets.long()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(forward(batch), targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, step().numpy()


def per_example(case: Case) -> Build:
    """Each image's own gradient by `torch.func`; the outcome is their norms."""
    network, batch, targets = twin(case), batch_of(case), torch.from_numpy(labels(case.batch)).long()
    params = {name: value.detach() for name, value in network.named_parameters()}

    def loss(params: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return cross_entropy(torch.func.functional_call(network, params, (image[None],)), label[None])

    work = partial(torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0)), params, batch, targets)
    squares = [gradient.flatten(1).square().sum(1) for gradient in work().values()]
    return work, torch.stack(squares).sum(0).sqrt().numpy()


def onnx_file(case: Case) -> bytes:
    """torch's export of timm's network."""
    program = torch.onnx.export(twin(case), (batch_of(case),), dynamo=True, verbose=False)
    content: bytes = program.model_proto.SerializeToString()  # type: ignore[union-attr]
    return content


def onnx_inference(case: Case) -> Build:
    """ONNX Runtime on torch's export."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = case.threads, 1
    session = onnxruntime.InferenceSession(onnx_file(case), options, providers=['CPUExecutionProvider'])
    fed = {session.get_inputs()[0].name: batch_of(case).numpy()}
    return lambda: session.run(None, fed), np.asarray(session.run(None, fed)[0])
