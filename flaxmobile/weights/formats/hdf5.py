"""Keras's files: legacy `.h5` of weights or of a whole model, `.weights.h5`, and `.keras`, a zip around the latter.

An HDF5 file has no checksums here: a flipped bit in an array of an `.h5` reads as its bytes say. A zip has.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from flaxmobile.files import write_whole
from flaxmobile.messages import listing, printable
from flaxmobile.weights.formats import File, plain_hdf5, strict_zip
from flaxmobile.weights.formats.keras_layers import VARIABLES, KerasLayer
from flaxmobile.weights.formats.plain_hdf5.source import NotReadError

MEMBER = 'model.weights.h5'
TRAINING = frozenset({'optimizer', 'optimizer_weights'})
NUMBER = re.compile(r'_\d+$')


def read(path: Path) -> File:
    """The weights in a Keras file by layer and variable, `block_1_expand/kernel`; an optimiser's state is left out.

    An older `.weights.h5` does not name its layers: they come by class and number, `conv2d_3/kernel`.

    Raises:
        ValueError: it is damaged or no file of Keras's weights, or holds what Keras does not write there.
        OSError: the file cannot be read.
    """
    with path.open('rb') as file:
        if file.read(2) != b'PK':
            return File('keras', _tensors(file, path))
    members = strict_zip.members(path)
    if MEMBER not in members:
        raise ValueError(
            f'{printable(path, None)}: no {MEMBER} in it, which a .keras file has; it holds {listing(sorted(members))}'
        )
    return File('keras', _tensors(members[MEMBER], path))


def _tensors(content: BinaryIO | memoryview, path: Path) -> dict[str, np.ndarray]:
    tensors: dict[str, np.ndarray] = {}
    try:
        for array in plain_hdf5.arrays(content, TRAINING):
            name = _name(array.path, array.group_name)
            if name in tensors:
                raise ValueError(f'it holds {printable(name)} twice')
            if 'seed_generator' not in array.path:
                tensors[name] = array.values
    except NotReadError as error:
        raise ValueError(f'{printable(path, None)}: {error}') from error
    except ValueError as error:
        raise ValueError(f'{printable(path, None)}: damaged, or not a file of Keras weights: {error}') from error
    if not tensors:
        raise ValueError(f'{printable(path, None)}: no Keras weights in it')
    return tensors


def _name(where: tuple[str, ...], layer: str) -> str:
    """Layer and variable of an array in either of Keras's layouts."""
    *groups, leaf = where
    if groups and groups[-1] == 'vars':
        kind = groups[-2] if len(groups) > 1 else ''
        variables = VARIABLES.get(NUMBER.sub('', kind), ())
        fits = leaf.isdecimal() and int(leaf) < len(variables)
        return f'{layer or kind}/{variables[int(leaf)] if fits else leaf}'
    variable = leaf.removesuffix(':0')
    return f'{_layer(groups)}/{"kernel" if variable == "depthwise_kernel" else variable}'


def _layer(groups: list[str]) -> str:
    """The layer in a legacy path: `LAYER/LAYER`, `LAYER/MODEL/LAYER`, or of a model within, `MODEL/LAYER`."""
    groups = groups[1:] if groups[:1] == ['model_weights'] else groups
    for length in range(len(groups) // 2, 0, -1):
        if groups[:length] == groups[-length:]:
            return '/'.join(groups[:length])
    return '/'.join(groups[1:])


def write(path: Path, tensors: Mapping[str, np.ndarray], layers: Sequence[KerasLayer], title: str) -> None:
    """Write a file that Keras's `load_weights` takes: `.weights.h5`, or else legacy `.h5`.

    Args:
        path: of the file.
        tensors: arrays by layer and variable, `block_1_expand/kernel`.
        layers: those of Keras's network, in its order.
        title: of the network, for messages.

    Raises:
        ValueError: a tensor is of none of the layers.
    """
    import h5py

    order = {f'{layer.name}/{variable}' for layer in layers for variable in VARIABLES[layer.kind]}
    foreign = sorted(tensors.keys() - order)
    if foreign:
        raise ValueError(f'{printable(path, None)}: not among the Keras names of {title}: {listing(foreign)}')
    buffer = io.BytesIO()
    with h5py.File(buffer, 'w') as file:
        (_write_named if path.name.endswith('.weights.h5') else _write_legacy)(file, tensors, layers)
    write_whole(path, buffer.getvalue())


def _write_legacy(file: Any, tensors: Mapping[str, np.ndarray], layers: Sequence[KerasLayer]) -> None:
    file.attrs['layer_names'] = [layer.name.encode() for layer in layers]
    file.attrs['backend'] = b'tensorflow'
    file.attrs['keras_version'] = b'3.0.0'
    for layer in layers:
        group = file.create_group(layer.name)
        names = [f'{layer.name}/{variable}' for variable in VARIABLES[layer.kind]]
        names = [name for name in names if name in tensors]
        group.attrs['weight_names'] = [name.encode() for name in names]
        for name in names:
            group.create_dataset(name, data=tensors[name])


def _write_named(file: Any, tensors: Mapping[str, np.ndarray], layers: Sequence[KerasLayer]) -> None:
    for layer in layers:
        group = file.create_group(f'layers/{layer.ordinal}/vars')
        group.attrs['name'] = layer.name
        for number, variable in enumerate(VARIABLES[layer.kind]):
            if f'{layer.name}/{variable}' in tensors:
                array = tensors[f'{layer.name}/{variable}']
                dataset = group.create_dataset(str(number), data=array)
                if array.dtype == ml_dtypes.bfloat16:
                    dataset.attrs['dtype'] = 'bfloat16'
