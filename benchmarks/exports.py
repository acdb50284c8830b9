"""`python -m benchmarks.exports [NETWORK ...]`: every registered network in each format, held to `export_rules`.

Weights are seeded, with the batch statistics of the images that the files are compared on. Each network is a process.
Results go into `benchmarks/results/exports.json` as they come, and from there into the table of `docs/exports.md`.
Networks that have a result are passed over, so a run that broke off goes on; those that are named are run again.
"""

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.export_rules import depthwise_in, faults, layers_of
from benchmarks.export_table import write_table
from benchmarks.random_variables import calibrated, random_variables
from benchmarks.timing import machine
from flaxmobile import list_models
from flaxmobile.compilation import keep_programs
from flaxmobile.data import Preprocessing
from flaxmobile.export import export
from flaxmobile.files import write_whole
from flaxmobile.models.registry import create_model, entry
from flaxmobile.weights import Model
from flaxmobile.weights.model import task_of

RESULTS = Path(__file__).parent / 'results' / 'exports.json'
FORMATS = ('.tflite', '.onnx', '.jax')
NARROW = {'mobilenetv5_300m': 0.25, 'mobilenetv5_300m_enc': 0.25}
"""Networks of 1.2 GB, which are tried at a part of their width."""
SQUARES = (1, 2, 4, 7, 8, 14, 28, 32)
"""Sides in pixels of the squares of one colour that the images are made of, so that they differ by more than noise."""
COMPARED = 2
"""Of the images, those that files are compared on."""


def prepared(name: str) -> tuple[Model, np.ndarray]:
    """A registered network with seeded weights, and images that its statistics are of, uint8 `[images, ...]`."""
    fields = {'width_multiplier': NARROW[name]} if name in NARROW else {}
    network, side = create_model(name, **fields), entry(name).image_size
    preprocessing = Preprocessing(side)
    pixels = squares(side)
    variables = random_variables(network, (1, side, side, 3))
    if network.norm == 'batch':
        _, variables = calibrated(network, variables['params'], preprocessing.normalize(pixels))
    held = jax.tree.map(np.asarray, variables)
    return Model(network, held, preprocessing, None, task_of(network), name, fields), pixels


def squares(side: int) -> np.ndarray:
    """Images of coloured squares, uint8 `[images, side, side, 3]`."""
    rng, images = np.random.default_rng(0), []
    for square in SQUARES:
        count = -(-side // square)
        colours = rng.integers(0, 256, (count, count, 3), np.uint8)
        images.append(colours.repeat(square, 0).repeat(square, 1)[:side, :side])
    return np.stack(images)


def measured(name: str) -> dict[str, Any]:
    """What there is to say of a network's files, fit for JSON; run as a process of its own."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # What they say stands in the result.
        keep_programs(Path(folder))  # The model's answer is the same program for each format.
        model, pixels = prepared(name)
        layers, formats = layers_of(model), {}
        for suffix in FORMATS:
            start = time.monotonic()
            check = export(model, Path(folder) / f'{name}{suffix}', images=pixels[-COMPARED:])
            formats[suffix] = {
                'error': check.error,
                'size': check.size,
                'operations': dict(check.operations),
                'depthwise': depthwise_in(check),
                'partitions': check.partitions,
                'left_out': dict(check.left_out),
                'faults': faults(check, layers),
                'seconds': round(time.monotonic() - start, 1),
            }
            check.path.unlink()
    side, width = model.preprocessing.image_size, NARROW.get(name)
    return {
        'date': str(datetime.date.today()),
        'image_size': side,
        'width': width,
        **dataclasses.asdict(layers),
        'formats': formats,
    }


def read_results() -> dict[str, Any]:
    """What is known by now, by network, in the registry's order."""
    found = json.loads(RESULTS.read_text())['networks'] if RESULTS.exists() else {}
    return {name: found[name] for name in list_models() if name in found}


def run(name: str) -> dict[str, Any]:
    """`measured` in a process of its own, so that its memory goes with it."""
    spawned = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, spawned) as pool:
        return pool.submit(measured, name).result()


def main() -> int:
    """Run what has no result yet; 1 where a network has a fault."""
    parser = argparse.ArgumentParser('python -m benchmarks.exports', description=__doc__)
    parser.add_argument('networks', nargs='*', metavar='NETWORK')
    asked = parser.parse_args().networks
    for name in asked:
        entry(name)
    results = read_results()
    for name in asked or [name for name in list_models() if name not in results]:
        try:
            results[name] = run(name)
        except Exception as error:  # The others are run all the same.
            print(f'{name}: {error}', file=sys.stderr, flush=True)
            continue
        text = json.dumps({'machine': machine(), 'networks': {**read_results(), name: results[name]}}, indent=1)
        write_whole(RESULTS, f'{text}\n'.encode(), overwrite=True)
        print(f'{name}: {[each["faults"] for each in results[name]["formats"].values()]}', flush=True)
    write_table(read_results())
    wrong = [
        name
        for name in list_models()
        if name not in results or any(each['faults'] for each in results[name]['formats'].values())
    ]
    print(f'{len(list_models()) - len(wrong)} networks are right' + (f', not so: {", ".join(wrong)}' if wrong else ''))
    return int(bool(wrong))


if __name__ == '__main__':
    sys.exit(main())
