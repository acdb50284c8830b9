"""A model into a file of any format, and a file into one of another."""

import dataclasses
import importlib.metadata
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from flaxmobile.files import check_free, write_whole
from flaxmobile.messages import printable, unknown
from flaxmobile.models.network import MobileNet
from flaxmobile.models.registry import create_model
from flaxmobile.quantization import Quantized
from flaxmobile.weights import keras_names, names, torch_names
from flaxmobile.weights.description import check_described, check_ours
from flaxmobile.weights.files import load_file
from flaxmobile.weights.formats import naming
from flaxmobile.weights.model import Model

Layout = Literal['timm', 'torchvision', 'keras']
TORCH_SUFFIXES = ('.pth', '.pt')
KERAS_SUFFIXES = ('.weights.h5', '.h5')
SUFFIXES = ('.safetensors', '.npz', *TORCH_SUFFIXES, *KERAS_SUFFIXES)


def save(path: str | Path, model: Model, *, layout: Layout | None = None, overwrite: bool = False) -> None:
    """What `Model.save` does."""
    path = Path(path)
    suffix = check_target(path, layout, overwrite=overwrite)
    if isinstance(model.module, Quantized):
        raise ValueError(
            f'{printable(path, None)}: the model was trained for int8, and files of weights hold float networks: '
            'export writes what it is'
        )
    if not model.name:
        raise ValueError(
            f'{printable(path, None)}: the model does not say its network: dataclasses.replace(model, name=...) gives '
            'it the registered name'
        )
    overrides = {**model.overrides, 'num_classes': model.num_classes}
    described = create_model(model.name, **overrides)
    with naming(path):
        check_described(model.module, described, model.name)
        if suffix == '.safetensors' and layout is None:
            check_ours(model, described)
    if suffix in KERAS_SUFFIXES:
        from flaxmobile.weights.formats import hdf5

        tensors, layers = keras_names.to_keras(model.variables, described), keras_names.file_layers(described)
        hdf5.write(path, tensors, layers, type(described).__name__)
    else:
        tensors = _named(model.variables, described, layout, torch=suffix in TORCH_SUFFIXES)
        with naming(path):
            write_whole(path, _encoder(suffix, layout, model, {'name': model.name, **overrides})(tensors))
    if suffix != '.safetensors' or layout is not None:
        warnings.warn(f'{printable(path, None)}: {_left_out(model)}', stacklevel=3)


def _left_out(model: Model) -> str:
    """What a file of tensors alone does not say of the model, and which file does."""
    labels = f', the names of the {model.num_classes:,} classes' if model.labels else ''
    return (
        f'holds tensors alone; not in it are the name of the network{labels}, and the preprocessing with the image '
        f'size of {model.preprocessing.image_size} pixels. A .safetensors file without layout keeps them'
    )


def check_target(path: str | Path, layout: Layout | None = None, *, overwrite: bool = False) -> str:
    """See that such a file may be written, before anything costly; its suffix.

    Raises:
        FileExistsError: it is there, and `overwrite` is not set, or it is a folder.
        ValueError: no such suffix or layout, or one that does not go with the other.
    """
    path = Path(path)
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        allowed = ', '.join(SUFFIXES)
        keras = '. (A .keras is a Keras program too: load an .h5 into keras.applications, and save that)'
        raise ValueError(
            f'{printable(path, None)}: the suffix says which format to write, and {path.suffix!r} is none of {allowed}'
            + (keras if path.suffix == '.keras' else '')
        )
    if layout is not None and layout not in get_args(Layout):
        raise ValueError(unknown('layout', layout, get_args(Layout)))
    others = {'keras': TORCH_SUFFIXES, 'timm': KERAS_SUFFIXES, 'torchvision': KERAS_SUFFIXES}
    if layout is not None and suffix in others[layout]:
        raise ValueError(
            f'{printable(path, None)}: {suffix} does not hold the names of {layout}: .safetensors and .npz hold any'
        )
    check_free(path, overwrite=overwrite)
    return suffix


def _named(variables: Mapping[str, Any], model: MobileNet, layout: Layout | None, torch: bool) -> dict[str, np.ndarray]:
    if layout == 'keras':
        return keras_names.to_keras(variables, model)
    if layout is None and not torch:
        return names.write(variables, names.SAME, model)
    return torch_names.to_torch(variables, model, layout)


def _encoder(
    suffix: str, layout: Layout | None, model: Model, described: Mapping[str, Any]
) -> Callable[[Mapping[str, np.ndarray]], bytes]:
    from flaxmobile.weights.formats import npz, safetensors_file, torch_pickle

    if suffix in TORCH_SUFFIXES:
        return torch_pickle.encode
    if suffix == '.npz':
        return npz.encode
    if layout is not None:
        return lambda tensors: safetensors_file.encode(tensors, {'format': 'np' if layout == 'keras' else 'pt'})
    description = {
        'flaxmobile': importlib.metadata.version('flaxmobile'),
        'model': dict(described),
        'classes': model.labels,
        'preprocessing': dataclasses.asdict(model.preprocessing),
    }
    return lambda tensors: safetensors_file.encode_ours(tensors, description)


def convert(
    source: str | Path,
    target: str | Path,
    network: str | None = None,
    *,
    layout: Layout | None = None,
    overwrite: bool = False,
    ignore_convention: bool = False,
    ema: bool = False,
) -> Model:
    """Write what a file holds in the format of `target`'s suffix; every number comes over unchanged.

    Args:
        source: a file of any format.
        target: see `Model.save`.
        network: the registered network of a file that does not say it; None: the only one that its tensors fit.
        layout: see `Model.save`.
        overwrite: replace a file that is there.
        ignore_convention: see `load_file`.
        ema: see `load_file`.

    Returns:
        What was written.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: see `load_file` and `Model.save`.
    """
    check_target(target, layout, overwrite=overwrite)
    with jax.enable_x64(True):  # So that float64 stays float64.
        model = load_file(source, network, ignore_convention=ignore_convention, ema=ema)
        model.save(target, layout=layout, overwrite=overwrite)
    return model
