"""Our float files beside those of Keras (by TensorFlow's converter) and of torch (by its own exporter), same weights.

The libraries cannot share an environment, so the first two commands write files, and the last one times them:

    python -m benchmarks.exports_beside keras FOLDER    where tensorflow is installed
    python -m benchmarks.exports_beside torch FOLDER    where torch, timm and onnxscript are
    python -m benchmarks.exports_beside time FOLDER     where LiteRT and ONNX Runtime are
"""

import importlib
import sys
import warnings
from pathlib import Path

import numpy as np

from benchmarks.networks import PREPROCESSING, images, network, variables_of
from benchmarks.thread_time import interleaved, litert_call, onnx_call, quartiles
from benchmarks.worker import Case
from flaxmobile.weights import Model

FOUR = ('mobilenetv1_100', 'mobilenetv2_100', 'mobilenetv3_large_100', 'mobilenetv3_small_100')
NETWORKS = {'keras': FOUR, 'torch': (*FOUR, 'mobilenetv4_conv_small', 'mobilenetv4_hybrid_medium')}
CONVENTIONS = {'keras': 'tensorflow', 'torch': 'torch'}
WRITERS = {'keras': ('keras_contenders', 'litert_file', '.tflite'), 'torch': ('torch_contenders', 'onnx_file', '.onnx')}
ERROR = 1e-4
"""Largest difference between the files' answers, as a share of the largest answer."""
UNSTABLE = ('mobilenetv4_hybrid_medium',)
"""Networks whose attention makes of rounding another answer with these weights, so that answers are not compared."""


def write(peer: str, folder: Path) -> None:
    """The peer's files, by network."""
    module, function, suffix = WRITERS[peer]
    writer = getattr(importlib.import_module(f'benchmarks.{module}'), function)
    folder.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS[peer]:
        (folder / f'{name}{suffix}').write_bytes(writer(Case(name, 1, 1, CONVENTIONS[peer])))
        print(f'{name}{suffix}', flush=True)


def own_file(model: Model, suffix: str) -> bytes:
    """Our file, as `flaxmobile.export` makes it, without its comparison with JAX."""
    from flaxmobile.export.litert.conversion import convert
    from flaxmobile.export.onnx import onnx_model
    from flaxmobile.export.program import make_program

    program = make_program(model)
    return convert(program, {}) if suffix == '.tflite' else bytes(onnx_model(program).SerializeToString())


def compare(peer: str, name: str, folder: Path) -> None:
    """Print our milliseconds and theirs, and our time over theirs."""
    suffix = WRITERS[peer][2]
    module = network(Case(name, 1, 1, CONVENTIONS[peer]))
    model = Model(module, variables_of(module), PREPROCESSING)
    files = {'ours': own_file(model, suffix), 'theirs': (folder / f'{name}{suffix}').read_bytes()}
    image = images(1)
    if suffix == '.onnx':
        calls = {who: onnx_call(content, image.transpose(0, 3, 1, 2)) for who, content in files.items()}
    else:
        calls = {who: litert_call(content, image) for who, content in files.items()}
    ours, theirs = (np.asarray(call()) for call in calls.values())
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not error <= ERROR and name not in UNSTABLE:
        raise RuntimeError(f'{name}{suffix}: the answers are {error:.1e} apart, so these are two networks')
    times = interleaved(calls)
    told = ', '.join(f'{who} {quartiles(values)} ms' for who, values in times.items())
    print(f'{name}{suffix}: {told}, ours / {peer} {quartiles(times["ours"] / times["theirs"])}', flush=True)


def main() -> int:
    """Write a peer's files, or time ours beside them."""
    warnings.simplefilter('ignore')
    task, folder = sys.argv[1], Path(sys.argv[2])
    if task != 'time':
        write(task, folder / task)
        return 0
    for peer in NETWORKS:
        for path in sorted((folder / peer).iterdir()):
            compare(peer, path.stem, folder / peer)
    return 0


if __name__ == '__main__':
    sys.exit(main())
