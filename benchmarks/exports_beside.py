"""Our float files beside those of Keras (by TensorFlow's converter) and of torch (by its own exporter), same weights.

The libraries cannot share an environment, so the first two commands write files, and the last one times them:

    python -m benchmarks.exports_beside keras FOLDER    where tensorflow is installed
    python -m benchmarks.exports_beside torch FOLDER    where torch, timm and onnxscript are
    python -m benchmarks.exports_beside time FOLDER     where LiteRT and ONNX Runtime are
"""

import importlib
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

from benchmarks.networks import PREPROCESSING, images, network, variables_of
from benchmarks.thread_time import interleaved, litert_call, onnx_call, quartiles
from benchmarks.worker import Case

FOUR = ('mobilenetv1_100', 'mobilenetv2_100', 'mobilenetv3_large_100', 'mobilenetv3_small_100')
NETWORKS = {'keras': FOUR, 'torch': (*FOUR, 'mobilenetv4_conv_small', 'mobilenetv4_hybrid_medium')}
CONVENTIONS = {'keras': 'tensorflow', 'torch': 'torch'}
WRITERS = {'keras': ('keras_contenders', 'litert_file', '.tflite'), 'torch': ('torch_contenders', 'onnx_file', '.onnx')}
ERROR = 1e-4
"""Largest difference between the files' answers, as a share of the largest answer."""


def write(peer: str, folder: Path) -> None:
    """The peer's files, by network."""
    module, function, suffix = WRITERS[peer]
    writer = getattr(importlib.import_module(f'benchmarks.{module}'), function)
    folder.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS[peer]:
        (folder / f'{name}{suffix}').write_bytes(writer(Case(name, 1, 1, CONVENTIONS[peer])))
        print(f'{name}{suffix}', flush=True)


def compare(peer: str, name: str, folder: Path) -> None:
    """Print our milliseconds and theirs, and our time over theirs."""
    from flaxmobile.export import export
    from flaxmobile.weights import Model

    suffix = WRITERS[peer][2]
    module = network(Case(name, 1, 1, CONVENTIONS[peer]))
    model = Model(module, variables_of(module), PREPROCESSING)
    with tempfile.TemporaryDirectory() as own:
        export(model, Path(own) / f'ours{suffix}')
        files = {'ours': Path(own) / f'ours{suffix}', 'theirs': folder / f'{name}{suffix}'}
        image = images(1)
        if suffix == '.onnx':
            calls = {who: onnx_call(path.read_bytes(), image.transpose(0, 3, 1, 2)) for who, path in files.items()}
        else:
            calls = {who: litert_call(path.read_bytes(), image) for who, path in files.items()}
    ours, theirs = (np.asarray(call()) for call in calls.values())
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    if not error <= ERROR:
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
    for peer, names in NETWORKS.items():
        for name in names:
            compare(peer, name, folder / peer)
    return 0


if __name__ == '__main__':
    sys.exit(main())
